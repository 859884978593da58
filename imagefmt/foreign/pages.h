/* A small cache of pages of a source: for tables that are too large to be loaded as a whole. */
#ifndef FERRY_IMAGEFMT_FOREIGN_PAGES_H
#define FERRY_IMAGEFMT_FOREIGN_PAGES_H

#include "imagefmt/foreign/disk.h"

struct pages;

/* source must outlive it.  256 KiB, whatever the source's size. */
int pages_create(struct source *source, struct pages **out, struct ferry_error *err);
void pages_destroy(struct pages *pages); /* NULL is fine */
/* As source->pread; by several threads at once. */
int pages_read(struct pages *pages, uint64_t offset, void *data, size_t size,
               struct ferry_error *err);

#endif

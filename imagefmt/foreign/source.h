/* Sources of bytes (disk.h): a file or block device, a part of another source, memory. */
#ifndef FERRY_IMAGEFMT_FOREIGN_SOURCE_H
#define FERRY_IMAGEFMT_FOREIGN_SOURCE_H

#include "imagefmt/foreign/disk.h"

/*
 * fd stays the caller's, must stay open, and is only used at explicit offsets; its holes are told
 * by next_data.  about is copied.  Errors: FERRY_USAGE if it is neither a file nor a block device.
 */
int source_of_fd(int fd, const char *about, struct source **out, struct ferry_error *err);
/* Bytes offset to offset + size of whole, which must outlive it; FERRY_REFUSED if they are not all
 * there. */
int source_of_part(struct source *whole, uint64_t offset, uint64_t size, struct source **out,
                   struct ferry_error *err);
/* data stays the caller's. */
int source_of_memory(const void *data, size_t size, const char *about, struct source **out,
                     struct ferry_error *err);
void source_close(struct source *source);    /* NULL is fine */
void source_cleanup(struct source **source); /* CLEANUP(source_cleanup) */

#endif

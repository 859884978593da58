/* Finding a format: by its name, by what a file is called, by what is in it. */
#ifndef FERRY_IMAGEFMT_FOREIGN_FORMATS_H
#define FERRY_IMAGEFMT_FOREIGN_FORMATS_H

#include "imagefmt/foreign/disk.h"

/* NULL: there is none. */
const struct disk_format *disk_format_by_name(const char *name);      /* "qcow2" */
const struct disk_format *disk_format_by_extension(const char *path); /* "a/b.qcow2" */
/* The format whose marks source bears; *out is NULL if it bears none, as a raw disk does, whose
 * guest may on the other hand have written the marks of any.  Marks of what is not read here
 * (a gzip file, an archive) are FERRY_REFUSED: such a thing is not raw by guess. */
int disk_format_probe(struct source *source, const struct disk_format **out,
                      struct ferry_error *err);

#endif

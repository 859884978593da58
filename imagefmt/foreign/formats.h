/* Finding a format: by its name, by what a file is called, by what is in it. */
#ifndef FERRY_IMAGEFMT_FOREIGN_FORMATS_H
#define FERRY_IMAGEFMT_FOREIGN_FORMATS_H

#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/wrap.h"

/* NULL: there is none. */
const struct disk_format *disk_format_by_name(const char *name);      /* "qcow2" */
const struct disk_format *disk_format_by_extension(const char *path); /* "a/b.qcow2" */

/* What a file is recognised by: its first and last bytes. */
struct disk_marks {
    uint8_t head[DISK_PROBE_HEAD_BYTES], tail[DISK_PROBE_TAIL_BYTES];
    size_t head_bytes, tail_bytes; /* tail_bytes: 0 if they are not known */
};

int disk_marks_read(struct source *source, struct disk_marks *marks, struct ferry_error *err);
/*
 * The format whose marks these are; *out is NULL if they are none's, as a raw disk bears none,
 * whose guest may on the other hand have written the marks of any.  *wrap: instead of a format,
 * what the file as a whole is compressed with.  Marks of what is not read here (an archive), and
 * with wrap NULL also those of a wrap, are FERRY_REFUSED: such a thing is not raw by guess.
 */
int disk_format_of(const struct disk_marks *marks, const char *about, enum wrap_kind *wrap,
                   const struct disk_format **out, struct ferry_error *err);
/* The same of source, which is not in a wrap. */
int disk_format_probe(struct source *source, const struct disk_format **out,
                      struct ferry_error *err);

#endif

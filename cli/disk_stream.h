/* Disks that are read in order: from pipes, and in compressed files.  Of disk_file.c. */
#ifndef FERRY_CLI_DISK_STREAM_H
#define FERRY_CLI_DISK_STREAM_H

#include "cli/disk_file.h"
#include "imagefmt/foreign/formats.h"

/* disk_file.c: the format by these marks and options, or (*out is NULL) the wrap by its marks. Both
 * are there if the format is stated. */
int disk_file_choose(const struct disk_marks *marks, const char *about,
                     const struct disk_file_options *options, enum wrap_kind *wrap,
                     const struct disk_format **out, struct ferry_error *err);

/* out has been looked at. */
int disk_stream_open_pipe(const struct disk_file_options *options, struct disk_file *out,
                          struct ferry_error *err);
/* out has a source, which is a wrap of this kind.  What is raw or a fixed VHD, and not of a stated
 * size, is read twice, the first time for its size. */
int disk_stream_open_wrapped(enum wrap_kind wrap, const struct disk_file_options *options,
                             struct disk_file *out, struct ferry_error *err);

#endif

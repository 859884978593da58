/* A machine for tests of bundles: its description, disks and files, and what came back compared. */
#ifndef FERRY_TESTS_SUPPORT_BUNDLE_SAMPLE_H
#define FERRY_TESTS_SUPPORT_BUNDLE_SAMPLE_H

#include "imagefmt/foreign/bundle.h"

#define SAMPLE_DISKS 3

struct bundle_sample {
    struct guest guest;
    int raw[LIMIT_DISKS]; /* memfds */
    struct source *sources[LIMIT_DISKS];
    struct disk *disk; /* that is open */
    struct source *files[GUEST_FILE_KINDS];
    struct bundle_content content;
};

/* Three disks: with holes and an odd size (unless sectors: whole ones), two that are equal; a
 * firmware with variables.  kernel: also a kernel and an initrd. */
void bundle_sample_init(struct bundle_sample *sample, bool kernel, bool sectors);
/* One more disk; the sample owns the memfd. */
void bundle_sample_add(struct bundle_sample *sample, int raw);
void bundle_sample_free(struct bundle_sample *sample);

/* Write it into a new memfd; piped: in order only. */
int bundle_sample_to_file(const struct bundle_sample *sample, const struct bundle_format *format,
                          const struct bundle_write_options *options, bool piped);
/* Into a folder, a new one, whose path is put into path. */
int bundle_sample_to_folder(const struct bundle_sample *sample, const struct bundle_format *format,
                            const struct bundle_write_options *options, char path[64]);
/* An empty new folder, open; and gone with all that is in it. */
int bundle_sample_folder(char path[64]);
void bundle_sample_remove(const char *path);

/* Open a file (memfd) or folder: 0, or what went wrong. */
int bundle_sample_open_file(int fd, const struct bundle_format *format, struct source **source,
                            struct bundle **bundle, struct ferry_error *err);
int bundle_sample_open_folder(int fd, const struct bundle_format *format, struct bundle **bundle,
                              struct ferry_error *err);
/* All disks and files are those of the sample; 0, or what next_disk, reading or finish said. */
int bundle_sample_compare(const struct bundle_sample *sample, struct bundle *bundle,
                          struct ferry_error *err);
/* Read all, whatever it is, and finish: 0, or the first error. */
int bundle_sample_drain(struct bundle *bundle, struct ferry_error *err);
/* A shell command, which must succeed. */
void bundle_sample_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif

/* A machine for tests of bundles: its description, disks and files, and what came back compared. */
#ifndef FERRY_TESTS_SUPPORT_MACHINE_FILES_H
#define FERRY_TESTS_SUPPORT_MACHINE_FILES_H

#include "imagefmt/foreign/bundle.h"

#define SAMPLE_DISKS 3

struct machine_files {
    struct guest guest;
    int raw[LIMIT_DISKS]; /* memfds */
    struct source *sources[LIMIT_DISKS];
    struct disk *disk; /* that is open */
    struct source *files[GUEST_FILE_KINDS];
    struct bundle_content content;
};

/* Three disks: with holes and an odd size (unless sectors: whole ones), two that are equal; a
 * firmware with variables.  kernel: also a kernel and an initrd. */
void machine_files_init(struct machine_files *sample, bool kernel, bool sectors);
/* One more disk; the sample owns the memfd. */
void machine_files_add(struct machine_files *sample, int raw);
void machine_files_free(struct machine_files *sample);

/* Write it into a new memfd; piped: in order only. */
int machine_files_to_file(const struct machine_files *sample, const struct bundle_format *format,
                          const struct bundle_write_options *options, bool piped);
/* Into a folder, a new one, whose path is put into path. */
int machine_files_to_folder(const struct machine_files *sample, const struct bundle_format *format,
                            const struct bundle_write_options *options, char path[64]);
/* An empty new folder, open; and gone with all that is in it. */
int machine_files_folder(char path[64]);
void machine_files_remove(const char *path);

/* Open a file (memfd) or folder: 0, or what went wrong. */
int machine_files_open_file(int fd, const struct bundle_format *format, struct source **source,
                            struct bundle **bundle, struct ferry_error *err);
int machine_files_open_folder(int fd, const struct bundle_format *format, struct bundle **bundle,
                              struct ferry_error *err);
/* All disks and files are those of the sample; 0, or what next_disk, reading or finish said. */
int machine_files_compare(const struct machine_files *sample, struct bundle *bundle,
                          struct ferry_error *err);
/* Read all, whatever it is, and finish: 0, or the first error. */
int machine_files_drain(struct bundle *bundle, struct ferry_error *err);
/* A shell command, which must succeed. */
void machine_files_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif

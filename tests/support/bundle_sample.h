/* Bundles for tests: a machine with two disks and files, written to and read from all there is. */
#ifndef FERRY_TESTS_SUPPORT_BUNDLE_SAMPLE_H
#define FERRY_TESTS_SUPPORT_BUNDLE_SAMPLE_H

#include "imagefmt/foreign/bundle.h"

#define BUNDLE_SAMPLE_DISKS 2

struct bundle_sample {
    struct guest guest;
    struct bundle_content content;
    int raw[BUNDLE_SAMPLE_DISKS];
    struct source *raw_source;
    struct disk *disk;                                 /* at hand */
    uint8_t digest[BUNDLE_SAMPLE_DISKS][SHA256_BYTES]; /* as sectors */
    uint64_t size[BUNDLE_SAMPLE_DISKS];                /* the same */
};

/* How a bundle is read. */
enum bundle_sample_way {
    BUNDLE_AT_RANDOM,
    BUNDLE_IN_ORDER,
    BUNDLE_FOLDER,
};

/* With disks of 5 MiB and a bit and of 70 MiB; kernel, initrd: also files for a direct start. */
void bundle_sample_open(struct bundle_sample *s, bool kernel);
void bundle_sample_close(struct bundle_sample *s);
/* Into an empty file, in order if so said, or into a folder; 0, or the error. */
int bundle_sample_write(struct bundle_sample *s, const struct bundle_format *format, int fd,
                        bool in_order, const struct bundle_write_options *options,
                        struct ferry_error *err);
/*
 * Open, read all disks and finish.  expected: what must come out if that succeeds; NULL: anything.
 * notes: NULL, or the bundle's, for the caller to release.
 */
int bundle_sample_read(const struct bundle_format *format, int fd, enum bundle_sample_way way,
                       const struct bundle_sample *expected, json_t **notes,
                       struct ferry_error *err);
/* It must be refused with these words. */
void bundle_sample_refuse(const struct bundle_format *format, int fd, enum bundle_sample_way way,
                          const char *says);
/* Is there a note with these words? */
bool bundle_sample_noted(const json_t *notes, const char *says);

#endif

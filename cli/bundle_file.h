/* A bundle named on the command line: a file, a folder, the description in a folder, a pipe. */
#ifndef FERRY_CLI_BUNDLE_FILE_H
#define FERRY_CLI_BUNDLE_FILE_H

#include "cli/disk_url.h"
#include "common/progress.h"
#include "imagefmt/foreign/bundle.h"

#define BUNDLE_STREAMS 4 /* one upon the other: bytes, looked at, inflated, looked at */

struct bundle_file {
    int fd;
    char *description;     /* its name in the folder */
    struct source *packed; /* the compressed file that is read in order */
    struct stream *streams[BUNDLE_STREAMS];
    unsigned stream_count;
    struct bundle_input input;
    struct bundle *bundle;
};

#define BUNDLE_FILE_NONE ((struct bundle_file){.fd = -1, .input.folder_fd = -1})

/*
 * path: '-' is stdin; or a URL, read by url.  from: the format's name; NULL: by its marks, and if
 * it has none, or those of a disk, out->bundle is NULL and 0 is returned.  A gzip'd bundle is read
 * in order.  path outlives it.
 */
int bundle_file_open(const char *path, const char *from, const struct disk_url_options *url,
                     struct bundle_file *out, struct ferry_error *err);
void bundle_file_close(struct bundle_file *file); /* also the cleanup function */

/* The format of this name: FERRY_USAGE with all names if there is none. */
int bundle_file_format(const char *option, const char *name, const struct bundle_format **out,
                       struct ferry_error *err);

/*
 * Read a bundle that was just written back: its disks are `count`, and their content has these
 * digests.  FERRY_FAILED if not.
 */
int bundle_file_verify(const struct bundle_input *input, const struct bundle_format *format,
                       uint32_t count, const uint8_t digests[LIMIT_DISKS][SHA256_BYTES],
                       struct progress *progress, struct ferry_error *err);

#endif

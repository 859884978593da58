/* Writing a disk in another format: what convert does, and export of a single disk. */
#ifndef FERRY_CLI_CONVERT_DISK_H
#define FERRY_CLI_CONVERT_DISK_H

#include "cli/disk_url.h"
#include "cli/image_file.h"
#include "cli/options.h"
#include "cli/progress.h"

/* As on the command line of convert. */
struct convert_cli {
    const char *source, *dest, *from, *to, *subformat, *wrap, *codec, *disk;
    struct option_strings external;
    struct image_file_options image;
    struct disk_url_options url;
    uint64_t size_bytes, level, cluster_bytes;
    bool verify, check_only, json, resume;
    struct progress_options progress;
    bool running; /* source is a machine that runs */
};

/* Do it, and print the result.  Errors as those of a command. */
int convert_disk(const struct convert_cli *cli, struct ferry_error *err);

#endif

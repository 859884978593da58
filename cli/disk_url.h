/* Disks on web servers, as commands that read disks take them. */
#ifndef FERRY_CLI_DISK_URL_H
#define FERRY_CLI_DISK_URL_H

#include "cli/options.h"
#include "imagefmt/foreign/disk.h"

/* A member of a command's parsed struct, and its lines of the table. */
struct disk_url_options {
    const char *cacert;
    uint64_t timeout_ns;
};

#define DISK_URL_OPTIONS(S, M)                                                                   \
    OPTION("cacert", "FILE", OPTION_STRING, S, M.cacert,                                         \
           "of an https:// URL: trust the authorities in FILE (PEM),\nand no others"),           \
        OPTION("timeout", "TIME", OPTION_DURATION, S, M.timeout_ns,                              \
               "of a URL: give a connection up that brings nothing for so\nlong, and try again " \
               "(default: 30s)")

/*
 * The URL of an image is refused, as those are read from files; raw: the user says that it is a
 * disk, whatever it looks like.  Errors as source_of_http's.
 */
int disk_url_open(const char *url, const struct disk_url_options *options, bool raw,
                  struct source **out, struct ferry_error *err);

#endif

/* A disk named on the command line, in whichever format it is. */
#ifndef FERRY_CLI_DISK_FILE_H
#define FERRY_CLI_DISK_FILE_H

#include "cli/options.h"
#include "imagefmt/chain.h"
#include "imagefmt/foreign/disk.h"

struct disk_file {
    int fd;
    struct source *source;
    struct disk *disk;
    struct disk_file *external; /* what it builds on; NULL: nothing */
};

#define DISK_FILE_NONE ((struct disk_file){.fd = -1})

struct disk_file_options {
    const char *from; /* the format's name; NULL: by its marks, raw if it has none */
    const struct option_strings
        *external;        /* the file it may build on, that one's and so on; NULL */
    size_t external_used; /* of these, for the files above it */
    bool images;          /* also the disk of an image; env and the name of the file outlive it */
    const char *disk;     /* its name in the image; NULL: the only one */
    const struct image_environment *env;
};

/* file: a path, or "-" for what stdin is redirected from.  command: for messages. */
int disk_file_open(const char *command, const char *file, const struct disk_file_options *options,
                   struct disk_file *out, struct ferry_error *err);
/* The same of a descriptor, which stays the caller's. */
int disk_file_open_fd(int fd, const char *about, const struct disk_file_options *options,
                      struct disk_file *out, struct ferry_error *err);
void disk_file_close(struct disk_file *file); /* CLEANUP(disk_file_close) */

/* The format of this name: FERRY_USAGE with all names if there is none. */
int disk_file_format(const char *option, const char *name, const struct disk_format **out,
                     struct ferry_error *err);

#endif

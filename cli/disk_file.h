/* A disk named on the command line, in whichever format it is. */
#ifndef FERRY_CLI_DISK_FILE_H
#define FERRY_CLI_DISK_FILE_H

#include "cli/disk_url.h"
#include "cli/options.h"
#include "imagefmt/chain.h"
#include "imagefmt/foreign/disk.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/wrap.h"

#define DISK_FILE_STREAMS 4 /* bytes, looked at, unwrapped, looked at */

struct disk_file {
    int fd;
    struct source *source; /* of a file */
    struct stream *streams[DISK_FILE_STREAMS];
    unsigned stream_count;
    struct stream_head head; /* of the last stream, if it was looked at */
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
    uint64_t size_bytes; /* of a disk in order that does not tell; 0: not known */
    /* What it is wrapped in, if that is known; WRAP_NONE: by its marks, but with from "raw" these
     * are the disk's. */
    enum wrap_kind wrap;
    bool at_random; /* refuse one that is in_order */
    struct disk_url_options url;
};

/* file: a path, a URL, or "-" for stdin, a file or a pipe.  command: for messages. */
int disk_file_open(const char *command, const char *file, const struct disk_file_options *options,
                   struct disk_file *out, struct ferry_error *err);
/* The same of a descriptor of a file or block device, which stays the caller's. */
int disk_file_open_fd(int fd, const char *about, const struct disk_file_options *options,
                      struct disk_file *out, struct ferry_error *err);
/* The same of a pipe, in two steps: its head, by which the caller may choose another way; and the
 * disk. */
int disk_file_peek(int fd, const char *about, struct disk_file *out, struct ferry_error *err);
int disk_file_open_peeked(int fd, const char *about, const struct disk_file_options *options,
                          struct disk_file *out, struct ferry_error *err);
void disk_file_close(struct disk_file *file); /* CLEANUP(disk_file_close) */

/* Is fd a pipe, or whatever else is read in order only? */
bool disk_file_is_pipe(int fd);
/* The format of this name: FERRY_USAGE with all names if there is none. */
int disk_file_format(const char *option, const char *name, const struct disk_format **out,
                     struct ferry_error *err);

#endif

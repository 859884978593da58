/* A machine of ferry's that is to go out: in an image, or running. */
#ifndef FERRY_CLI_MACHINE_SOURCE_H
#define FERRY_CLI_MACHINE_SOURCE_H

#include "cli/running_disks.h"
#include "imagefmt/chain.h"
#include "imagefmt/foreign/bundle.h"
#include "snapshot/manifest.h"

struct machine_source {
    const char *path;
    const struct image_environment *env;
    struct image *image;          /* in a file, */
    struct image_stream *stream;  /* or in order, */
    struct running_disks running; /* perhaps of a machine that runs */
    struct manifest *manifest;
    struct guest guest;            /* as others are told of it */
    struct bundle_content content; /* for bundle_format.write */
    struct disk *disk;             /* of the file, handed out last */
    int file_fds[GUEST_FILE_KINDS];
};

#define MACHINE_SOURCE_NONE \
    ((struct machine_source){.running = RUNNING_DISKS_NONE, .file_fds = {-1, -1, -1}})

/*
 * The machine in the image at path.  path and env outlive it.  notes (array of strings) grows by
 * what of it is not part of a machine that is switched off.  It must not be copied.
 */
int machine_source_open(const char *path, const struct image_environment *env, json_t *notes,
                        struct machine_source *out, struct ferry_error *err);
/* The same of an image that comes through a pipe; fd stays the caller's, about and env outlive it.
 * Its disks can be read once, in order. */
int machine_source_open_stream(int fd, const char *about, const struct image_environment *env,
                               json_t *notes, struct machine_source *out, struct ferry_error *err);
/* The same of a machine that runs, and goes on; its disks are those of this instant. */
int machine_source_open_running(const char *name, const struct image_environment *env,
                                json_t *notes, struct machine_source *out, struct ferry_error *err);
/* When all was taken: was it as it should be?  Only then may it be used. */
int machine_source_finish(struct machine_source *source, struct ferry_error *err);
void machine_source_close(struct machine_source *source); /* also the cleanup function */

#endif

/*
 * From a machine to an image and back, whole: RAM, vCPUs, devices and disks of one instant.
 */
#ifndef FERRY_SNAPSHOT_SNAPSHOT_H
#define FERRY_SNAPSHOT_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/progress.h"
#include "imagefmt/chain.h"
#include "vmm/machine.h"

struct image;

struct snapshot_options {
    int level;                                  /* zstd level; 0: the default */
    uint32_t ram_chunk_bytes, disk_chunk_bytes; /* powers of two, 4 KiB to 4 MiB; 0: the defaults */
    unsigned workers;                           /* 0: one a CPU */
    const struct image_secret *secret;          /* seal the image with it; NULL: do not */
    struct image *base; /* write a child of it: chunk sizes are its own then; NULL: none */
    bool no_disks;      /* leave the disks' content out: a restore then needs the same disk files */
    /* snapshot_save_disks: the instant has passed, the guest goes on, and the machine may be used
     * but for releasing its disks or ending it.  On the calling thread; NULL: nobody is told. */
    void (*goes_on)(void *opaque);
    void *opaque;
    const char *kernel, *initrd; /* snapshot_save_disks: what it boots; NULL: nothing is known */
    uint64_t store_bytes; /* snapshot_save_disks: what the guest overwrites; 0: LIMIT_CBW_BYTES */
};

struct snapshot_result {
    uint64_t bytes;         /* of the image */
    uint64_t content_bytes; /* of RAM and disks, not zero, uncompressed */
    uint64_t pause_ns;      /* how long the guest stood still; 0 if it was paused before */
    uint64_t total_ns;
    uint64_t copied_bytes; /* snapshot_save_disks: overwritten by the guest before they were read */
    uint8_t root[SHA256_BYTES];
};

/*
 * Write the machine to path ("-" is not known here: give fd) through an atomic file.  A running
 * guest is paused for the duration and goes on afterwards, whatever the outcome.
 * snapshot_save_fd: the same to an open descriptor (pipe or file), which stays open.
 */
int snapshot_save(struct machine *machine, const char *path, const struct snapshot_options *options,
                  struct progress *progress, struct snapshot_result *result,
                  struct ferry_error *err);
int snapshot_save_fd(struct machine *machine, int fd, const struct snapshot_options *options,
                     struct progress *progress, struct snapshot_result *result,
                     struct ferry_error *err);

/* What a restore asks of its caller, who alone knows this host (DESIGN 4: constructor arguments).
 */
struct snapshot_host {
    void *opaque;
    /*
     * The manifest has been read: decide on a name, open the disks and create the machine.
     * disk_in_image[i]: the image holds the content of disk i.  config may be changed (name).
     */
    int (*create)(void *opaque, struct machine_config *config, const bool *disk_in_image,
                  struct machine **out, struct ferry_error *err);
    /*
     * Where content of disk `index` goes: sets *fd to an empty file to be filled at the right
     * offsets (zeroes are left out), or to -1 to skip it.  The fd stays the caller's.
     */
    int (*disk)(void *opaque, uint32_t index, int *fd, struct ferry_error *err);
};

struct restore_result {
    uint64_t bytes; /* of the image */
    uint64_t content_bytes;
    uint64_t load_ns;           /* from the first byte read to the machine complete */
    uint64_t saved_realtime_ns; /* CLOCK_REALTIME at the instant of the snapshot */
    uint8_t root[SHA256_BYTES];
};

/*
 * Read the whole image from fd (pipe or file), check every sum, and leave in *out a paused machine
 * that is complete but does not own its disks yet and has a new generation id.  On any error there
 * is no machine, and what `disk` handed out is to be thrown away by the caller.
 */
int snapshot_load(int fd, const char *about, const struct image_environment *env,
                  const struct snapshot_host *host, struct progress *progress, struct machine **out,
                  struct restore_result *result, struct ferry_error *err);

#endif

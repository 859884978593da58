/* A machine that is switched off, as an image: its description, its disks, what it boots. */
#ifndef FERRY_SNAPSHOT_PACK_H
#define FERRY_SNAPSHOT_PACK_H

#include "common/progress.h"
#include "snapshot/snapshot.h"
#include "vmm/block.h"
#include "vmm/config.h"

struct pack_request {
    /* Name, CPUs, memory, command line, disks.  What makes a machine this one and no other (ids,
     * epoch, CPUID) is not packed, so that equal requests make equal images. */
    const struct machine_config *config;
    struct block *const *disks; /* active, one for each of config's, and not written to meanwhile */
    const char *kernel, *initrd; /* files; NULL: none */
};

/*
 * Write the image to fd (pipe or file), which stays open.  options: level, chunks of disks,
 * workers. result: pause_ns is 0.  Errors: -ECANCELED when progress says so.
 */
int snapshot_pack(int fd, const struct pack_request *request,
                  const struct snapshot_options *options, struct progress *progress,
                  struct snapshot_result *result, struct ferry_error *err);

#endif

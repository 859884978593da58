/* What ferry run takes from the image of a machine that is switched off (pack.h). */
#ifndef FERRY_SNAPSHOT_UNPACK_H
#define FERRY_SNAPSHOT_UNPACK_H

#include "imagefmt/image.h"
#include "snapshot/manifest.h"
#include "vmm/config.h"

/* The manifest of an open image.  FERRY_REFUSED: damaged, or of something that is no machine. */
int unpack_manifest(struct image *image, const char *about, struct manifest *manifest,
                    struct ferry_error *err);

/*
 * The description of the machine, without CPUID and identity: machine_config_complete makes those.
 * FERRY_USAGE: it is one that runs, for ferry restore.  FERRY_REFUSED: damaged, or a disk that the
 * manifest promises is not there.
 */
int unpack_machine(struct image *image, const char *about, struct machine_config *config,
                   struct ferry_error *err);
/*
 * The file section of this name in a memfd, all of it checked: *fd is the caller's, -1 if there is
 * none.
 */
int unpack_file(struct image *image, const char *name, int *fd, struct ferry_error *err);

#endif

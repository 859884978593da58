/* A machine of ferry's as other hypervisors describe machines, and the reverse. */
#ifndef FERRY_SNAPSHOT_DESCRIBE_H
#define FERRY_SNAPSHOT_DESCRIBE_H

#include "imagefmt/foreign/guest.h"
#include "snapshot/manifest.h"

/*
 * What others are told of the machine.  has_kernel: it is started from a kernel that comes along;
 * otherwise, and if nothing else is known, it is taken to boot from its first disk by a BIOS.
 * File names are left empty.
 */
void describe_guest(const struct manifest *manifest, bool has_kernel, struct guest *guest);

/*
 * The machine, switched off, that a description makes here: a manifest for image_writer, disks in
 * the image, sizes rounded up to whole sectors.  notes (array of strings) grows by what was changed
 * or what ferry will not do with it.  has_kernel: one comes along.  Errors are FERRY_REFUSED.
 */
int describe_machine(const struct guest *guest, bool has_kernel, const char *about,
                     struct manifest *manifest, json_t *notes, struct ferry_error *err);

#endif

/* A machine from another hypervisor into an image of one that is switched off. */
#ifndef FERRY_SNAPSHOT_IMPORT_H
#define FERRY_SNAPSHOT_IMPORT_H

#include "imagefmt/foreign/bundle.h"
#include "snapshot/snapshot.h"

/* Where disks and files come from: a bundle, or one disk with a made-up description. */
struct import_source {
    const struct guest *guest; /* with the sizes of all disks */
    /* As bundle_format has it: 1 and a disk that is open until the next call, 0 at the end. */
    int (*next_disk)(void *opaque, uint32_t *index, struct disk **disk, struct ferry_error *err);
    /* Everything has been read: is it all as its sums say?  NULL: nothing to ask. */
    int (*finish)(void *opaque, struct ferry_error *err);
    /* Content of a file that came along; *data NULL: there is none.  Asked for before the first
     * disk and, if it was not there, again after finish.  NULL: there are none. */
    void (*file)(void *opaque, enum guest_file_kind kind, const uint8_t **data, size_t *size);
    bool has_kernel; /* one comes along */
    void *opaque;
    const char *about;
};

/* The source that reads an open bundle. */
struct import_source import_of_bundle(struct bundle *bundle);

/*
 * Write the image to fd (pipe or file), which stays open: manifest, disks in the order in which
 * they come, files.  What it holds is to be used only when this returns 0.  options: as
 * snapshot_pack.  notes (array of strings): what is not kept or will not be done.
 */
int snapshot_import(int fd, const struct import_source *source,
                    const struct snapshot_options *options, struct progress *progress,
                    struct snapshot_result *result, json_t *notes, struct ferry_error *err);

#endif

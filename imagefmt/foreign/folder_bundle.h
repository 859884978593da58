/*
 * Bundles that are a description and its disks as plain files, side by side: libvirt, VMware's
 * .vmx, Xen's xl, and the box of Vagrant, which has them in a tar.  One shape a format.  Private to
 * imagefmt/foreign/.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_FOLDER_BUNDLE_H
#define FERRY_IMAGEFMT_FOREIGN_FOLDER_BUNDLE_H

#include "imagefmt/foreign/bundle.h"

struct folder_shape {
    const struct bundle_format *format;
    const struct description_format *description;
    const char *description_name; /* NULL: the machine's name and the description's extension */
    const char *disk_stem;        /* of "disk0.qcow2"; NULL: "NAME-0.vmdk" */
    const char *disks[4];         /* formats that its disks may have, the usual one first */
    const char *codec;            /* the usual one; NULL: that of the disk's format */
    bool box; /* Vagrant's: a tar, with a Vagrantfile, and disks box.img, box_1.img ... */
};

int folder_bundle_losses(const struct folder_shape *shape, const struct bundle_content *content,
                         json_t *notes, struct ferry_error *err);
int folder_bundle_write(const struct folder_shape *shape, const struct bundle_output *output,
                        const struct bundle_content *content,
                        const struct bundle_write_options *options,
                        struct bundle_write_result *result, struct ferry_error *err);

int folder_bundle_open(const struct folder_shape *shape, const struct bundle_input *input,
                       struct bundle **out, struct ferry_error *err);
int folder_bundle_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                            struct ferry_error *err);
int folder_bundle_finish(struct bundle *bundle, struct ferry_error *err);
void folder_bundle_close(struct bundle *bundle);

#endif

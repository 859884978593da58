/*
 * A Vagrant box of the libvirt provider holds disks, a metadata.json and a Vagrantfile; the first
 * is description_vagrant, the second this.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_VAGRANT_H
#define FERRY_IMAGEFMT_FOREIGN_VAGRANT_H

#include "imagefmt/foreign/guest.h"

#define VAGRANT_METADATA "metadata.json"
#define VAGRANT_FILE     "Vagrantfile"
/* The name that a box with one disk had to give it, and that older versions still look for. */
#define VAGRANT_FIRST_DISK "box.img"

/* The Vagrantfile of a box, as description_format.write.  Kernel and initrd are looked for beside
 * it, by the names in guest->files. */
int vagrant_write_file(const struct guest *guest, json_t *notes, char **text, size_t *size,
                       struct ferry_error *err);

#endif

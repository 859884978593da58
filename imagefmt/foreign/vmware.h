/* What an OVF and a .vmx say in the same words: VMware's controllers, cards and guest systems. */
#ifndef FERRY_IMAGEFMT_FOREIGN_VMWARE_H
#define FERRY_IMAGEFMT_FOREIGN_VMWARE_H

#include "imagefmt/foreign/describe.h"

/* Where a disk is: the kind of controller (never virtio, which there is none for), which of that
 * kind, and the place on it. */
struct vmware_place {
    enum guest_bus bus;
    unsigned controller;
    unsigned unit;
};

/* Places for all disks in their order; what goes elsewhere than the guest says is noted. */
void vmware_place_disks(const struct guest *guest, struct vmware_place places[LIMIT_DISKS],
                        struct notes *notes);

struct vmware_os {
    const char *word; /* in a guest's os, in lower case */
    unsigned cim_id;  /* CIM_OperatingSystem.OSType, for OperatingSystemSection */
    const char *ovf;  /* vmw:osType */
    const char *vmx;  /* guestOS */
    /* The SCSI controller that it has a driver for, as an OVF and as a .vmx calls it. */
    const char *scsi_ovf;
    const char *scsi_vmx;
};

/* The one whose word is in os; "other" if none is. */
const struct vmware_os *vmware_os(const char *os);

/* "e1000", "vmxnet3" ... for the card of this model; what is another one is noted. */
const char *vmware_nic(const struct guest *guest, uint32_t index, struct notes *notes);

/* Notes about a kernel that is started directly, and about all that a hypervisor of this kind does
 * not do. */
void vmware_note_kernel(const struct guest *guest, struct notes *notes);

#endif

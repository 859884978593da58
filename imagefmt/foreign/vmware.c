/*
 * VMware's idea of hardware.  A virtio disk goes to a SATA controller: that is what every guest
 * system brings a driver for, and what VMware and VirtualBox both have.
 */
#include "imagefmt/foreign/vmware.h"

#include <string.h>
#include <strings.h>

#define IDE_DISKS 4 /* two controllers of two */

/* Newer Linuxes have no driver for the older controllers any more, Windows has none for this. */
#define PARAVIRTUAL "VirtualSCSI", "pvscsi"

/* How many disks one controller takes; SCSI and its own address, 7, aside. */
static unsigned disks_per_controller(enum guest_bus bus)
{
    switch (bus) {
    case GUEST_BUS_IDE:
        return 2;
    case GUEST_BUS_SCSI:
    case GUEST_BUS_NVME:
        return 15;
    default:
        return 30;
    }
}

void vmware_place_disks(const struct guest *guest, struct vmware_place places[LIMIT_DISKS],
                        struct notes *notes)
{
    unsigned used[GUEST_BUS_NVME + 1] = {0};
    bool virtio = false;

    for (uint32_t i = 0; i < guest->disk_count; i++) {
        enum guest_bus bus = guest->disks[i].bus;
        virtio = virtio || bus == GUEST_BUS_VIRTIO;
        if (bus == GUEST_BUS_IDE && used[bus] == IDE_DISKS)
            notes_add(notes, "disk %u is the fifth on IDE, and goes to a SATA controller", i + 1);
        if (bus == GUEST_BUS_VIRTIO || (bus == GUEST_BUS_IDE && used[bus] == IDE_DISKS))
            bus = GUEST_BUS_SATA;
        unsigned n = used[bus]++, per = disks_per_controller(bus);
        places[i] = (struct vmware_place){.bus = bus, .controller = n / per, .unit = n % per};
        if (bus == GUEST_BUS_SCSI && places[i].unit >= 7)
            places[i].unit++;
    }
    if (virtio)
        notes_add(notes, "there are no virtio disks: they are on a SATA controller");
}

const struct vmware_os *vmware_os(const char *os)
{
    static const struct vmware_os known[] = {
        {"debian", 96, "debian10_64Guest", "debian10-64", PARAVIRTUAL},
        {"ubuntu", 94, "ubuntu64Guest", "ubuntu-64", PARAVIRTUAL},
        {"red hat", 80, "rhel8_64Guest", "rhel8-64", PARAVIRTUAL},
        {"centos", 107, "centos8_64Guest", "centos8-64", PARAVIRTUAL},
        {"suse", 85, "sles15_64Guest", "sles15-64", PARAVIRTUAL},
        {"freebsd", 78, "freebsd12_64Guest", "freebsd12-64", PARAVIRTUAL},
        {"windows", 112, "windows2019srv_64Guest", "windows2019srv-64", "lsilogicsas",
         "lsisas1068"},
        {"linux", 101, "otherLinux64Guest", "otherlinux-64", PARAVIRTUAL},
    };
    static const struct vmware_os other = {"other",    102,        "otherGuest64",
                                           "other-64", "lsilogic", "lsilogic"};

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strcasestr(os, known[i].word))
            return known + i;
    return &other;
}

const char *vmware_nic(const struct guest *guest, uint32_t index, struct notes *notes)
{
    static const char *const cards[] = {"e1000", "e1000e", "vmxnet3", "vmxnet2"};
    const char *model = guest->nics[index].model;

    for (size_t i = 0; i < sizeof(cards) / sizeof(*cards); i++)
        if (!strcasecmp(model, cards[i]))
            return cards[i];
    if (*model)
        notes_add(notes, "network card %u is an e1000 instead of '%s'", index + 1, model);
    return "e1000";
}

void vmware_note_kernel(const struct guest *guest, struct notes *notes)
{
    if (guest->firmware == GUEST_FIRMWARE_NONE)
        notes_add(notes, "a kernel cannot be started directly there: only ferry reads it back; the "
                         "machine needs a boot loader on its first disk");
}

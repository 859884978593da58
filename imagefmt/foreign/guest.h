/*
 * A machine as other hypervisors describe one: what an OVF, a libvirt domain, a .vmx or a manifest
 * have in common.  Nothing in it belongs to a host, and no name in it is ever opened: file names
 * are shown, and matched with what the caller opened.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_GUEST_H
#define FERRY_IMAGEFMT_FOREIGN_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "common/limits.h"

enum guest_firmware {
    GUEST_FIRMWARE_UNKNOWN, /* the description does not say */
    GUEST_FIRMWARE_NONE,    /* a kernel is started directly */
    GUEST_FIRMWARE_BIOS,
    GUEST_FIRMWARE_EFI,
    GUEST_FIRMWARE_EFI_SECURE, /* with Secure Boot */
};

enum guest_bus {
    GUEST_BUS_VIRTIO, /* also what a description leaves open */
    GUEST_BUS_SCSI,
    GUEST_BUS_SATA,
    GUEST_BUS_IDE,
    GUEST_BUS_NVME,
};

/* Files beside the disks; the names of the sections that hold them in a ferry image. */
enum guest_file_kind {
    GUEST_KERNEL, /* "kernel" */
    GUEST_INITRD, /* "initrd" */
    GUEST_NVRAM,  /* "nvram": variables of the firmware */
    GUEST_FILE_KINDS,
};

struct guest_disk {
    char serial[LIMIT_DISK_SERIAL_BYTES + 1]; /* "": none */
    uint64_t size_bytes;                      /* 0: the description does not say */
    bool readonly;
    enum guest_bus bus;
    /* The file as the description names it: when reading what was found, when writing what to put
     * there.  Writers escape it, readers take anything of this size. */
    char file[256];
    char format[16]; /* of the file: a name of disk_formats; "": not said */
};

struct guest_nic {
    uint8_t mac[6];
    bool has_mac;
    char network[LIMIT_NAME_BYTES + 1]; /* the network's name as described, "": none */
    char model[32];                     /* "virtio", "e1000", "vmxnet3" ...; "": not said */
};

struct guest {
    char name[LIMIT_NAME_BYTES + 1]; /* as machine_name_valid (vmm/config.h) would have it; readers
                                      * make other characters '-' */
    char os[64];                     /* guest operating system as described, for people; "" */
    uint8_t uuid[16];                /* all zero: none */
    uint32_t cpus;                   /* 1..LIMIT_VCPUS */
    uint64_t memory_bytes;           /* at most LIMIT_MEMORY_BYTES */
    char cpu_model[32];              /* "host", "x86-64-v2" ...; "": not said */
    enum guest_firmware firmware;
    bool serial_console;
    char append[LIMIT_CMDLINE_BYTES + 1]; /* of the kernel that is started directly */
    char files[GUEST_FILE_KINDS][256];    /* as guest_disk.file; "": there is none */
    uint32_t disk_count;                  /* in the order of booting */
    struct guest_disk disks[LIMIT_DISKS];
    uint32_t nic_count;
    struct guest_nic nics[LIMIT_NICS];
};

/* "kernel", "initrd", "nvram". */
const char *guest_file_name(enum guest_file_kind kind);
/* "bios", "efi" ...; "unknown". */
const char *guest_firmware_name(enum guest_firmware firmware);
/* The reverse; GUEST_FIRMWARE_UNKNOWN for anything else. */
enum guest_firmware guest_firmware_by_name(const char *name);
const char *guest_bus_name(enum guest_bus bus); /* "virtio", "scsi" ... */
/* The reverse; GUEST_BUS_VIRTIO for anything else. */
enum guest_bus guest_bus_by_name(const char *name);
/* "52:54:00:12:34:56" to six bytes: 0, or -EINVAL. */
int guest_parse_mac(const char *text, uint8_t mac[6]);
char *guest_format_mac(const uint8_t mac[6], char text[18]); /* returns text */
/* text with anything that a machine's name must not have made '-', cut to size; "machine" if
 * nothing is left. */
void guest_set_name(struct guest *guest, const char *text);
/* Counts and sizes of a description that was read; FERRY_REFUSED, and what about it. */
int guest_check(const struct guest *guest, const char *about, struct ferry_error *err);

/*
 * A way to write a machine down as text.  What it has no place for is told: notes is a JSON array
 * of strings that grows by one for each thing that is lost or was assumed, up to LIMIT_NOTES;
 * NULL: nobody asks.
 */
struct description_format {
    const char *name;      /* "ovf", "libvirt", "vmx", "xl", "vagrant" */
    const char *extension; /* ".ovf", ".xml", ".vmx", ".cfg", ".json" */
    /* Does this text say that it is this format? */
    bool (*probe)(const char *text, size_t size);
    /* *text is malloc'd and ends with a NUL that *size does not count.  The same guest gives the
     * same bytes. */
    int (*write)(const struct guest *guest, json_t *notes, char **text, size_t *size,
                 struct ferry_error *err);
    /* NULL: it is not read.  Hostile text of at most LIMIT_DESCRIPTION_BYTES.  Everything that the
     * description says and struct guest has no place for, and that matters, goes to notes. */
    int (*read)(const char *text, size_t size, const char *about, struct guest *guest,
                json_t *notes, struct ferry_error *err);
};

/* All of them, NULL-terminated. */
extern const struct description_format *const description_formats[];
extern const struct description_format description_ovf, description_libvirt, description_vmx,
    description_xl, description_vagrant;

/* NULL: there is none. */
const struct description_format *description_format_by_name(const char *name);

#endif

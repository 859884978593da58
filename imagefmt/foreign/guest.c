/* Machines as descriptions have them: names of their parts, and what must hold. */
#include "imagefmt/foreign/guest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/hash.h"

static const char *const file_names[GUEST_FILE_KINDS] = {
    [GUEST_KERNEL] = "kernel",
    [GUEST_INITRD] = "initrd",
    [GUEST_NVRAM] = "nvram",
};

static const char *const firmware_names[] = {
    [GUEST_FIRMWARE_UNKNOWN] = "unknown",
    [GUEST_FIRMWARE_NONE] = "none",
    [GUEST_FIRMWARE_BIOS] = "bios",
    [GUEST_FIRMWARE_EFI] = "efi",
    [GUEST_FIRMWARE_EFI_SECURE] = "efi-secure",
};

static const char *const bus_names[] = {
    [GUEST_BUS_VIRTIO] = "virtio", [GUEST_BUS_SCSI] = "scsi", [GUEST_BUS_SATA] = "sata",
    [GUEST_BUS_IDE] = "ide",       [GUEST_BUS_NVME] = "nvme",
};

const char *guest_file_name(enum guest_file_kind kind)
{
    return file_names[kind];
}

const char *guest_firmware_name(enum guest_firmware firmware)
{
    return firmware_names[firmware];
}

enum guest_firmware guest_firmware_by_name(const char *name)
{
    for (int i = 0; i <= GUEST_FIRMWARE_EFI_SECURE; i++)
        if (!strcmp(firmware_names[i], name))
            return (enum guest_firmware)i;
    return GUEST_FIRMWARE_UNKNOWN;
}

const char *guest_bus_name(enum guest_bus bus)
{
    return bus_names[bus];
}

enum guest_bus guest_bus_by_name(const char *name)
{
    for (int i = 0; i <= GUEST_BUS_NVME; i++)
        if (!strcmp(bus_names[i], name))
            return (enum guest_bus)i;
    return GUEST_BUS_VIRTIO;
}

int guest_parse_mac(const char *text, uint8_t mac[6])
{
    if (strlen(text) != 17)
        return -EINVAL;
    for (size_t i = 0; i < 6; i++) {
        const char pair[] = {text[3 * i], text[3 * i + 1], 0};
        if ((i < 5 && text[3 * i + 2] != ':') || hex_decode(pair, mac + i, 1))
            return -EINVAL;
    }
    return 0;
}

char *guest_format_mac(const uint8_t mac[6], char text[18])
{
    snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
             mac[5]);
    return text;
}

static bool name_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

void guest_set_name(struct guest *guest, const char *text)
{
    size_t length = 0;

    for (; *text && length < LIMIT_NAME_BYTES; text++) {
        char c = name_character(*text) ? *text : '-';
        if (length || (c != '.' && c != '-')) /* it does not begin with one of these */
            guest->name[length++] = c;
    }
    guest->name[length] = 0;
    if (!length)
        snprintf(guest->name, sizeof(guest->name), "machine");
}

static bool name_valid(const char *name)
{
    if (!*name || *name == '.' || *name == '-')
        return false;
    while (name_character(*name))
        name++;
    return !*name;
}

int guest_check(const struct guest *guest, const char *about, struct ferry_error *err)
{
    if (!name_valid(guest->name))
        return ferry_refuse(err, -EBADMSG, about, "gives the machine no proper name");
    if (guest->cpus < 1 || guest->cpus > LIMIT_VCPUS)
        return ferry_refuse(err, -EBADMSG, about,
                            "describes a machine of %" PRIu32 " CPUs; from 1 to %d are possible",
                            guest->cpus, LIMIT_VCPUS);
    if (guest->memory_bytes < LIMIT_MEMORY_MIN_BYTES || guest->memory_bytes > LIMIT_MEMORY_BYTES ||
        guest->memory_bytes % 4096)
        return ferry_refuse(err, -EBADMSG, about,
                            "describes a machine with %" PRIu64
                            " bytes of memory; from 8 MiB to 1 TiB in whole 4 KiB are possible",
                            guest->memory_bytes);
    if (guest->disk_count > LIMIT_DISKS)
        return ferry_refuse(err, -EBADMSG, about, "has %" PRIu32 " disks; at most %d are possible",
                            guest->disk_count, LIMIT_DISKS);
    if (guest->nic_count > LIMIT_NICS)
        return ferry_refuse(err, -EBADMSG, about,
                            "has %" PRIu32 " network cards; at most %d are possible",
                            guest->nic_count, LIMIT_NICS);
    for (uint32_t i = 0; i < guest->disk_count; i++)
        if (guest->disks[i].size_bytes > LIMIT_DISK_BYTES)
            return ferry_refuse(err, -EBADMSG, about,
                                "has a disk of %" PRIu64 " bytes; at most 64 TiB are possible",
                                guest->disks[i].size_bytes);
    return 0;
}

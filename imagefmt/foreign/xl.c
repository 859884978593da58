/*
 * Xen's xl.cfg, written: lines of key = value in Python's manner.  A machine whose kernel is
 * started directly becomes a PVH guest, any other an HVM guest.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/describe.h"

/* What stands in double quotes: quotes, backslashes and control characters with a backslash. */
static void add_value(struct text *t, const char *value)
{
    size_t left = strlen(value);

    while (left) {
        uint32_t code = 0;
        size_t length = utf8_next(value, left, &code);
        if (!length) {
            text_add(t, "\xef\xbf\xbd");
            t->replaced = true;
            length = 1;
        } else if (code == '"' || code == '\\') {
            text_printf(t, "\\%c", (char)code);
        } else if (code < 0x20 || code == 0x7f) {
            text_printf(t, "\\%03o", (unsigned)code);
        } else {
            writer_copy(&t->out, value, length);
        }
        value += length;
        left -= length;
    }
}

static void key(struct text *t, const char *name, const char *value)
{
    text_printf(t, "%s = \"", name);
    add_value(t, value);
    text_add(t, "\"\n");
}

/* A part of a list within quotes, where ',' ends it and there is no escape. */
static void add_item(struct text *t, const char *value)
{
    char safe[256];

    snprintf(safe, sizeof(safe), "%s", value);
    for (char *c = safe; *c; c++) {
        if (!strchr(",\t\r\n", *c))
            continue;
        *c = '-';
        t->replaced = true;
    }
    add_value(t, safe);
}

static void compose_start(struct text *t, const struct guest *guest, struct notes *notes)
{
    bool direct = guest->firmware == GUEST_FIRMWARE_NONE;

    key(t, "type", direct ? "pvh" : "hvm");
    if (guest->firmware == GUEST_FIRMWARE_EFI || guest->firmware == GUEST_FIRMWARE_EFI_SECURE)
        key(t, "firmware", "ovmf");
    if (guest->firmware == GUEST_FIRMWARE_EFI_SECURE)
        notes_add(notes, "there is no Secure Boot");
    if (*guest->files[GUEST_NVRAM])
        notes_add(notes, "there is no place for variables of the firmware");
    if (*guest->files[GUEST_KERNEL])
        key(t, "kernel", guest->files[GUEST_KERNEL]);
    if (*guest->files[GUEST_INITRD])
        key(t, "ramdisk", guest->files[GUEST_INITRD]);
    if (*guest->append)
        key(t, "cmdline", guest->append);
}

/* "xvda" for paravirtual disks, "sda" and "hda" for those that are emulated until drivers start. */
static void device_name(const struct guest *guest, uint32_t index, char name[8])
{
    enum guest_bus bus = guest->disks[index].bus;
    const char *prefix = guest->firmware == GUEST_FIRMWARE_NONE ? "xvd"
                         : bus == GUEST_BUS_IDE                 ? "hd"
                         : bus == GUEST_BUS_SCSI                ? "sd"
                                                                : "xvd";

    snprintf(name, 8, "%s%c", prefix, (char)('a' + index));
}

static void compose_disks(struct text *t, const struct guest *guest, struct notes *notes)
{
    char name[8];

    text_add(t, "disk = [\n");
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        const struct guest_disk *disk = &guest->disks[i];
        const char *format = *disk->format ? disk->format : "raw";
        device_name(guest, i, name);
        /* target goes last: it takes the rest, whatever is in it */
        text_printf(t, "    \"format=%s, vdev=%s, access=%s, target=", format, name,
                    disk->readonly ? "ro" : "rw");
        add_value(t, disk->file);
        text_add(t, "\",\n");
        if (!*disk->format)
            notes_add(notes, "the format of disk %s is taken to be raw", name);
        if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0 &&
            strcmp(format, "vhd") != 0)
            notes_add(notes, "disk %s is in the format %s, which Xen does not know", name, format);
        if (*disk->serial)
            notes_add(notes, "disk %s has no serial number there", name);
        if (disk->bus == GUEST_BUS_SATA || disk->bus == GUEST_BUS_NVME)
            notes_add(notes, "disk %s is not on %s there", name, guest_bus_name(disk->bus));
    }
    text_add(t, "]\n");
}

static void compose_nics(struct text *t, const struct guest *guest, struct notes *notes)
{
    char mac[18];

    text_add(t, "vif = [\n");
    for (uint32_t i = 0; i < guest->nic_count; i++) {
        const struct guest_nic *nic = &guest->nics[i];
        bool emulated = guest->firmware != GUEST_FIRMWARE_NONE && *nic->model &&
                        strcmp(nic->model, "virtio") != 0;
        const char *comma = "";
        text_add(t, "    \"");
        if (nic->has_mac) {
            text_printf(t, "mac=%s", guest_format_mac(nic->mac, mac));
            comma = ", ";
        }
        if (*nic->network) {
            text_printf(t, "%sbridge=", comma);
            add_item(t, nic->network);
            comma = ", ";
        }
        if (emulated) {
            text_printf(t, "%smodel=", comma);
            add_item(t, nic->model);
        } else if (*nic->model) {
            notes_add(notes, "network card %u is Xen's own there, not %s", i + 1, nic->model);
        }
        text_add(t, "\",\n");
    }
    text_add(t, "]\n");
}

static int write_xl(const struct guest *guest, json_t *notes, char **text, size_t *size,
                    struct ferry_error *err)
{
    CLEANUP(text_free) struct text t = text_init();
    struct notes list = {.list = notes};
    uint64_t mib = (guest->memory_bytes + MIB - 1) / MIB;
    char uuid[37];

    key(&t, "name", guest->name);
    if (memcmp(guest->uuid, (uint8_t[16]){0}, 16) != 0)
        key(&t, "uuid", describe_format_uuid(guest->uuid, uuid));
    text_printf(&t, "vcpus = %" PRIu32 "\nmemory = %" PRIu64 "\n", guest->cpus, mib);
    if (guest->memory_bytes % MIB)
        notes_add(&list, "memory is in whole MiB there: %" PRIu64 " MiB", mib);
    if (*guest->cpu_model)
        notes_add(&list, "the CPU model (%s) is the host's there", guest->cpu_model);
    if (*guest->os)
        notes_add(&list, "there is no place for the guest operating system: %s", guest->os);
    compose_start(&t, guest, &list);
    compose_disks(&t, guest, &list);
    compose_nics(&t, guest, &list);
    if (guest->serial_console && guest->firmware != GUEST_FIRMWARE_NONE)
        text_add(&t, "serial = \"pty\"\n");
    else if (guest->serial_console)
        notes_add(&list, "the console of a PVH guest is hvc0, not ttyS0");
    return text_done(&t, &list, text, size, err);
}

const struct description_format description_xl = {
    .name = "xl",
    .extension = ".cfg",
    .write = write_xl,
};

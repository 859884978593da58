/*
 * VMware's .vmx, written: lines of key = "value".  What VMware has no key for goes under keys that
 * begin with "ferry.", which it leaves alone.
 */
#include "imagefmt/foreign/vmx.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/vmware.h"

struct composer {
    struct text t;
    struct notes notes;
    const struct guest *guest;
    struct vmware_place places[LIMIT_DISKS];
};

/* A value in quotes: '"', '|' and control characters are |22 and the like. */
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
        } else if (code < 0x20 || code == '"' || code == '|' || code == 0x7f) {
            text_printf(t, "|%02X", code);
        } else {
            writer_copy(&t->out, value, length);
        }
        value += length;
        left -= length;
    }
}

static void key(struct composer *c, const char *name, const char *value)
{
    text_printf(&c->t, "%s = \"", name);
    add_value(&c->t, value);
    text_add(&c->t, "\"\n");
}

static void number(struct composer *c, const char *name, uint64_t value)
{
    text_printf(&c->t, "%s = \"%" PRIu64 "\"\n", name, value);
}

/* key("scsi0:1" ".fileName", value) */
static void sub_key(struct composer *c, const char *device, const char *name, const char *value)
{
    char full[64];

    snprintf(full, sizeof(full), "%s.%s", device, name);
    key(c, full, value);
}

/* ---- The machine ---- */

static void compose_machine(struct composer *c)
{
    const struct guest *guest = c->guest;
    uint64_t mib = (guest->memory_bytes + MIB - 1) / MIB;

    text_add(&c->t, ".encoding = \"UTF-8\"\n"
                    "config.version = \"8\"\n"
                    "virtualHW.version = \"14\"\n"
                    "pciBridge0.present = \"TRUE\"\n"
                    "pciBridge4.present = \"TRUE\"\n"
                    "pciBridge4.virtualDev = \"pcieRootPort\"\n"
                    "pciBridge4.functions = \"8\"\n");
    key(c, "displayName", guest->name);
    key(c, "guestOS", vmware_os(guest->os)->vmx);
    number(c, "numvcpus", guest->cpus);
    number(c, "memsize", mib);
    if (guest->memory_bytes % MIB) {
        number(c, "ferry.memoryBytes", guest->memory_bytes);
        notes_add(&c->notes, "memory is in whole MiB there: %" PRIu64 " MiB", mib);
    }
    key(c, "ferry.os", guest->os);
    if (*guest->cpu_model) {
        key(c, "ferry.cpuModel", guest->cpu_model);
        notes_add(&c->notes, "the CPU model (%s) is the host's there", guest->cpu_model);
    }
}

/* "56 4d 2f 0a 8b 2d 6f 3c-11 ..." */
static void compose_uuid(struct composer *c)
{
    const uint8_t *uuid = c->guest->uuid;
    char text[48], *end = text;

    if (!memcmp(uuid, (uint8_t[16]){0}, 16))
        return;
    for (int i = 0; i < 16; i++)
        end += snprintf(end, 4, "%s%02x", !i ? "" : i == 8 ? "-" : " ", uuid[i]);
    key(c, "uuid.bios", text);
}

static void compose_firmware(struct composer *c)
{
    const struct guest *guest = c->guest;
    enum guest_firmware firmware = guest->firmware;

    if (firmware == GUEST_FIRMWARE_BIOS)
        key(c, "firmware", "bios");
    if (firmware == GUEST_FIRMWARE_EFI || firmware == GUEST_FIRMWARE_EFI_SECURE)
        key(c, "firmware", "efi");
    if (firmware == GUEST_FIRMWARE_EFI_SECURE)
        key(c, "uefi.secureBoot.enabled", "TRUE");
    if (firmware <= GUEST_FIRMWARE_NONE)
        key(c, "ferry.firmware", guest_firmware_name(firmware));
    if (*guest->files[GUEST_NVRAM]) {
        key(c, "nvram", guest->files[GUEST_NVRAM]);
        notes_add(&c->notes, "the firmware's variables come along, but only VMware's own are "
                             "understood there");
    }
    if (*guest->files[GUEST_KERNEL])
        key(c, "ferry.kernel", guest->files[GUEST_KERNEL]);
    if (*guest->files[GUEST_INITRD])
        key(c, "ferry.initrd", guest->files[GUEST_INITRD]);
    if (*guest->append)
        key(c, "ferry.append", guest->append);
    vmware_note_kernel(guest, &c->notes);
}

/* ---- Devices ---- */

static void compose_controllers(struct composer *c)
{
    char device[32];

    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        const struct vmware_place *place = &c->places[i];
        bool seen = place->bus == GUEST_BUS_IDE; /* always there */
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = c->places[j].bus == place->bus && c->places[j].controller == place->controller;
        if (seen)
            continue;
        snprintf(device, sizeof(device), "%s%u", guest_bus_name(place->bus), place->controller);
        sub_key(c, device, "present", "TRUE");
        if (place->bus == GUEST_BUS_SCSI)
            sub_key(c, device, "virtualDev", vmware_os(c->guest->os)->scsi_vmx);
    }
}

static void disk_name(const struct vmware_place *place, char name[32])
{
    snprintf(name, 32, "%s%u:%u", guest_bus_name(place->bus), place->controller, place->unit);
}

static void compose_disk(struct composer *c, uint32_t index)
{
    const struct guest_disk *disk = &c->guest->disks[index];
    const struct vmware_place *place = &c->places[index];
    char name[32], own[48];

    disk_name(place, name);
    snprintf(own, sizeof(own), "ferry.%s", name);
    sub_key(c, name, "present", "TRUE");
    sub_key(c, name, "fileName", disk->file);
    sub_key(c, name, "deviceType", place->bus == GUEST_BUS_SCSI ? "scsi-hardDisk" : "disk");
    if (disk->bus != place->bus)
        sub_key(c, own, "bus", guest_bus_name(disk->bus));
    if (disk->size_bytes) {
        snprintf(own, sizeof(own), "ferry.%s.sizeBytes", name);
        number(c, own, disk->size_bytes);
        snprintf(own, sizeof(own), "ferry.%s", name);
    }
    if (*disk->serial) {
        sub_key(c, own, "serial", disk->serial);
        notes_add(&c->notes, "disk %u has another serial number there than '%s'", index + 1,
                  disk->serial);
    }
    if (disk->readonly) {
        sub_key(c, own, "readonly", "TRUE");
        notes_add(&c->notes, "disk %u may be written to there", index + 1);
    }
    if (*disk->format && strcmp(disk->format, "vmdk") != 0) {
        sub_key(c, own, "format", disk->format);
        notes_add(&c->notes, "disk %u is in the format %s, and VMware reads vmdk", index + 1,
                  disk->format);
    } else if (!*disk->format) {
        notes_add(&c->notes, "the format of disk %u is taken to be vmdk", index + 1);
    }
}

/* The order of booting, which otherwise goes by kinds of controllers. */
static void compose_boot_order(struct composer *c)
{
    char name[32];

    text_add(&c->t, "bios.hddOrder = \"");
    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        disk_name(&c->places[i], name);
        text_printf(&c->t, "%s%s", i ? "," : "", name);
    }
    text_add(&c->t, "\"\n");
}

static void compose_nic(struct composer *c, uint32_t index)
{
    const struct guest_nic *nic = &c->guest->nics[index];
    const char *card = vmware_nic(c->guest, index, &c->notes);
    char name[32], own[48], mac[18];

    snprintf(name, sizeof(name), "ethernet%u", index);
    snprintf(own, sizeof(own), "ferry.%s", name);
    sub_key(c, name, "present", "TRUE");
    sub_key(c, name, "virtualDev", card);
    if (*nic->network)
        sub_key(c, name, "networkName", nic->network);
    if (strcmp(card, nic->model) != 0)
        sub_key(c, own, "model", nic->model);
    if (!nic->has_mac) {
        sub_key(c, name, "addressType", "generated");
        return;
    }
    sub_key(c, name, "addressType", "static");
    sub_key(c, name, "address", guest_format_mac(nic->mac, mac));
    /* VMware takes addresses only from a range of its own unless told so. */
    sub_key(c, name, "checkMACAddress", "FALSE");
}

static void compose_serial(struct composer *c)
{
    if (!c->guest->serial_console)
        return;
    sub_key(c, "serial0", "present", "TRUE");
    sub_key(c, "serial0", "fileType", "file");
    sub_key(c, "serial0", "fileName", "serial0.txt");
    notes_add(&c->notes, "the serial console goes to a file, serial0.txt");
}

static void free_composer(struct composer *c)
{
    text_free(&c->t);
}

int vmx_write(const struct guest *guest, json_t *notes, char **text, size_t *size,
              struct ferry_error *err)
{
    CLEANUP(free_composer)
    struct composer c = {
        .t = text_init(),
        .notes = {.list = notes},
        .guest = guest,
    };

    vmware_place_disks(guest, c.places, &c.notes);
    compose_machine(&c);
    compose_uuid(&c);
    compose_firmware(&c);
    compose_controllers(&c);
    for (uint32_t i = 0; i < guest->disk_count; i++)
        compose_disk(&c, i);
    if (guest->disk_count)
        compose_boot_order(&c);
    if (guest->nic_count > VMX_NICS)
        notes_add(&c.notes, "there are no more than %d network cards there", VMX_NICS);
    for (uint32_t i = 0; i < guest->nic_count; i++)
        compose_nic(&c, i);
    compose_serial(&c);
    return text_done(&c.t, &c.notes, text, size, err);
}

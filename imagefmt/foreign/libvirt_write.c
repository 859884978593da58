/*
 * libvirt's domain XML, written: a KVM machine of type q35.  What libvirt has no place for goes to
 * <metadata>, where it lets programs keep what is theirs.
 */
#include "imagefmt/foreign/libvirt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/xml.h"

const char *libvirt_cpu(const char *model)
{
    static const struct {
        const char *ours, *theirs;
    } models[] = {
        {"x86-64-v1", "qemu64"},
        {"x86-64-v2", "Nehalem"},
        {"x86-64-v3", "Haswell-noTSX"},
        {"x86-64-v4", "Skylake-Server-noTSX-IBRS"},
    };

    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++)
        if (!strcmp(models[i].ours, model))
            return models[i].theirs;
    return model;
}

static const struct {
    const char *format, *driver;
} drivers[] = {
    {"raw", "raw"}, {"qcow2", "qcow2"}, {"vmdk", "vmdk"}, {"vdi", "vdi"}, {"vhd", "vpc"},
};

const char *libvirt_driver(const char *format)
{
    for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
        if (!strcmp(drivers[i].format, format))
            return drivers[i].driver;
    return NULL;
}

const char *libvirt_format(const char *driver)
{
    for (size_t i = 0; i < sizeof(drivers) / sizeof(*drivers); i++)
        if (!strcmp(drivers[i].driver, driver))
            return drivers[i].format;
    return NULL;
}

enum guest_bus libvirt_bus(enum guest_bus bus)
{
    return bus == GUEST_BUS_IDE    ? GUEST_BUS_SATA /* a q35 has no IDE */
           : bus == GUEST_BUS_NVME ? GUEST_BUS_VIRTIO
                                   : bus;
}

/* libvirt takes no others in a serial number. */
static bool serial_fits(const char *serial)
{
    return serial[strspn(serial, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                 "_.+- ")] == 0;
}

/* ---- The machine ---- */

static void compose_metadata(struct text *t, const struct guest *guest)
{
    text_add(t, "  <metadata>\n    <ferry:machine xmlns:ferry=\"" DESCRIBE_NS "\"");
    text_attribute(t, "firmware", guest_firmware_name(guest->firmware));
    text_attribute(t, "cpuModel", guest->cpu_model);
    text_attribute(t, "os", guest->os);
    text_add(t, ">\n");
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        const struct guest_disk *disk = &guest->disks[i];
        text_printf(t, "      <ferry:disk index=\"%u\" bus=\"%s\" sizeBytes=\"%" PRIu64 "\"", i,
                    guest_bus_name(disk->bus), disk->size_bytes);
        text_attribute(t, "format", disk->format);
        if (!serial_fits(disk->serial))
            text_attribute(t, "serial", disk->serial);
        text_add(t, "/>\n");
    }
    text_add(t, "    </ferry:machine>\n  </metadata>\n");
}

static void compose_os(struct text *t, const struct guest *guest, struct notes *notes)
{
    bool secure = guest->firmware == GUEST_FIRMWARE_EFI_SECURE;
    bool efi = secure || guest->firmware == GUEST_FIRMWARE_EFI;

    text_printf(t, "  <os%s>\n", efi ? " firmware=\"efi\"" : "");
    text_add(t, "    <type arch=\"x86_64\" machine=\"q35\">hvm</type>\n");
    if (efi) /* without enrolled keys nothing is checked, whatever the firmware could do */
        text_printf(t,
                    "    <firmware>\n"
                    "      <feature enabled=\"%s\" name=\"enrolled-keys\"/>\n"
                    "%s"
                    "    </firmware>\n",
                    secure ? "yes" : "no",
                    secure ? "      <feature enabled=\"yes\" name=\"secure-boot\"/>\n" : "");
    if (*guest->files[GUEST_NVRAM] && efi)
        text_element(t, 4, "nvram", guest->files[GUEST_NVRAM]);
    else if (*guest->files[GUEST_NVRAM])
        notes_add(notes, "variables of a firmware are kept for EFI only");
    if (*guest->files[GUEST_KERNEL])
        text_element(t, 4, "kernel", guest->files[GUEST_KERNEL]);
    if (*guest->files[GUEST_INITRD])
        text_element(t, 4, "initrd", guest->files[GUEST_INITRD]);
    if (*guest->append)
        text_element(t, 4, "cmdline", guest->append);
    text_add(t, "  </os>\n");
}

static void compose_cpu(struct text *t, const struct guest *guest, struct notes *notes)
{
    const char *model = libvirt_cpu(guest->cpu_model);

    if (!*model) {
        text_add(t, "  <cpu mode=\"host-model\"/>\n");
        return;
    }
    if (!strcmp(model, "host")) {
        text_add(t, "  <cpu mode=\"host-passthrough\"/>\n");
        return;
    }
    text_add(t, "  <cpu mode=\"custom\" match=\"exact\">\n    <model fallback=\"allow\">");
    text_xml(t, model);
    text_add(t, "</model>\n  </cpu>\n");
    if (strcmp(model, guest->cpu_model) != 0)
        notes_add(notes, "the CPU model %s is %s there", guest->cpu_model, model);
}

/* ---- Devices ---- */

/* "vda", "sdb": by the bus and how many are on it already. */
static void target_name(enum guest_bus bus, unsigned index, char name[4])
{
    name[0] = bus == GUEST_BUS_VIRTIO ? 'v' : 's';
    name[1] = 'd';
    name[2] = (char)('a' + index);
    name[3] = 0;
}

static void compose_driver(struct text *t, const struct guest_disk *disk, const char *name,
                           struct notes *notes)
{
    const char *driver = libvirt_driver(disk->format);

    text_add(t, "      <driver name=\"qemu\"");
    if (driver)
        text_printf(t, " type=\"%s\"", driver);
    else if (*disk->format)
        notes_add(notes, "libvirt does not know disks of the format %s, that of %s", disk->format,
                  name);
    text_add(t, "/>\n");
}

static void compose_disk(struct text *t, const struct guest *guest, uint32_t index,
                         const char *name, struct notes *notes)
{
    const struct guest_disk *disk = &guest->disks[index];
    enum guest_bus bus = libvirt_bus(disk->bus);

    text_add(t, "    <disk type=\"file\" device=\"disk\">\n");
    compose_driver(t, disk, name, notes);
    if (*disk->file) {
        text_add(t, "      <source");
        text_attribute(t, "file", disk->file);
        text_add(t, "/>\n");
    } else {
        notes_add(notes, "the disk %s has no file yet", name);
    }
    text_printf(t, "      <target dev=\"%s\" bus=\"%s\"/>\n", name, guest_bus_name(bus));
    if (disk->readonly)
        text_add(t, "      <readonly/>\n");
    if (!serial_fits(disk->serial))
        notes_add(notes, "the serial number of %s has characters that libvirt does not take: '%s'",
                  name, disk->serial);
    else if (*disk->serial)
        text_element(t, 6, "serial", disk->serial);
    text_printf(t, "      <boot order=\"%u\"/>\n    </disk>\n", index + 1);
    if (bus != disk->bus)
        notes_add(notes, "the disk %s is on %s, not %s", name, guest_bus_name(bus),
                  guest_bus_name(disk->bus));
}

static void compose_disks(struct text *t, const struct guest *guest, struct notes *notes)
{
    unsigned virtio = 0, others = 0; /* SCSI and SATA share a row of names */
    bool scsi = false;
    char name[4];

    for (uint32_t i = 0; i < guest->disk_count; i++) {
        enum guest_bus bus = libvirt_bus(guest->disks[i].bus);
        target_name(bus, bus == GUEST_BUS_VIRTIO ? virtio++ : others++, name);
        compose_disk(t, guest, i, name, notes);
        scsi = scsi || bus == GUEST_BUS_SCSI;
    }
    if (scsi)
        text_add(t, "    <controller type=\"scsi\" model=\"virtio-scsi\"/>\n");
}

static void compose_nic(struct text *t, const struct guest_nic *nic)
{
    char mac[18];

    text_printf(t, "    <interface type=\"%s\">\n", *nic->network ? "network" : "user");
    if (nic->has_mac)
        text_printf(t, "      <mac address=\"%s\"/>\n", guest_format_mac(nic->mac, mac));
    if (*nic->network) {
        text_add(t, "      <source");
        text_attribute(t, "network", nic->network);
        text_add(t, "/>\n");
    }
    if (*nic->model) {
        text_add(t, "      <model");
        text_attribute(t, "type", nic->model);
        text_add(t, "/>\n");
    }
    text_add(t, "    </interface>\n");
}

static void compose_devices(struct text *t, const struct guest *guest, struct notes *notes)
{
    text_add(t, "  <devices>\n");
    compose_disks(t, guest, notes);
    for (uint32_t i = 0; i < guest->nic_count; i++)
        compose_nic(t, &guest->nics[i]);
    if (guest->serial_console)
        text_add(t, "    <serial type=\"pty\">\n"
                    "      <target port=\"0\"/>\n"
                    "    </serial>\n"
                    "    <console type=\"pty\">\n"
                    "      <target type=\"serial\" port=\"0\"/>\n"
                    "    </console>\n");
    text_add(t, "  </devices>\n");
}

/* In KiB as libvirt itself would, if that is exact. */
static void compose_memory(struct text *t, uint64_t bytes)
{
    bool whole = bytes % KIB == 0;

    text_printf(t, "  <memory unit=\"%s\">%" PRIu64 "</memory>\n", whole ? "KiB" : "bytes",
                whole ? bytes / KIB : bytes);
}

int libvirt_write(const struct guest *guest, json_t *notes, char **text, size_t *size,
                  struct ferry_error *err)
{
    CLEANUP(text_free) struct text t = text_init();
    struct notes list = {.list = notes};
    char uuid[37];

    text_add(&t, "<domain type=\"kvm\">\n");
    text_element(&t, 2, "name", guest->name);
    if (memcmp(guest->uuid, (uint8_t[16]){0}, 16) != 0)
        text_element(&t, 2, "uuid", describe_format_uuid(guest->uuid, uuid));
    compose_metadata(&t, guest);
    compose_memory(&t, guest->memory_bytes);
    text_printf(&t, "  <vcpu>%" PRIu32 "</vcpu>\n", guest->cpus);
    compose_os(&t, guest, &list);
    text_add(&t, "  <features>\n    <acpi/>\n    <apic/>\n");
    if (guest->firmware == GUEST_FIRMWARE_EFI_SECURE)
        text_add(&t, "    <smm state=\"on\"/>\n");
    text_add(&t, "  </features>\n");
    compose_cpu(&t, guest, &list);
    text_add(&t, "  <clock offset=\"utc\"/>\n");
    compose_devices(&t, guest, &list);
    text_add(&t, "</domain>\n");
    return text_done(&t, &list, text, size, err);
}

static bool probe(const char *text, size_t size)
{
    return xml_probe(text, size, "domain");
}

const struct description_format description_libvirt = {
    .name = "libvirt",
    .extension = ".xml",
    .probe = probe,
    .write = libvirt_write,
    .read = libvirt_read,
};

/*
 * libvirt's domain XML, read.  Names of files, networks and bridges are taken as names; what lies
 * on a block device or in the network is refused, as there is no file to take along.
 */
#include "imagefmt/foreign/libvirt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/xml.h"

#define NS_OSINFO "http://libosinfo.org/xmlns/libvirt/domain/1.0"
#define NS_QEMU   "http://libvirt.org/schemas/domain/qemu/1.0"

struct domain {
    const char *about;
    const xmlNode *root;
    struct guest *guest;
    struct notes notes;
    uint64_t boot_order[LIMIT_DISKS]; /* of the disks; UINT64_MAX: not said */
};

/* ---- The machine ---- */

/* libvirt's units: binary but for those with a B behind them. */
static uint64_t unit_bytes(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *letter = strchr(letters, *unit & ~0x20);

    if (!strcasecmp(unit, "b") || !strcasecmp(unit, "byte") || !strcasecmp(unit, "bytes"))
        return 1;
    if (!*unit || !letter || !*letter)
        return 0;
    bool decimal = !strcasecmp(unit + 1, "B");
    uint64_t bytes = 1;
    for (ptrdiff_t i = 0; i <= letter - letters; i++)
        bytes *= decimal ? 1000 : 1024;
    return decimal || !unit[1] || !strcasecmp(unit + 1, "iB") ? bytes : 0;
}

static int parse_memory(struct domain *d, struct ferry_error *err)
{
    const xmlNode *node = xml_child(d->root, NULL, "memory");
    char word[40], unit[16], cut[SHOWN_BYTES];
    uint64_t value;

    xml_attribute_word(node, NULL, "unit", unit, sizeof(unit));
    uint64_t bytes = *unit ? unit_bytes(unit) : KIB;
    if (!node || describe_number(xml_word(node, word, sizeof(word)), &value) || !bytes)
        return ferry_refuse(err, -EBADMSG, d->about,
                            "does not say how much memory the machine has: '%s'",
                            node ? shown(word, cut) : "");
    d->guest->memory_bytes = describe_multiply(value, bytes);
    return 0;
}

static int parse_cpus(struct domain *d, struct ferry_error *err)
{
    const xmlNode *node = xml_child(d->root, NULL, "vcpu");
    char word[40];
    uint64_t value;

    d->guest->cpus = 1; /* libvirt's own when it says nothing */
    if (!node)
        return 0;
    if (describe_number(xml_word(node, word, sizeof(word)), &value))
        return ferry_refuse(err, -EBADMSG, d->about, "has a number of CPUs that is none");
    d->guest->cpus = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    if (*xml_attribute_word(node, NULL, "current", word, sizeof(word)))
        notes_add(&d->notes, "the machine was started with %.20s CPUs, and has all %u here", word,
                  d->guest->cpus);
    return 0;
}

static int parse_cpu_model(struct domain *d, struct ferry_error *err)
{
    const xmlNode *cpu = xml_child(d->root, NULL, "cpu"), *model = xml_child(cpu, NULL, "model");
    char mode[24], name[64];

    xml_attribute_word(cpu, NULL, "mode", mode, sizeof(mode));
    xml_word(model, name, sizeof(name));
    if (!strcmp(mode, "host-passthrough") || !strcmp(mode, "maximum"))
        snprintf(name, sizeof(name), "host");
    if (xml_child(cpu, NULL, "feature"))
        notes_add(&d->notes, "single features of the CPU model are not kept");
    return describe_copy(name, d->guest->cpu_model, sizeof(d->guest->cpu_model), "a CPU model",
                         d->about, err);
}

static int take_text(struct domain *d, const xmlNode *node, char *out, size_t room,
                     const char *what, struct ferry_error *err)
{
    CLEANUP_FREE char *text = xml_text(node);

    if (!text)
        return ferry_fail(err, -ENOMEM, d->about, "out of memory");
    return describe_copy(text, out, room, what, d->about, err);
}

static bool is_secure(const xmlNode *os)
{
    char name[32], enabled[8];

    FOR_EACH_XML_CHILD(node, xml_child(os, NULL, "firmware"), NULL, "feature")
    if (!strcmp(xml_attribute_word(node, NULL, "name", name, sizeof(name)), "secure-boot") &&
        describe_yes(xml_attribute_word(node, NULL, "enabled", enabled, sizeof(enabled))))
        return true;
    return describe_yes(xml_attribute_word(xml_child(os, NULL, "loader"), NULL, "secure", enabled,
                                           sizeof(enabled)));
}

static enum guest_firmware firmware_of(const xmlNode *os)
{
    const xmlNode *loader = xml_child(os, NULL, "loader");
    char firmware[16], type[16], path[256];

    xml_attribute_word(os, NULL, "firmware", firmware, sizeof(firmware));
    xml_attribute_word(loader, NULL, "type", type, sizeof(type));
    xml_word(loader, path, sizeof(path));
    bool efi_image =
        strcasestr(path, "ovmf") || strcasestr(path, "edk2") || strcasestr(path, "efi");
    if (!strcmp(firmware, "efi") || !strcmp(type, "pflash") || efi_image)
        return is_secure(os) ? GUEST_FIRMWARE_EFI_SECURE : GUEST_FIRMWARE_EFI;
    return xml_child(os, NULL, "kernel") ? GUEST_FIRMWARE_NONE : GUEST_FIRMWARE_BIOS;
}

static int check_type(struct domain *d, const xmlNode *os, struct ferry_error *err)
{
    const xmlNode *node = xml_child(os, NULL, "type");
    char arch[32], type[32], cut[SHOWN_BYTES];

    xml_attribute_word(node, NULL, "arch", arch, sizeof(arch));
    xml_word(node, type, sizeof(type));
    if (*arch && strcmp(arch, "x86_64") != 0 && strcmp(arch, "i686") != 0)
        return ferry_refuse(err, -EOPNOTSUPP, d->about,
                            "is a machine of another architecture: '%s'", shown(arch, cut));
    if (strcmp(type, "hvm") != 0 && strcmp(type, "xen") != 0 && strcmp(type, "linux") != 0 &&
        strcmp(type, "xenpvh") != 0)
        return ferry_refuse(err, -EOPNOTSUPP, d->about, "is not a virtual machine but '%s'",
                            shown(type, cut));
    return 0;
}

static int parse_os(struct domain *d, struct ferry_error *err)
{
    static const char *const elements[GUEST_FILE_KINDS] = {"kernel", "initrd", "nvram"};
    const xmlNode *os = xml_child(d->root, NULL, "os");

    int error = check_type(d, os, err);
    d->guest->firmware = firmware_of(os);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        const xmlNode *node = xml_child(os, NULL, elements[kind]);
        const xmlNode *source = xml_child(node, NULL, "source"); /* nvram in its newer form */
        CLEANUP_FREE char *text =
            source ? xml_attribute(source, NULL, "file", NULL) : xml_text(node);
        error = text ? describe_copy(text, d->guest->files[kind], sizeof(d->guest->files[kind]),
                                     "the name of a file", d->about, err)
                     : ferry_fail(err, -ENOMEM, d->about, "out of memory");
    }
    return error ? error
                 : take_text(d, xml_child(os, NULL, "cmdline"), d->guest->append,
                             sizeof(d->guest->append), "a kernel command line", err);
}

static int parse_name(struct domain *d, struct ferry_error *err)
{
    const xmlNode *osinfo =
        xml_path(xml_child(d->root, NULL, "metadata"), NS_OSINFO, "libosinfo/os");
    CLEANUP_FREE char *name = xml_text(xml_child(d->root, NULL, "name"));
    CLEANUP_FREE char *os = xml_attribute(osinfo, NULL, "id", NULL);
    char uuid[64];

    if (!name || !os)
        return ferry_fail(err, -ENOMEM, d->about, "out of memory");
    guest_set_name(d->guest, name);
    if (strcmp(d->guest->name, name) != 0)
        notes_add(&d->notes, "the machine is called '%.60s', and '%s' here", name, d->guest->name);
    describe_cut(os, d->guest->os, sizeof(d->guest->os), "the name of the guest operating system",
                 &d->notes);
    describe_parse_uuid(xml_word(xml_child(d->root, NULL, "uuid"), uuid, sizeof(uuid)),
                        d->guest->uuid);
    return 0;
}

/* ---- Disks ---- */

/* "vda", as it may be shown. */
static void target_name(const xmlNode *disk, char name[SHOWN_BYTES])
{
    char dev[32];

    shown(xml_attribute_word(xml_child(disk, NULL, "target"), NULL, "dev", dev, sizeof(dev)), name);
}

/* Where its content is: a file by its name, or not where we could take it from. */
static int parse_source(struct domain *d, const xmlNode *disk, const char *name, char file[256],
                        struct ferry_error *err)
{
    const xmlNode *source = xml_child(disk, NULL, "source");
    char type[16], cut[SHOWN_BYTES];

    xml_attribute_word(disk, NULL, "type", type, sizeof(type));
    bool volume = !strcmp(type, "volume");
    if (*type && !volume && strcmp(type, "file") != 0)
        return ferry_refuse(
            err, -EOPNOTSUPP, d->about,
            "has a disk (%.16s) that is not in a file but of type '%s': copy it to a "
            "file first",
            name, shown(type, cut));
    if (xml_child(disk, NULL, "encryption") || xml_child(source, NULL, "encryption"))
        return ferry_refuse(err, -EOPNOTSUPP, d->about, "has an encrypted disk (%.16s)", name);
    if (xml_child(source, NULL, "slices"))
        return ferry_refuse(err, -EOPNOTSUPP, d->about,
                            "has a disk (%.16s) that is only a part of its file", name);
    if (xml_child(xml_child(disk, NULL, "backingStore"), NULL, "source"))
        notes_add(&d->notes, "the files that disk %.16s builds on are left to the disk itself",
                  name);
    CLEANUP_FREE char *text = xml_attribute(source, NULL, volume ? "volume" : "file", NULL);
    if (!text)
        return ferry_fail(err, -ENOMEM, d->about, "out of memory");
    if (!*text)
        notes_add(&d->notes, "the disk %.16s has no file", name);
    return describe_copy(text, file, 256, "the name of a disk", d->about, err);
}

static void parse_bus(struct domain *d, const xmlNode *disk, const char *name,
                      struct guest_disk *out)
{
    char bus[16];

    xml_attribute_word(xml_child(disk, NULL, "target"), NULL, "bus", bus, sizeof(bus));
    out->bus = guest_bus_by_name(bus);
    if (!*bus) /* libvirt goes by the name then */
        out->bus = !strncmp(name, "sd", 2)   ? GUEST_BUS_SCSI
                   : !strncmp(name, "hd", 2) ? GUEST_BUS_IDE
                                             : GUEST_BUS_VIRTIO;
    else if (strcmp(guest_bus_name(out->bus), bus) != 0)
        notes_add(&d->notes, "the disk %.16s is on '%s', which is taken as virtio", name, bus);
}

static void parse_driver(struct domain *d, const xmlNode *disk, const char *name,
                         struct guest_disk *out)
{
    char type[16];

    xml_attribute_word(xml_child(disk, NULL, "driver"), NULL, "type", type, sizeof(type));
    const char *format = libvirt_format(type);
    if (format)
        snprintf(out->format, sizeof(out->format), "%s", format);
    else if (*type)
        notes_add(&d->notes, "the disk %.16s is in the format '%s'", name, type);
}

static int parse_disk(struct domain *d, const xmlNode *disk, struct ferry_error *err)
{
    uint32_t index = d->guest->disk_count++;
    char name[SHOWN_BYTES], word[40];

    if (index >= LIMIT_DISKS)
        return 0; /* guest_check tells how many there are */
    struct guest_disk *out = &d->guest->disks[index];
    target_name(disk, name);
    int error = parse_source(d, disk, name, out->file, err);
    if (error)
        return error;
    parse_bus(d, disk, name, out);
    parse_driver(d, disk, name, out);
    out->readonly = xml_child(disk, NULL, "readonly");
    if (xml_child(disk, NULL, "shareable"))
        notes_add(&d->notes, "the disk %s may be in use by other machines, too", name);
    if (xml_child(disk, NULL, "transient"))
        notes_add(&d->notes, "the disk %s forgets what is written to it; here it does not", name);
    CLEANUP_FREE char *serial = xml_text(xml_child(disk, NULL, "serial"));
    if (!serial)
        return ferry_fail(err, -ENOMEM, d->about, "out of memory");
    describe_cut(serial, out->serial, sizeof(out->serial), "the serial number of a disk",
                 &d->notes);
    xml_attribute_word(xml_child(disk, NULL, "boot"), NULL, "order", word, sizeof(word));
    if (describe_number(word, &d->boot_order[index]))
        d->boot_order[index] = UINT64_MAX;
    return 0;
}

static int parse_disks(struct domain *d, const xmlNode *devices, struct ferry_error *err)
{
    char device[16], name[SHOWN_BYTES];
    int error = 0;

    FOR_EACH_XML_CHILD(disk, devices, NULL, "disk")
    {
        if (error)
            return error;
        xml_attribute_word(disk, NULL, "device", device, sizeof(device));
        target_name(disk, name);
        if (!*device || !strcmp(device, "disk"))
            error = parse_disk(d, disk, err);
        else if (!strcmp(device, "cdrom") || !strcmp(device, "floppy"))
            notes_add(&d->notes, "the %s %.16s is not kept", device, name);
        else
            error = ferry_refuse(err, -EOPNOTSUPP, d->about,
                                 "has a disk (%.16s) that is a device of the host", name);
    }
    return error;
}

/* ---- Other devices ---- */

static int parse_nic(struct domain *d, const xmlNode *node, struct ferry_error *err)
{
    const xmlNode *source = xml_child(node, NULL, "source");
    char type[16], address[40];

    xml_attribute_word(node, NULL, "type", type, sizeof(type));
    if (!strcmp(type, "hostdev") || !strcmp(type, "vdpa")) {
        notes_add(&d->notes, "a network card of the host is not kept");
        return 0;
    }
    if (d->guest->nic_count++ >= LIMIT_NICS)
        return 0; /* guest_check tells how many there are */
    struct guest_nic *nic = &d->guest->nics[d->guest->nic_count - 1];
    const char *where = !strcmp(type, "network")  ? "network"
                        : !strcmp(type, "bridge") ? "bridge"
                                                  : "dev";
    CLEANUP_FREE char *network = xml_attribute(source, NULL, where, NULL);
    CLEANUP_FREE char *model = xml_attribute(xml_child(node, NULL, "model"), NULL, "type", NULL);
    if (!network || !model)
        return ferry_fail(err, -ENOMEM, d->about, "out of memory");
    if (*type && strcmp(type, "network") != 0 && strcmp(type, "user") != 0)
        notes_add(&d->notes, "the %s '%.40s' of network card %u is taken as the name of a network",
                  type, network, d->guest->nic_count);
    describe_cut(network, nic->network, sizeof(nic->network), "the name of a network", &d->notes);
    describe_cut(model, nic->model, sizeof(nic->model), "the model of a network card", &d->notes);
    describe_mac(
        xml_attribute_word(xml_child(node, NULL, "mac"), NULL, "address", address, sizeof(address)),
        nic, &d->notes);
    return 0;
}

static void note_devices(struct domain *d, const xmlNode *devices)
{
    static const char *const told[] = {"hostdev", "tpm",    "filesystem", "memory", "vsock",
                                       "shmem",   "crypto", "lease",      "nvram",  "smartcard"};

    for (size_t i = 0; i < sizeof(told) / sizeof(*told); i++)
        if (xml_child(devices, NULL, told[i]))
            notes_add(&d->notes, "the %s of the machine is not kept", told[i]);
    if (xml_child(d->root, NS_QEMU, "commandline"))
        notes_add(&d->notes, "arguments for QEMU's command line are not kept");
    if (xml_child(d->root, NULL, "launchSecurity"))
        notes_add(&d->notes, "the machine's memory was encrypted, and is not here");
}

/* ---- What ferry added ---- */

static void own_disk(struct domain *d, const xmlNode *node)
{
    uint64_t index, size;
    char word[40];

    if (describe_number(xml_attribute_word(node, NULL, "index", word, sizeof(word)), &index) ||
        index >= d->guest->disk_count)
        return;
    struct guest_disk *disk = &d->guest->disks[index];
    enum guest_bus bus =
        guest_bus_by_name(xml_attribute_word(node, NULL, "bus", word, sizeof(word)));
    if (libvirt_bus(bus) == disk->bus)
        disk->bus = bus;
    if (!describe_number(xml_attribute_word(node, NULL, "sizeBytes", word, sizeof(word)), &size))
        disk->size_bytes = size;
    xml_attribute_word(node, NULL, "format", word, sizeof(disk->format));
    if (!*disk->format)
        snprintf(disk->format, sizeof(disk->format), "%.15s", word);
    CLEANUP_FREE char *serial = xml_attribute(node, NULL, "serial", NULL);
    if (serial && !*disk->serial)
        describe_cut(serial, disk->serial, sizeof(disk->serial), "the serial number of a disk",
                     &d->notes);
}

/* What agrees with the rest, which may have been changed by hand since. */
static void parse_own(struct domain *d)
{
    const xmlNode *own = xml_child(xml_child(d->root, NULL, "metadata"), DESCRIBE_NS, "machine");
    CLEANUP_FREE char *os = xml_attribute(own, NULL, "os", NULL);
    struct guest *guest = d->guest;
    char word[64];

    if (!own || !os)
        return;
    enum guest_firmware firmware =
        guest_firmware_by_name(xml_attribute_word(own, NULL, "firmware", word, sizeof(word)));
    if (guest->firmware <= GUEST_FIRMWARE_BIOS && firmware <= GUEST_FIRMWARE_BIOS)
        guest->firmware = firmware; /* libvirt does not tell these apart */
    xml_attribute_word(own, NULL, "cpuModel", word, sizeof(guest->cpu_model));
    if (!strcmp(libvirt_cpu(word), guest->cpu_model))
        snprintf(guest->cpu_model, sizeof(guest->cpu_model), "%.31s", word);
    if (*os)
        describe_cut(os, guest->os, sizeof(guest->os), "the name of the guest operating system",
                     &d->notes);
    FOR_EACH_XML_CHILD(node, own, DESCRIBE_NS, "disk")
    own_disk(d, node);
}

/* By the boot order that they have, those without one behind in the order of the text. */
static void sort_disks(struct domain *d)
{
    for (uint32_t i = 1; i < d->guest->disk_count; i++)
        for (uint32_t j = i; j && d->boot_order[j] < d->boot_order[j - 1]; j--) {
            struct guest_disk disk = d->guest->disks[j];
            uint64_t order = d->boot_order[j];
            d->guest->disks[j] = d->guest->disks[j - 1];
            d->boot_order[j] = d->boot_order[j - 1];
            d->guest->disks[j - 1] = disk;
            d->boot_order[j - 1] = order;
        }
}

/* ---- The whole ---- */

static int parse_devices(struct domain *d, struct ferry_error *err)
{
    const xmlNode *devices = xml_child(d->root, NULL, "devices");

    int error = parse_disks(d, devices, err);
    FOR_EACH_XML_CHILD(node, devices, NULL, "interface")
    if (!error)
        error = parse_nic(d, node, err);
    d->guest->serial_console =
        xml_child(devices, NULL, "serial") || xml_child(devices, NULL, "console");
    note_devices(d, devices);
    return error;
}

static int parse_domain(struct domain *d, struct ferry_error *err)
{
    int error = parse_name(d, err);
    if (!error)
        error = parse_memory(d, err);
    if (!error)
        error = parse_cpus(d, err);
    if (!error)
        error = parse_cpu_model(d, err);
    if (!error)
        error = parse_os(d, err);
    if (!error)
        error = parse_devices(d, err);
    if (!error)
        error = guest_check(d->guest, d->about, err);
    if (error)
        return error;
    parse_own(d); /* by the place in the text, so before they are sorted */
    sort_disks(d);
    return guest_check(d->guest, d->about, err);
}

int libvirt_read(const char *text, size_t size, const char *about, struct guest *guest,
                 json_t *notes, struct ferry_error *err)
{
    CLEANUP(xml_free) xmlDoc *doc = NULL;
    struct domain d = {.about = about, .guest = guest, .notes = {.list = notes}};

    memset(guest, 0, sizeof(*guest));
    int error = xml_parse(text, size, about, &doc, err);
    if (error)
        return error;
    d.root = xmlDocGetRootElement(doc);
    if (!xml_is(d.root, NULL, "domain"))
        return ferry_refuse(err, -EBADMSG, about, "is not a libvirt domain: there is no <domain>");
    error = parse_domain(&d, err);
    return error ? error : notes_done(&d.notes, about, err);
}

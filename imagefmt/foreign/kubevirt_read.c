/*
 * A machine out of KubeVirt's VirtualMachine.  It says much that belongs to a cluster; what a
 * machine has of its own is read, what else it has is noted.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"
#include "imagefmt/foreign/oci.h"

#define DEFAULT_MEMORY (1 * GIB)
#define NEVER          INT32_MAX /* a disk without a place in the order of booting */

/* ---- Quantities ---- */

static const struct {
    const char *suffix;
    uint64_t unit;
} quantity_units[] = {
    {"Ei", GIB *GIB},  {"Pi", KIB *TIB},     {"Ti", TIB},
    {"Gi", GIB},       {"Mi", MIB},          {"Ki", KIB},
    {"", 1},           {"k", 1000},          {"M", 1000000},
    {"G", 1000000000}, {"T", 1000000000000}, {"P", 1000000000000000},
};

int kubevirt_parse_quantity(const char *text, uint64_t *value)
{
    size_t digits = strspn(text, "0123456789");

    *value = 0;
    if (!digits || digits > 18)
        return -EINVAL;
    for (size_t i = 0; i < digits; i++)
        *value = *value * 10 + (uint64_t)(text[i] - '0');
    for (size_t i = 0; i < sizeof(quantity_units) / sizeof(*quantity_units); i++)
        if (!strcmp(quantity_units[i].suffix, text + digits))
            return __builtin_mul_overflow(*value, quantity_units[i].unit, value) ? -EINVAL : 0;
    return -EINVAL;
}

char *kubevirt_format_quantity(uint64_t value, char text[KUBEVIRT_QUANTITY_BYTES])
{
    size_t i = 0;

    while (value ? value % quantity_units[i].unit != 0 : *quantity_units[i].suffix != 0)
        i++;
    snprintf(text, KUBEVIRT_QUANTITY_BYTES, "%llu%s",
             (unsigned long long)(value / quantity_units[i].unit), quantity_units[i].suffix);
    return text;
}

/* ---- Parts ---- */

/* json[key][...], NULL if there is no such thing. */
static const json_t *member(const json_t *json, const char *one, const char *two)
{
    json = json_object_get(json, one);
    return two ? json_object_get(json, two) : json;
}

static const char *string(const json_t *json, const char *one, const char *two)
{
    return json_string_value(member(json, one, two));
}

static uint64_t count(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 1;

    return number < 1 ? 1 : number > UINT16_MAX ? UINT16_MAX : (uint64_t)number;
}

static void read_cpu(const json_t *domain, struct guest *guest, struct notes *notes)
{
    const json_t *cpu = json_object_get(domain, "cpu");
    const json_t *resources = json_object_get(domain, "resources");
    const char *model = string(cpu, "model", NULL);
    const char *asked = string(resources, "limits", "cpu");
    uint64_t value = 1;

    asked = asked ? asked : string(resources, "requests", "cpu");
    if (cpu && (json_object_get(cpu, "cores") || json_object_get(cpu, "sockets") ||
                json_object_get(cpu, "threads")))
        value = count(cpu, "cores") * count(cpu, "sockets") * count(cpu, "threads");
    else if (!asked || kubevirt_parse_quantity(asked, &value) || !value)
        notes_add(notes, "it does not say how many CPUs it has: 1 is assumed");
    guest->cpus = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    if (model && !strcmp(model, "host-passthrough"))
        snprintf(guest->cpu_model, sizeof(guest->cpu_model), "host");
    else if (model)
        notes_add(notes, "the CPU model %s is not kept", model);
}

static int read_memory(const json_t *domain, const char *about, struct guest *guest,
                       struct notes *notes, struct ferry_error *err)
{
    const char *text = string(domain, "memory", "guest");
    const json_t *resources = json_object_get(domain, "resources");
    char shown_text[SHOWN_BYTES];

    text = text ? text : string(resources, "requests", "memory");
    text = text ? text : string(resources, "limits", "memory");
    if (!text) {
        notes_add(notes, "it does not say how much memory it has: 1 GiB is assumed");
        guest->memory_bytes = DEFAULT_MEMORY;
        return 0;
    }
    if (kubevirt_parse_quantity(text, &guest->memory_bytes))
        return ferry_refuse(err, -EBADMSG, about, "has \"%s\" of memory, which is no quantity",
                            shown(text, shown_text));
    guest->memory_bytes = guest->memory_bytes / 4096 * 4096; /* a quantity may be of any size */
    return 0;
}

static void read_firmware(const json_t *domain, struct guest *guest, struct notes *notes)
{
    const json_t *loader = member(domain, "firmware", "bootloader");
    const json_t *efi = json_object_get(loader, "efi");
    const char *uuid = string(domain, "firmware", "uuid");

    /* Secure Boot is what KubeVirt takes where an EFI does not say. */
    guest->firmware = !efi ? GUEST_FIRMWARE_BIOS
                      : json_is_false(json_object_get(efi, "secureBoot"))
                          ? GUEST_FIRMWARE_EFI
                          : GUEST_FIRMWARE_EFI_SECURE;
    if (uuid && describe_parse_uuid(uuid, guest->uuid))
        notes_add(notes, "the UUID '%s' is none", uuid);
    if (member(domain, "firmware", "kernelBoot"))
        notes_add(notes, "it starts a kernel out of a container, which is not kept");
}

static const json_t *by_name(const json_t *array, const char *name)
{
    size_t i;
    json_t *one;

    json_array_foreach(array, i, one)
    {
        const char *other = string(one, "name", NULL);
        if (other && !strcmp(other, name))
            return one;
    }
    return NULL;
}

static void read_nics(const json_t *spec, struct guest *guest, struct notes *notes)
{
    const json_t *interfaces = member(member(spec, "domain", "devices"), "interfaces", NULL);
    size_t i;
    json_t *one;

    json_array_foreach(interfaces, i, one)
    {
        const char *name = string(one, "name", NULL), *mac = string(one, "macAddress", NULL);
        const char *model = string(one, "model", NULL), *network = NULL;
        if (guest->nic_count == LIMIT_NICS) {
            notes_add(notes, "of %zu network cards, %d are kept", json_array_size(interfaces),
                      LIMIT_NICS);
            return;
        }
        struct guest_nic *nic = &guest->nics[guest->nic_count++];
        if (mac)
            describe_mac(mac, nic, notes);
        if (name)
            network =
                string(by_name(json_object_get(spec, "networks"), name), "multus", "networkName");
        describe_cut(network ? network : "", nic->network, sizeof(nic->network), "network", notes);
        describe_cut(model ? model : "virtio", nic->model, sizeof(nic->model), "model", notes);
    }
}

/* ---- Disks ---- */

struct found_disk {
    struct guest_disk disk;
    json_int_t order;
    size_t place;       /* among the layers */
    const char *volume; /* NULL: there is none */
};

static int by_order(const void *one, const void *two)
{
    const struct found_disk *a = one, *b = two;

    if (a->order != b->order)
        return a->order < b->order ? -1 : 1;
    return a->place < b->place ? -1 : 1;
}

/* The volume of a layer: by its name, or by that of its claim, which some versions of KubeVirt
 * write there. */
static const char *volume_of(const json_t *spec, const char *layer)
{
    const json_t *volumes = json_object_get(spec, "volumes");
    size_t i;
    json_t *one;

    if (by_name(volumes, layer))
        return layer;
    json_array_foreach(volumes, i, one)
    {
        const char *claim = string(one, "persistentVolumeClaim", "claimName");
        const char *name = string(one, "name", NULL);
        if (claim && name && !strcmp(claim, layer))
            return name;
    }
    return NULL;
}

static void describe_disk(const json_t *device, struct found_disk *found, struct notes *notes)
{
    const json_t *order = json_object_get(device, "bootOrder");
    const char *serial = string(device, "serial", NULL);
    const char *bus = string(device, "disk", "bus");

    if (json_is_integer(order) && json_integer_value(order) > 0)
        found->order = json_integer_value(order);
    if (serial)
        describe_cut(serial, found->disk.serial, sizeof(found->disk.serial), "serial number",
                     notes);
    found->disk.bus = guest_bus_by_name(bus ? bus : "virtio");
    found->disk.readonly = json_is_true(member(device, "disk", "readonly"));
}

static void note_other_volumes(const json_t *volumes, const struct found_disk *found, size_t total,
                               struct notes *notes)
{
    size_t i;
    json_t *volume;

    json_array_foreach(volumes, i, volume)
    {
        const char *name = string(volume, "name", NULL);
        bool kept = false;
        for (size_t k = 0; name && k < total; k++)
            kept |= found[k].volume && !strcmp(found[k].volume, name);
        if (!kept)
            notes_add(notes, "the volume %s is not in the artifact, and is not kept",
                      name ? name : "without a name");
    }
}

static void read_disks(const json_t *spec, const json_t *layers, struct guest *guest,
                       struct notes *notes)
{
    const json_t *devices = member(member(spec, "domain", "devices"), "disks", NULL);
    struct found_disk found[LIMIT_DISKS] = {0};
    size_t total = json_array_size(layers);

    for (size_t i = 0; i < total; i++) {
        const char *layer = json_string_value(json_array_get(layers, i));
        found[i].volume = volume_of(spec, layer);
        const json_t *device = found[i].volume ? by_name(devices, found[i].volume) : NULL;
        found[i].order = NEVER;
        found[i].place = i;
        describe_cut(layer, found[i].disk.file, sizeof(found[i].disk.file), "volume", notes);
        if (device)
            describe_disk(device, &found[i], notes);
        else
            notes_add(notes, "the disk %s is in no description of the machine", layer);
    }
    note_other_volumes(json_object_get(spec, "volumes"), found, total, notes);
    qsort(found, total, sizeof(*found), by_order);
    for (guest->disk_count = 0; guest->disk_count < total; guest->disk_count++)
        guest->disks[guest->disk_count] = found[guest->disk_count].disk;
}

/* ---- The whole ---- */

static void note_devices(const json_t *devices, struct notes *notes)
{
    static const char *const kinds[] = {"gpus", "hostDevices", "filesystems", "sound",
                                        "tpm",  "watchdog",    "inputs",      "downwardMetrics"};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (json_object_get(devices, kinds[i]))
            notes_add(notes, "devices of the kind \"%s\" are not kept", kinds[i]);
}

int kubevirt_read(const json_t *machine, const json_t *layers, const char *about,
                  struct guest *guest, struct notes *notes, struct ferry_error *err)
{
    const json_t *spec = member(member(machine, "spec", "template"), "spec", NULL);
    const json_t *domain = json_object_get(spec, "domain");
    const char *kind = string(machine, "kind", NULL), *name = string(machine, "metadata", "name");
    const char *architecture = string(spec, "architecture", NULL);
    char shown_text[SHOWN_BYTES];

    *guest = (struct guest){0};
    if (!kind || strcmp(kind, "VirtualMachine") || !json_is_object(domain))
        return ferry_refuse(err, -EBADMSG, about, "its config does not describe a VirtualMachine");
    if (architecture && strcmp(architecture, "amd64"))
        return ferry_refuse(err, -EOPNOTSUPP, about, "is a machine for %s, not amd64",
                            shown(architecture, shown_text));
    if (json_array_size(layers) > LIMIT_DISKS)
        return ferry_refuse(err, -EBADMSG, about, "has %zu disks; at most %d are possible",
                            json_array_size(layers), LIMIT_DISKS);
    if (member(machine, "spec", "instancetype"))
        notes_add(notes, "its size is an instance type of its cluster, which is not known here");
    guest_set_name(guest, name ? name : "");
    guest->serial_console = !json_is_false(member(domain, "devices", "autoattachSerialConsole"));
    read_cpu(domain, guest, notes);
    read_firmware(domain, guest, notes);
    read_nics(spec, guest, notes);
    read_disks(spec, layers, guest, notes);
    note_devices(json_object_get(domain, "devices"), notes);
    int error = read_memory(domain, about, guest, notes, err);
    if (!error)
        error = notes_done(notes, about, err);
    return error ? error : guest_check(guest, about, err);
}

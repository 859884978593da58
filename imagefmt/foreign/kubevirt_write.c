/*
 * A machine as KubeVirt's VirtualMachine (kubevirt.io/v1), as its exports have it: halted, each
 * disk a volume on a claim of the same name.  A network is a cluster's own business: the first
 * card goes to the pod's network, others to networks by the name they had.
 */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "imagefmt/foreign/oci.h"

#define LABEL_BYTES 64 /* of a name in Kubernetes (RFC 1123) */

/* text as a name in Kubernetes, other if nothing is left of it. */
static const char *label(const char *text, const char *other, char out[LABEL_BYTES])
{
    size_t length = 0;

    for (; *text && length < LABEL_BYTES - 1; text++) {
        bool good = isascii((unsigned char)*text) && isalnum((unsigned char)*text);
        if (good)
            out[length++] = (char)tolower((unsigned char)*text);
        else if (length && out[length - 1] != '-')
            out[length++] = '-';
    }
    while (length && out[length - 1] == '-')
        length--;
    out[length] = 0;
    return length ? out : other;
}

/* Steals value, also on failure. */
static void set(json_t *object, const char *key, json_t *value, bool *failed)
{
    *failed |= json_object_set_new(object, key, value) != 0;
}

static void append(json_t *array, json_t *value, bool *failed)
{
    *failed |= json_array_append_new(array, value) != 0;
}

/* ---- Devices ---- */

static const char *bus_of(const struct guest_disk *disk, uint32_t index, struct notes *notes)
{
    switch (disk->bus) {
    case GUEST_BUS_IDE:
    case GUEST_BUS_NVME:
        notes_add(notes, "disk %u: KubeVirt has no %s; it is told SATA", index,
                  guest_bus_name(disk->bus));
        return "sata";
    default:
        return guest_bus_name(disk->bus);
    }
}

static json_t *disk_json(const struct guest_disk *disk, uint32_t index, struct notes *notes,
                         bool *failed)
{
    char name[OCI_DISK_NAME_BYTES];
    json_t *target = json_pack("{s:s}", "bus", bus_of(disk, index, notes));

    if (disk->readonly)
        set(target, "readonly", json_true(), failed);
    json_t *json = json_pack("{s:s, s:o, s:i}", "name", oci_disk_name(index, name), "disk", target,
                             "bootOrder", (int)index + 1);
    if (disk->serial[0] && utf8_valid(disk->serial, strlen(disk->serial)))
        set(json, "serial", json_string(disk->serial), failed);
    return json;
}

static const char *model_of(const struct guest_nic *nic, uint32_t index, struct notes *notes)
{
    static const char *const known[] = {"virtio",   "e1000", "e1000e",
                                        "ne2k_pci", "pcnet", "rtl8139"};

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(nic->model, known[i]))
            return known[i];
    if (nic->model[0])
        notes_add(notes, "network card %u: KubeVirt has no %s; it is told virtio", index,
                  nic->model);
    return "virtio";
}

static void add_nic(const struct guest_nic *nic, uint32_t index, json_t *interfaces,
                    json_t *networks, struct notes *notes, bool *failed)
{
    char name[16], mac[18], network[LABEL_BYTES];

    snprintf(name, sizeof(name), "net%u", index);
    json_t *interface = json_pack("{s:s, s:s, s:{}}", "name", name, "model",
                                  model_of(nic, index, notes), index ? "bridge" : "masquerade");
    if (nic->has_mac)
        set(interface, "macAddress", json_string(guest_format_mac(nic->mac, mac)), failed);
    append(interfaces, interface, failed);
    if (!index) {
        append(networks, json_pack("{s:s, s:{}}", "name", name, "pod"), failed);
        return;
    }
    append(networks,
           json_pack("{s:s, s:{s:s}}", "name", name, "multus", "networkName",
                     label(nic->network, name, network)),
           failed);
    notes_add(notes, "network card %u: the cluster needs a network called %s", index,
              label(nic->network, name, network));
}

static json_t *devices_json(const struct guest *guest, json_t *volumes, json_t *networks,
                            struct notes *notes, bool *failed)
{
    json_t *disks = json_array(), *interfaces = json_array();

    for (uint32_t i = 0; i < guest->disk_count; i++) {
        char name[OCI_DISK_NAME_BYTES];
        oci_disk_name(i, name);
        append(disks, disk_json(&guest->disks[i], i, notes, failed), failed);
        append(
            volumes,
            json_pack("{s:s, s:{s:s}}", "name", name, "persistentVolumeClaim", "claimName", name),
            failed);
    }
    for (uint32_t i = 0; i < guest->nic_count; i++)
        add_nic(&guest->nics[i], i, interfaces, networks, notes, failed);
    json_t *json = json_pack("{s:o, s:o}", "disks", disks, "interfaces", interfaces);
    if (guest->serial_console)
        set(json, "autoattachSerialConsole", json_true(), failed);
    if (!guest->nic_count) /* a machine that says nothing is given a card */
        set(json, "autoattachPodInterface", json_false(), failed);
    return json;
}

/* ---- The machine ---- */

static json_t *firmware_json(const struct guest *guest, struct notes *notes, bool *failed)
{
    static const uint8_t none[16];
    char uuid[37];
    json_t *json = json_object();
    bool secure = guest->firmware == GUEST_FIRMWARE_EFI_SECURE;

    if (memcmp(guest->uuid, none, sizeof(none)))
        set(json, "uuid", json_string(describe_format_uuid(guest->uuid, uuid)), failed);
    if (guest->firmware == GUEST_FIRMWARE_BIOS)
        set(json, "bootloader", json_pack("{s:{}}", "bios"), failed);
    if (guest->firmware == GUEST_FIRMWARE_EFI || secure)
        set(json, "bootloader", json_pack("{s:{s:b}}", "efi", "secureBoot", (int)secure), failed);
    if (guest->firmware == GUEST_FIRMWARE_NONE)
        notes_add(notes, "KubeVirt starts a kernel directly only from a container: there the "
                         "machine would boot from its first disk");
    return json;
}

static json_t *cpu_json(const struct guest *guest, struct notes *notes, bool *failed)
{
    json_t *json =
        json_pack("{s:i, s:I, s:i}", "sockets", 1, "cores", (json_int_t)guest->cpus, "threads", 1);

    if (!strcmp(guest->cpu_model, "host"))
        set(json, "model", json_string("host-passthrough"), failed);
    else if (guest->cpu_model[0])
        notes_add(notes, "KubeVirt has no CPU model %s; it takes that of its cluster",
                  guest->cpu_model);
    return json;
}

static json_t *domain_json(const struct guest *guest, json_t *volumes, json_t *networks,
                           struct notes *notes, bool *failed)
{
    char memory[KUBEVIRT_QUANTITY_BYTES];

    json_t *json =
        json_pack("{s:o, s:{s:s}, s:o, s:o}", "cpu", cpu_json(guest, notes, failed), "memory",
                  "guest", kubevirt_format_quantity(guest->memory_bytes, memory), "firmware",
                  firmware_json(guest, notes, failed), "devices",
                  devices_json(guest, volumes, networks, notes, failed));
    if (guest->firmware == GUEST_FIRMWARE_EFI_SECURE) /* without, KubeVirt refuses it */
        set(json, "features", json_pack("{s:{s:b}}", "smm", "enabled", 1), failed);
    return json;
}

int kubevirt_write(const struct guest *guest, struct notes *notes, json_t **out,
                   struct ferry_error *err)
{
    json_t *volumes = json_array(), *networks = json_array();
    char name[LABEL_BYTES];
    bool failed = !volumes || !networks;

    json_t *domain = domain_json(guest, volumes, networks, notes, &failed);
    *out = json_pack("{s:s, s:s, s:{s:s}, s:{s:s, s:{s:{}, s:{s:s, s:o, s:o, s:o}}}}", "apiVersion",
                     "kubevirt.io/v1", "kind", "VirtualMachine", "metadata", "name",
                     label(guest->name, "machine", name), "spec", "runStrategy", "Halted",
                     "template", "metadata", "spec", "architecture", "amd64", "domain", domain,
                     "networks", networks, "volumes", volumes);
    if (*out && !failed)
        return 0;
    json_decref(*out);
    *out = NULL;
    return ferry_fail(err, -ENOMEM, NULL, "out of memory");
}

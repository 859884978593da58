/*
 * ova.xml: XML-RPC's structs, as XAPI writes its own objects.  Each object is there with all fields
 * that XAPI's import of any version looks for; those that mean nothing here have the value of a
 * machine that was just created.  The uuids come from the name, so that they are always the same.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/xva.h"

#define REF_VM      0
#define REF_SR      1
#define REF_VBD     20
#define REF_VIF     40
#define REF_NETWORK 60
#define NULL_REF    "OpaqueRef:NULL"

struct composer {
    struct text t;
    struct notes notes;
    const struct guest *guest;
};

/* ---- Values ---- */

static void begin(struct composer *c, const char *name)
{
    text_printf(&c->t, "<member><name>%s</name><value>", name);
}

static void end(struct composer *c)
{
    text_add(&c->t, "</value></member>\n");
}

static void string(struct composer *c, const char *name, const char *value)
{
    begin(c, name);
    text_xml(&c->t, value);
    end(c);
}

static void number(struct composer *c, const char *name, uint64_t value)
{
    begin(c, name);
    text_printf(&c->t, "%" PRIu64, value);
    end(c);
}

static void boolean(struct composer *c, const char *name, bool value)
{
    begin(c, name);
    text_printf(&c->t, "<boolean>%d</boolean>", value);
    end(c);
}

static void ref(struct composer *c, const char *name, uint32_t value)
{
    begin(c, name);
    text_printf(&c->t, "Ref:%u", value);
    end(c);
}

/* first, first + 1 ... */
static void refs(struct composer *c, const char *name, uint32_t first, uint32_t count)
{
    begin(c, name);
    text_add(&c->t, "<array><data>");
    for (uint32_t i = 0; i < count; i++)
        text_printf(&c->t, "<value>Ref:%u</value>", first + i);
    text_add(&c->t, "</data></array>");
    end(c);
}

static void begin_struct(struct composer *c, const char *name)
{
    begin(c, name);
    text_add(&c->t, "<struct>");
}

static void end_struct(struct composer *c)
{
    text_add(&c->t, "</struct>");
    end(c);
}

/* A uuid that is always the same for what and its number in a machine of this name. */
static void uuid(struct composer *c, const char *what, uint32_t index)
{
    char name[LIMIT_NAME_BYTES + 32], text[37];
    uint8_t sum[SHA256_BYTES];

    int size = snprintf(name, sizeof(name), "%s/%s/%u", c->guest->name, what, index);
    sha256(name, (size_t)size, sum);
    string(c, "uuid", describe_format_uuid(sum, text));
}

enum plain_kind {
    PLAIN_STRING,
    PLAIN_NO, /* a boolean */
    PLAIN_STRUCT,
    PLAIN_ARRAY,
    PLAIN_NULL_REF,
    PLAIN_TIME,
};

/* A field without meaning here. */
struct plain {
    const char *name;
    enum plain_kind kind;
    const char *value;
};

static void plain_fields(struct composer *c, const struct plain *fields)
{
    static const char *const values[] = {
        [PLAIN_NO] = "<boolean>0</boolean>",
        [PLAIN_STRUCT] = "<struct></struct>",
        [PLAIN_ARRAY] = "<array><data></data></array>",
        [PLAIN_NULL_REF] = NULL_REF,
        [PLAIN_TIME] = "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>",
    };

    for (; fields->name; fields++) {
        begin(c, fields->name);
        text_add(&c->t, fields->kind == PLAIN_STRING ? fields->value : values[fields->kind]);
        end(c);
    }
}

static void begin_object(struct composer *c, const char *class, uint32_t id)
{
    text_add(&c->t, "<value><struct>\n");
    string(c, "class", class);
    ref(c, "id", id);
    begin_struct(c, "snapshot");
}

static void end_object(struct composer *c)
{
    end_struct(c);
    text_add(&c->t, "</struct></value>\n");
}

/* ---- Objects ---- */

static void compose_boot(struct composer *c)
{
    enum guest_firmware firmware = c->guest->firmware;
    bool efi = firmware == GUEST_FIRMWARE_EFI || firmware == GUEST_FIRMWARE_EFI_SECURE;

    string(c, "HVM_boot_policy", "BIOS order");
    begin_struct(c, "HVM_boot_params");
    string(c, "order", "cd");
    string(c, "firmware", efi ? "uefi" : "bios");
    end_struct(c);
    begin_struct(c, "platform");
    string(c, "acpi", "1");
    string(c, "apic", "true");
    string(c, "nx", "true");
    string(c, "pae", "true");
    string(c, "stdvga", "0");
    string(c, "viridian", "false");
    string(c, "device-model", efi ? "qemu-upstream-uefi" : "qemu-upstream-compat");
    if (efi)
        string(c, "secureboot", firmware == GUEST_FIRMWARE_EFI_SECURE ? "true" : "false");
    end_struct(c);
    if (firmware == GUEST_FIRMWARE_NONE)
        notes_add(&c->notes, "the kernel that is started directly, its initrd and command line are "
                             "not kept: the machine boots from its first disk there");
}

static const struct plain vm_fields[] = {
    {"power_state", PLAIN_STRING, "Halted"},
    {"name_description", PLAIN_STRING, ""},
    {"user_version", PLAIN_STRING, "1"},
    {"is_a_template", PLAIN_NO, NULL},
    {"is_default_template", PLAIN_NO, NULL},
    {"suspend_VDI", PLAIN_NULL_REF, NULL},
    {"resident_on", PLAIN_NULL_REF, NULL},
    {"affinity", PLAIN_NULL_REF, NULL},
    {"memory_overhead", PLAIN_STRING, "0"},
    {"memory_target", PLAIN_STRING, "0"},
    {"VCPUs_params", PLAIN_STRUCT, NULL},
    {"actions_after_shutdown", PLAIN_STRING, "destroy"},
    {"actions_after_reboot", PLAIN_STRING, "restart"},
    {"actions_after_crash", PLAIN_STRING, "restart"},
    {"consoles", PLAIN_ARRAY, NULL},
    {"crash_dumps", PLAIN_ARRAY, NULL},
    {"VTPMs", PLAIN_ARRAY, NULL},
    {"PV_bootloader", PLAIN_STRING, ""},
    {"PV_kernel", PLAIN_STRING, ""},
    {"PV_ramdisk", PLAIN_STRING, ""},
    {"PV_args", PLAIN_STRING, ""},
    {"PV_bootloader_args", PLAIN_STRING, ""},
    {"PV_legacy_args", PLAIN_STRING, ""},
    {"HVM_shadow_multiplier", PLAIN_STRING, "<double>1</double>"},
    {"PCI_bus", PLAIN_STRING, ""},
    {"other_config", PLAIN_STRUCT, NULL},
    {"domid", PLAIN_STRING, "-1"},
    {"domarch", PLAIN_STRING, ""},
    {"domain_type", PLAIN_STRING, "hvm"},
    {"last_boot_CPU_flags", PLAIN_STRUCT, NULL},
    {"is_control_domain", PLAIN_NO, NULL},
    {"metrics", PLAIN_NULL_REF, NULL},
    {"guest_metrics", PLAIN_NULL_REF, NULL},
    {"last_booted_record", PLAIN_STRING, ""},
    {"recommendations", PLAIN_STRING, ""},
    {"xenstore_data", PLAIN_STRUCT, NULL},
    {"ha_always_run", PLAIN_NO, NULL},
    {"ha_restart_priority", PLAIN_STRING, ""},
    {"is_a_snapshot", PLAIN_NO, NULL},
    {"snapshot_of", PLAIN_NULL_REF, NULL},
    {"snapshots", PLAIN_ARRAY, NULL},
    {"snapshot_time", PLAIN_TIME, NULL},
    {"transportable_snapshot_id", PLAIN_STRING, ""},
    {"blobs", PLAIN_STRUCT, NULL},
    {"tags", PLAIN_ARRAY, NULL},
    {"blocked_operations", PLAIN_STRUCT, NULL},
    {"snapshot_info", PLAIN_STRUCT, NULL},
    {"snapshot_metadata", PLAIN_STRING, ""},
    {"parent", PLAIN_NULL_REF, NULL},
    {"children", PLAIN_ARRAY, NULL},
    {"bios_strings", PLAIN_STRUCT, NULL},
    {"protection_policy", PLAIN_NULL_REF, NULL},
    {"is_snapshot_from_vmpp", PLAIN_NO, NULL},
    {"appliance", PLAIN_NULL_REF, NULL},
    {"start_delay", PLAIN_STRING, "0"},
    {"shutdown_delay", PLAIN_STRING, "0"},
    {"order", PLAIN_STRING, "0"},
    {"VGPUs", PLAIN_ARRAY, NULL},
    {"attached_PCIs", PLAIN_ARRAY, NULL},
    {"suspend_SR", PLAIN_NULL_REF, NULL},
    {"version", PLAIN_STRING, "0"},
    {"generation_id", PLAIN_STRING, ""},
    {"hardware_platform_version", PLAIN_STRING, "0"},
    {"has_vendor_device", PLAIN_NO, NULL},
    {"requires_reboot", PLAIN_NO, NULL},
    {"reference_label", PLAIN_STRING, ""},
    {NULL, PLAIN_STRING, NULL},
};

static void compose_vm(struct composer *c)
{
    const struct guest *guest = c->guest;
    char text[37];

    begin_object(c, "VM", REF_VM);
    if (memcmp(guest->uuid, (uint8_t[16]){0}, 16) != 0)
        string(c, "uuid", describe_format_uuid(guest->uuid, text));
    else
        uuid(c, "VM", 0);
    string(c, "name_label", guest->name);
    number(c, "memory_static_max", guest->memory_bytes);
    number(c, "memory_dynamic_max", guest->memory_bytes);
    number(c, "memory_dynamic_min", guest->memory_bytes);
    number(c, "memory_static_min", guest->memory_bytes);
    number(c, "VCPUs_max", guest->cpus);
    number(c, "VCPUs_at_startup", guest->cpus);
    refs(c, "VIFs", REF_VIF, guest->nic_count);
    refs(c, "VBDs", REF_VBD, guest->disk_count);
    compose_boot(c);
    plain_fields(c, vm_fields);
    end_object(c);
}

static void compose_vbd(struct composer *c, uint32_t index)
{
    static const struct plain fields[] = {
        {"type", PLAIN_STRING, "Disk"},
        {"unpluggable", PLAIN_NO, NULL},
        {"storage_lock", PLAIN_NO, NULL},
        {"empty", PLAIN_NO, NULL},
        {"other_config", PLAIN_STRUCT, NULL},
        {"currently_attached", PLAIN_NO, NULL},
        {"status_code", PLAIN_STRING, "0"},
        {"status_detail", PLAIN_STRING, ""},
        {"runtime_properties", PLAIN_STRUCT, NULL},
        {"qos_algorithm_type", PLAIN_STRING, ""},
        {"qos_algorithm_params", PLAIN_STRUCT, NULL},
        {"qos_supported_algorithms", PLAIN_ARRAY, NULL},
        {"metrics", PLAIN_NULL_REF, NULL},
        {NULL, PLAIN_STRING, NULL},
    };
    char device[8];

    begin_object(c, "VBD", REF_VBD + index);
    uuid(c, "VBD", index);
    ref(c, "VM", REF_VM);
    ref(c, "VDI", XVA_DISK_REF + index);
    snprintf(device, sizeof(device), "xvd%c", (char)('a' + index));
    string(c, "device", device);
    number(c, "userdevice", index);
    boolean(c, "bootable", index == 0);
    string(c, "mode", c->guest->disks[index].readonly ? "RO" : "RW");
    plain_fields(c, fields);
    end_object(c);
}

static void compose_vdi(struct composer *c, uint32_t index, uint64_t size)
{
    static const struct plain fields[] = {
        {"name_description", PLAIN_STRING, ""},
        {"physical_utilisation", PLAIN_STRING, "0"},
        {"type", PLAIN_STRING, "user"},
        {"sharable", PLAIN_NO, NULL},
        {"read_only", PLAIN_NO, NULL},
        {"other_config", PLAIN_STRUCT, NULL},
        {"storage_lock", PLAIN_NO, NULL},
        {"location", PLAIN_STRING, ""},
        {"managed", PLAIN_STRING, "<boolean>1</boolean>"},
        {"missing", PLAIN_NO, NULL},
        {"parent", PLAIN_NULL_REF, NULL},
        {"crash_dumps", PLAIN_ARRAY, NULL},
        {"xenstore_data", PLAIN_STRUCT, NULL},
        {"sm_config", PLAIN_STRUCT, NULL},
        {"is_a_snapshot", PLAIN_NO, NULL},
        {"snapshot_of", PLAIN_NULL_REF, NULL},
        {"snapshots", PLAIN_ARRAY, NULL},
        {"snapshot_time", PLAIN_TIME, NULL},
        {"tags", PLAIN_ARRAY, NULL},
        {NULL, PLAIN_STRING, NULL},
    };
    char name[LIMIT_NAME_BYTES + 16];

    begin_object(c, "VDI", XVA_DISK_REF + index);
    uuid(c, "VDI", index);
    snprintf(name, sizeof(name), "%s disk %u", c->guest->name, index + 1);
    string(c, "name_label", name);
    ref(c, "SR", REF_SR);
    refs(c, "VBDs", REF_VBD + index, 1);
    number(c, "virtual_size", size);
    plain_fields(c, fields);
    end_object(c);
    if (*c->guest->disks[index].serial)
        notes_add(&c->notes, "disk %u has another serial number there than '%s'", index + 1,
                  c->guest->disks[index].serial);
}

static void compose_sr(struct composer *c)
{
    static const struct plain fields[] = {
        {"name_label", PLAIN_STRING, "Local storage"},
        {"name_description", PLAIN_STRING, ""},
        {"PBDs", PLAIN_ARRAY, NULL},
        {"virtual_allocation", PLAIN_STRING, "0"},
        {"physical_utilisation", PLAIN_STRING, "0"},
        {"physical_size", PLAIN_STRING, "0"},
        {"type", PLAIN_STRING, "ext"},
        {"content_type", PLAIN_STRING, "user"},
        {"shared", PLAIN_NO, NULL},
        {"other_config", PLAIN_STRUCT, NULL},
        {"tags", PLAIN_ARRAY, NULL},
        {"default_vdi_visibility", PLAIN_STRING, "<boolean>1</boolean>"},
        {"sm_config", PLAIN_STRUCT, NULL},
        {"blobs", PLAIN_STRUCT, NULL},
        {NULL, PLAIN_STRING, NULL},
    };

    begin_object(c, "SR", REF_SR);
    uuid(c, "SR", 0);
    refs(c, "VDIs", XVA_DISK_REF, c->guest->disk_count);
    plain_fields(c, fields);
    end_object(c);
}

static void compose_vif(struct composer *c, uint32_t index)
{
    static const struct plain fields[] = {
        {"MTU", PLAIN_STRING, "1500"},
        {"other_config", PLAIN_STRUCT, NULL},
        {"currently_attached", PLAIN_NO, NULL},
        {"status_code", PLAIN_STRING, "0"},
        {"status_detail", PLAIN_STRING, ""},
        {"runtime_properties", PLAIN_STRUCT, NULL},
        {"qos_algorithm_type", PLAIN_STRING, ""},
        {"qos_algorithm_params", PLAIN_STRUCT, NULL},
        {"qos_supported_algorithms", PLAIN_ARRAY, NULL},
        {"metrics", PLAIN_NULL_REF, NULL},
        {"locking_mode", PLAIN_STRING, "network_default"},
        {NULL, PLAIN_STRING, NULL},
    };
    const struct guest_nic *nic = &c->guest->nics[index];
    char mac[18];

    begin_object(c, "VIF", REF_VIF + index);
    uuid(c, "VIF", index);
    number(c, "device", index);
    ref(c, "network", REF_NETWORK + index);
    ref(c, "VM", REF_VM);
    string(c, "MAC", nic->has_mac ? guest_format_mac(nic->mac, mac) : "");
    boolean(c, "MAC_autogenerated", !nic->has_mac);
    plain_fields(c, fields);
    end_object(c);
}

static void compose_network(struct composer *c, uint32_t index)
{
    static const struct plain fields[] = {
        {"name_description", PLAIN_STRING, ""},
        {"PIFs", PLAIN_ARRAY, NULL},
        {"MTU", PLAIN_STRING, "1500"},
        {"other_config", PLAIN_STRUCT, NULL},
        {"bridge", PLAIN_STRING, ""},
        {"blobs", PLAIN_STRUCT, NULL},
        {"tags", PLAIN_ARRAY, NULL},
        {"default_locking_mode", PLAIN_STRING, "unlocked"},
        {NULL, PLAIN_STRING, NULL},
    };

    begin_object(c, "network", REF_NETWORK + index);
    uuid(c, "network", index);
    string(c, "name_label", c->guest->nics[index].network);
    refs(c, "VIFs", REF_VIF + index, 1);
    plain_fields(c, fields);
    end_object(c);
}

/* ---- The whole ---- */

static void compose_version(struct composer *c)
{
    static const struct plain fields[] = {
        {"hostname", PLAIN_STRING, "localhost"},
        {"date", PLAIN_STRING, "1970-01-01"},
        {"product_version", PLAIN_STRING, "8.2.0"},
        {"product_brand", PLAIN_STRING, "XenServer"},
        {"build_number", PLAIN_STRING, "0"},
        {"xapi_major", PLAIN_STRING, "1"},
        {"xapi_minor", PLAIN_STRING, "20"},
        {"export_vsn", PLAIN_STRING, "2"},
        {NULL, PLAIN_STRING, NULL},
    };

    begin_struct(c, "version");
    plain_fields(c, fields);
    end_struct(c);
}

static void free_composer(struct composer *c)
{
    text_free(&c->t);
}

int xva_describe(const struct guest *guest, const uint64_t *sizes, json_t *notes, char **text,
                 size_t *size, struct ferry_error *err)
{
    CLEANUP(free_composer)
    struct composer c = {.t = text_init(), .notes = {.list = notes}, .guest = guest};

    text_add(&c.t, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<value><struct>\n");
    compose_version(&c);
    text_add(&c.t, "<member><name>objects</name><value><array><data>\n");
    compose_vm(&c);
    for (uint32_t i = 0; i < guest->disk_count; i++)
        compose_vbd(&c, i);
    for (uint32_t i = 0; i < guest->nic_count; i++)
        compose_vif(&c, i);
    for (uint32_t i = 0; i < guest->nic_count; i++)
        compose_network(&c, i);
    for (uint32_t i = 0; i < guest->disk_count; i++)
        compose_vdi(&c, i, sizes[i]);
    compose_sr(&c);
    text_add(&c.t, "</data></array></value></member>\n</struct></value>\n");
    return text_done(&c.t, &c.notes, text, size, err);
}

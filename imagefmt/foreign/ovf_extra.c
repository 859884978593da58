/*
 * OVF: what VMware, VirtualBox and ferry say in elements of their own: firmware and its variables,
 * addresses of network cards, and, for ferry, all the rest of struct guest.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf_parse.h"

/* The file of this id or href as one of the guest's; *found: there is such a file. */
static int take_file(struct ovf_parse *p, enum guest_file_kind kind, const char *id, bool *found,
                     struct ferry_error *err)
{
    const xmlNode *file = ovf_find_file(p, id);

    *found = file;
    return file ? ovf_parse_file(p, file, &p->package->files[kind], p->guest->files[kind], err) : 0;
}

/* ---- VMware ---- */

static void take_config(struct ovf_parse *p, const char *key, const char *value, bool *secure)
{
    if (!strcasecmp(key, "firmware"))
        p->guest->firmware = !strcasecmp(value, "efi")    ? GUEST_FIRMWARE_EFI
                             : !strcasecmp(value, "bios") ? GUEST_FIRMWARE_BIOS
                                                          : p->guest->firmware;
    else if (!strcasecmp(key, "bootOptions.efiSecureBootEnabled") ||
             !strcasecmp(key, "uefi.secureBoot.enabled"))
        *secure = describe_yes(value);
}

static int take_nvram(struct ovf_parse *p, const char *value, struct ferry_error *err)
{
    const char *id = ovf_resource_id(value, "file");
    bool found;

    int error = take_file(p, GUEST_NVRAM, id ? id : value, &found, err);
    if (!error && !found)
        notes_add(&p->notes, "the firmware's variables ('%.60s') are not in the package", value);
    return error;
}

int ovf_parse_vmware(struct ovf_parse *p, const xmlNode *hardware, struct ferry_error *err)
{
    char key[64], value[256];
    bool secure = false;
    int error = 0;

    FOR_EACH_XML_CHILD(node, hardware, OVF_NS_VMW, NULL)
    {
        xml_attribute_word(node, OVF_NS_VMW, "key", key, sizeof(key));
        xml_attribute_word(node, OVF_NS_VMW, "value", value, sizeof(value));
        if (xml_is(node, OVF_NS_VMW, "Config"))
            take_config(p, key, value, &secure);
        else if (!error && xml_is(node, OVF_NS_VMW, "ExtraConfig") && !strcasecmp(key, "nvram"))
            error = take_nvram(p, value, err);
    }
    if (secure && p->guest->firmware == GUEST_FIRMWARE_EFI)
        p->guest->firmware = GUEST_FIRMWARE_EFI_SECURE;
    return error;
}

/* ---- VirtualBox ---- */

static void take_adapter(struct ovf_parse *p, uint32_t index, const xmlNode *adapter)
{
    static const struct {
        const char *type, *model;
    } models[] = {
        {"82540EM", "e1000"},  {"82543GC", "e1000"},  {"82545EM", "e1000"}, {"Am79C970A", "pcnet"},
        {"Am79C973", "pcnet"}, {"Am79C960", "pcnet"}, {"virtio", "virtio"},
    };
    struct guest_nic *nic = &p->guest->nics[index];
    char text[64];

    if (!nic->has_mac)
        describe_mac(xml_attribute_word(adapter, NULL, "MACAddress", text, sizeof(text)), nic,
                     &p->notes);
    xml_attribute_word(adapter, NULL, "type", text, sizeof(text));
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++)
        if (!strcmp(models[i].type, text))
            snprintf(nic->model, sizeof(nic->model), "%s", models[i].model);
}

/* Adapters that are on stand in the order of the network cards in the hardware section. */
static void take_adapters(struct ovf_parse *p, const xmlNode *hardware)
{
    uint32_t index = 0;
    char enabled[8];

    FOR_EACH_XML_CHILD(node, xml_child(hardware, XML_ANY, "Network"), XML_ANY, "Adapter")
    if (describe_yes(xml_attribute_word(node, NULL, "enabled", enabled, sizeof(enabled))) &&
        index < LIMIT_NICS && index < p->guest->nic_count)
        take_adapter(p, index++, node);
}

static void take_vbox_firmware(struct ovf_parse *p, const xmlNode *hardware)
{
    const xmlNode *firmware = xml_child(hardware, XML_ANY, "Firmware");
    char type[16], secure[8];

    xml_attribute_word(firmware, NULL, "type", type, sizeof(type));
    xml_attribute_word(xml_child(firmware, XML_ANY, "SecureBoot"), NULL, "enabled", secure,
                       sizeof(secure));
    if (!strncasecmp(type, "EFI", 3))
        p->guest->firmware = describe_yes(secure) ? GUEST_FIRMWARE_EFI_SECURE : GUEST_FIRMWARE_EFI;
    else if (!strcasecmp(type, "BIOS") || p->guest->firmware == GUEST_FIRMWARE_UNKNOWN)
        p->guest->firmware = GUEST_FIRMWARE_BIOS; /* VirtualBox's own when it says nothing */
}

int ovf_parse_virtualbox(struct ovf_parse *p, struct ferry_error *err)
{
    const xmlNode *machine = xml_child(p->system, OVF_NS_VBOX, "Machine");
    const xmlNode *hardware = xml_child(machine, XML_ANY, "Hardware");
    char text[256];

    if (!machine)
        return 0;
    describe_parse_uuid(xml_attribute_word(machine, NULL, "uuid", text, sizeof(text)),
                        p->guest->uuid);
    if (!hardware)
        return 0;
    take_vbox_firmware(p, hardware);
    take_adapters(p, hardware);
    FOR_EACH_XML_CHILD(port, xml_child(hardware, XML_ANY, "UART"), XML_ANY, "Port")
    if (describe_yes(xml_attribute_word(port, NULL, "enabled", text, sizeof(text))))
        p->guest->serial_console = true;
    static const char *const places[] = {"NVRAM", "Firmware/NVRAM", "BIOS/NVRAM"};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        xml_attribute_word(xml_path(hardware, XML_ANY, places[i]), NULL, "path", text,
                           sizeof(text));
        if (*text)
            return take_nvram(p, text, err);
    }
    return 0;
}

/* ---- ferry ---- */

/* An attribute as it is, into room bytes; one that is too long is refused. */
static int own_text(struct ovf_parse *p, const xmlNode *node, const char *name, char *out,
                    size_t room, struct ferry_error *err)
{
    CLEANUP_FREE char *value = xml_attribute(node, NULL, name, NULL);

    if (!value)
        return ferry_fail(err, -ENOMEM, p->about, "out of memory");
    return describe_copy(value, out, room, name, p->about, err);
}

static int own_disk(struct ovf_parse *p, const xmlNode *node, struct ferry_error *err)
{
    char word[OVF_ID_BYTES];

    xml_attribute_word(node, NULL, "diskId", word, sizeof(word));
    for (uint32_t i = 0; i < p->guest->disk_count; i++) {
        struct guest_disk *disk = &p->guest->disks[i];
        if (strcmp(p->disk_ids[i], word) != 0)
            continue;
        if (disk->bus == GUEST_BUS_SATA) /* where disks of other kinds were put */
            disk->bus =
                guest_bus_by_name(xml_attribute_word(node, NULL, "bus", word, sizeof(word)));
        disk->readonly =
            describe_yes(xml_attribute_word(node, NULL, "readonly", word, sizeof(word)));
        return own_text(p, node, "serial", disk->serial, sizeof(disk->serial), err);
    }
    return 0;
}

static int own_nic(struct ovf_parse *p, const xmlNode *node, struct ferry_error *err)
{
    char id[OVF_ID_BYTES];

    xml_attribute_word(node, NULL, "instanceId", id, sizeof(id));
    for (uint32_t i = 0; i < p->guest->nic_count && i < LIMIT_NICS; i++) {
        struct guest_nic *nic = &p->guest->nics[i];
        if (strcmp(p->nic_ids[i], id) != 0)
            continue;
        int error = own_text(p, node, "network", nic->network, sizeof(nic->network), err);
        return error ? error : own_text(p, node, "model", nic->model, sizeof(nic->model), err);
    }
    return 0;
}

static int own_file(struct ovf_parse *p, const xmlNode *node, struct ferry_error *err)
{
    char kind[16], id[OVF_ID_BYTES];
    bool found;

    xml_attribute_word(node, NULL, "kind", kind, sizeof(kind));
    xml_attribute_word(node, NULL, "fileRef", id, sizeof(id));
    for (int i = 0; i < GUEST_FILE_KINDS; i++)
        if (!strcmp(kind, guest_file_name((enum guest_file_kind)i)))
            return take_file(p, (enum guest_file_kind)i, id, &found, err);
    return 0;
}

/* What agrees with the standard part: that may have been changed by hand since. */
static int own_machine(struct ovf_parse *p, const xmlNode *own, struct ferry_error *err)
{
    struct guest *guest = p->guest;
    char word[64];
    uint64_t bytes;

    if (!describe_number(xml_attribute_word(own, NULL, "memoryBytes", word, sizeof(word)),
                         &bytes) &&
        bytes <= LIMIT_MEMORY_BYTES && (bytes + MIB - 1) / MIB == guest->memory_bytes / MIB)
        guest->memory_bytes = bytes;
    xml_attribute_word(own, NULL, "firmware", word, sizeof(word));
    if (guest->firmware == GUEST_FIRMWARE_UNKNOWN &&
        guest_firmware_by_name(word) == GUEST_FIRMWARE_NONE)
        guest->firmware = GUEST_FIRMWARE_NONE;
    describe_parse_uuid(xml_attribute_word(own, NULL, "uuid", word, sizeof(word)), guest->uuid);
    int error = own_text(p, own, "cpuModel", guest->cpu_model, sizeof(guest->cpu_model), err);
    return error ? error : own_text(p, own, "append", guest->append, sizeof(guest->append), err);
}

int ovf_parse_own(struct ovf_parse *p, struct ferry_error *err)
{
    const xmlNode *own = xml_child(p->system, OVF_NS_OWN, "Machine");

    if (!own)
        return 0;
    int error = own_machine(p, own, err);
    FOR_EACH_XML_CHILD(node, own, OVF_NS_OWN, NULL)
    {
        if (!error && xml_is(node, OVF_NS_OWN, "Disk"))
            error = own_disk(p, node, err);
        else if (!error && xml_is(node, OVF_NS_OWN, "Nic"))
            error = own_nic(p, node, err);
        else if (!error && xml_is(node, OVF_NS_OWN, "File"))
            error = own_file(p, node, err);
    }
    return error;
}

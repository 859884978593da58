/*
 * OVF 1.1, in the dialect that VMware, ovftool and VirtualBox have in common.  Children of an Item
 * stand in the order of their names, as the schema of CIM wants them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "imagefmt/foreign/ovf.h"
#include "imagefmt/foreign/vmware.h"

#define NO_NETWORK "VM Network" /* what VMware calls the first one */

#define FIRST_NIC_ID  300 /* InstanceID, of which each item has another */
#define FIRST_DISK_ID 200
#define SERIAL_ID     100

struct composer {
    struct text t;
    struct notes notes;
    const struct guest *guest;
    const struct ovf_file *disks;
    const struct ovf_file *files;
    struct vmware_place places[LIMIT_DISKS];
};

/* ---- What the package has in it ---- */

/* A name as a relative URI: RFC 3986's unreserved characters and '/' as they are. */
static void compose_href(struct text *t, const char *name)
{
    text_add(t, " ovf:href=\"");
    for (; *name; name++) {
        if (strchr("-._~/", *name) || (*name >= '0' && *name <= '9') ||
            ((*name | 0x20) >= 'a' && (*name | 0x20) <= 'z'))
            writer_u8(&t->out, (uint8_t)*name);
        else
            text_printf(t, "%%%02X", (uint8_t)*name);
    }
    text_add(t, "\"");
}

static void compose_file(struct text *t, const struct ovf_file *file, const char *id)
{
    if (!file->href)
        return;
    text_printf(t, "    <File ovf:id=\"%s\"", id);
    compose_href(t, file->href);
    if (file->size_bytes != OVF_SIZE_UNKNOWN)
        text_printf(t, " ovf:size=\"%" PRIu64 "\"", file->size_bytes);
    if (file->chunk_bytes)
        text_printf(t, " ovf:chunkSize=\"%" PRIu64 "\"", file->chunk_bytes);
    text_add(t, "/>\n");
}

static void compose_references(struct composer *c)
{
    char id[16];

    text_add(&c->t, "  <References>\n");
    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        snprintf(id, sizeof(id), "file%u", i + 1);
        compose_file(&c->t, &c->disks[i], id);
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        compose_file(&c->t, &c->files[kind], guest_file_name(kind));
    text_add(&c->t, "  </References>\n");
}

static int compose_disks(struct composer *c, struct ferry_error *err)
{
    struct text *t = &c->t;

    text_add(t, "  <DiskSection>\n    <Info>Virtual disks of the machine</Info>\n");
    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        const struct guest_disk *disk = &c->guest->disks[i];
        const char *uri = ovf_uri_of_format(disk->format);
        if (!disk->size_bytes)
            return ferry_fail(err, -EINVAL, NULL, "disk %u has no size yet, which an OVF states",
                              i + 1);
        if (!uri)
            return ferry_usage(err, NULL, "an OVF has no name for disks in the format '%s'",
                               disk->format);
        text_printf(t,
                    "    <Disk ovf:diskId=\"vmdisk%u\" ovf:capacity=\"%" PRIu64
                    "\" ovf:capacityAllocationUnits=\"byte\" ovf:format=\"%s\"",
                    i + 1, disk->size_bytes, uri);
        if (c->disks[i].href)
            text_printf(t, " ovf:fileRef=\"file%u\"", i + 1);
        text_add(t, "/>\n");
        if (!*disk->format)
            notes_add(&c->notes, "the format of disk %u is taken to be vmdk", i + 1);
        else if (strcmp(disk->format, "vmdk") != 0)
            notes_add(&c->notes, "disk %u is in the format %s, which few read in an OVF", i + 1,
                      disk->format);
    }
    text_add(t, "  </DiskSection>\n");
    return 0;
}

static const char *network_of(const struct guest_nic *nic)
{
    return *nic->network ? nic->network : NO_NETWORK;
}

/* Each network once. */
static void compose_networks(struct composer *c)
{
    text_add(&c->t, "  <NetworkSection>\n    <Info>Networks of the machine</Info>\n");
    for (uint32_t i = 0; i < c->guest->nic_count; i++) {
        const char *name = network_of(&c->guest->nics[i]);
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = !strcmp(name, network_of(&c->guest->nics[j]));
        if (seen)
            continue;
        text_add(&c->t, "    <Network");
        text_attribute(&c->t, "ovf:name", name);
        text_add(&c->t, ">\n");
        text_element(&c->t, 6, "Description", name);
        text_add(&c->t, "    </Network>\n");
    }
    text_add(&c->t, "  </NetworkSection>\n");
}

/* ---- Hardware ---- */

static void field(struct text *t, const char *name, const char *value)
{
    char full[64];

    snprintf(full, sizeof(full), "rasd:%s", name);
    text_element(t, 8, full, value);
}

static void number(struct text *t, const char *name, uint64_t value)
{
    text_printf(t, "        <rasd:%s>%" PRIu64 "</rasd:%s>\n", name, value, name);
}

static void compose_cpu_memory(struct composer *c)
{
    struct text *t = &c->t;
    uint64_t mib = (c->guest->memory_bytes + MIB - 1) / MIB;

    text_add(t, "      <Item>\n");
    field(t, "AllocationUnits", "hertz * 10^6");
    field(t, "Description", "Number of virtual CPUs");
    text_printf(t, "        <rasd:ElementName>%u virtual CPU(s)</rasd:ElementName>\n",
                c->guest->cpus);
    number(t, "InstanceID", 1);
    number(t, "ResourceType", OVF_CPU);
    number(t, "VirtualQuantity", c->guest->cpus);
    text_add(t, "      </Item>\n      <Item>\n");
    field(t, "AllocationUnits", "byte * 2^20");
    field(t, "Description", "Memory size");
    text_printf(t, "        <rasd:ElementName>%" PRIu64 "MB of memory</rasd:ElementName>\n", mib);
    number(t, "InstanceID", 2);
    number(t, "ResourceType", OVF_MEMORY);
    number(t, "VirtualQuantity", mib);
    text_add(t, "      </Item>\n");
    if (c->guest->memory_bytes % MIB)
        notes_add(&c->notes, "memory is in whole MiB there: %" PRIu64 " MiB", mib);
}

static unsigned controller_id(const struct vmware_place *place)
{
    return 10 * ((unsigned)place->bus + 1) + place->controller;
}

static void compose_controller(struct composer *c, const struct vmware_place *place)
{
    static const struct {
        const char *name, *description, *subtype;
        enum ovf_resource type;
    } kinds[] = {
        [GUEST_BUS_VIRTIO] = {"", "", "", OVF_STORAGE},
        [GUEST_BUS_SCSI] = {"scsiController", "SCSI Controller", "", OVF_SCSI},
        [GUEST_BUS_SATA] = {"sataController", "SATA Controller", "vmware.sata.ahci", OVF_STORAGE},
        [GUEST_BUS_IDE] = {"ideController", "IDE Controller", "PIIX4", OVF_IDE},
        [GUEST_BUS_NVME] = {"nvmeController", "NVMe Controller", "vmware.nvme.controller",
                            OVF_STORAGE},
    };
    struct text *t = &c->t;

    text_add(t, "      <Item>\n");
    number(t, "Address", place->controller);
    field(t, "Description", kinds[place->bus].description);
    text_printf(t, "        <rasd:ElementName>%s%u</rasd:ElementName>\n", kinds[place->bus].name,
                place->controller);
    number(t, "InstanceID", controller_id(place));
    field(t, "ResourceSubType",
          place->bus == GUEST_BUS_SCSI ? vmware_os(c->guest->os)->scsi_ovf
                                       : kinds[place->bus].subtype);
    number(t, "ResourceType", kinds[place->bus].type);
    text_add(t, "      </Item>\n");
}

/* A disk, and its controller before the first one on it. */
static void compose_disk_items(struct composer *c)
{
    struct text *t = &c->t;

    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        bool seen = false;
        for (uint32_t j = 0; j < i && !seen; j++)
            seen = controller_id(&c->places[j]) == controller_id(&c->places[i]);
        if (!seen)
            compose_controller(c, &c->places[i]);
        if (!seen && c->places[i].bus == GUEST_BUS_NVME)
            notes_add(&c->notes, "VirtualBox does not import a machine with an NVMe controller");
    }
    for (uint32_t i = 0; i < c->guest->disk_count; i++) {
        text_add(t, "      <Item>\n");
        number(t, "AddressOnParent", c->places[i].unit);
        text_printf(t, "        <rasd:ElementName>Hard disk %u</rasd:ElementName>\n", i + 1);
        text_printf(t, "        <rasd:HostResource>ovf:/disk/vmdisk%u</rasd:HostResource>\n",
                    i + 1);
        number(t, "InstanceID", FIRST_DISK_ID + i);
        number(t, "Parent", controller_id(&c->places[i]));
        number(t, "ResourceType", OVF_DISK);
        text_add(t, "      </Item>\n");
    }
}

static const char *spelled_card(const char *card)
{
    return !strcmp(card, "vmxnet3")   ? "VmxNet3"
           : !strcmp(card, "vmxnet2") ? "VmxNet2"
           : !strcmp(card, "e1000e")  ? "E1000e"
                                      : "E1000";
}

static void compose_nic(struct composer *c, uint32_t i)
{
    const struct guest_nic *nic = &c->guest->nics[i];
    struct text *t = &c->t;
    char mac[18];

    text_add(t, "      <Item>\n");
    if (nic->has_mac)
        field(t, "Address", guest_format_mac(nic->mac, mac));
    number(t, "AddressOnParent", 7 + i);
    field(t, "AutomaticAllocation", "true");
    field(t, "Connection", network_of(nic));
    text_printf(t, "        <rasd:ElementName>Network adapter %u</rasd:ElementName>\n", i + 1);
    number(t, "InstanceID", FIRST_NIC_ID + i);
    field(t, "ResourceSubType", spelled_card(vmware_nic(c->guest, i, &c->notes)));
    number(t, "ResourceType", OVF_ETHERNET);
    text_add(t, "      </Item>\n");
    if (nic->has_mac)
        notes_add(&c->notes, "VMware may give network card %u another address than %s", i + 1, mac);
}

static void compose_serial(struct composer *c)
{
    if (!c->guest->serial_console)
        return;
    text_add(&c->t, "      <Item ovf:required=\"false\">\n");
    number(&c->t, "Address", 0);
    field(&c->t, "AutomaticAllocation", "false");
    field(&c->t, "Description", "Serial port");
    field(&c->t, "ElementName", "Serial port 1");
    number(&c->t, "InstanceID", SERIAL_ID);
    number(&c->t, "ResourceType", OVF_SERIAL);
    text_add(&c->t, "      </Item>\n");
}

static void compose_config(struct composer *c, const char *element, const char *key,
                           const char *value)
{
    text_printf(&c->t, "      <vmw:%s ovf:required=\"false\" vmw:key=\"%s\" vmw:value=\"%s\"/>\n",
                element, key, value);
}

static void compose_firmware(struct composer *c)
{
    enum guest_firmware firmware = c->guest->firmware;
    bool efi = firmware == GUEST_FIRMWARE_EFI || firmware == GUEST_FIRMWARE_EFI_SECURE;

    if (efi || firmware == GUEST_FIRMWARE_BIOS)
        compose_config(c, "Config", "firmware", efi ? "efi" : "bios");
    if (efi) {
        compose_config(c, "Config", "bootOptions.efiSecureBootEnabled",
                       firmware == GUEST_FIRMWARE_EFI_SECURE ? "true" : "false");
        notes_add(&c->notes, "VirtualBox starts the machine with a BIOS: it reads another "
                             "program's OVF without its firmware");
    }
    if (c->files[GUEST_NVRAM].href) {
        compose_config(c, "ExtraConfig", "nvram", "ovf:/file/nvram");
        notes_add(&c->notes, "the firmware's variables are in the package, but a hypervisor of "
                             "another make does not understand them");
    }
    vmware_note_kernel(c->guest, &c->notes);
}

static void compose_hardware(struct composer *c)
{
    text_add(&c->t, "    <VirtualHardwareSection>\n"
                    "      <Info>Virtual hardware of the machine</Info>\n"
                    "      <System>\n"
                    "        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>\n"
                    "        <vssd:InstanceID>0</vssd:InstanceID>\n");
    text_element(&c->t, 8, "vssd:VirtualSystemIdentifier", c->guest->name);
    text_add(&c->t, "        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>\n"
                    "      </System>\n");
    compose_cpu_memory(c);
    compose_disk_items(c);
    for (uint32_t i = 0; i < c->guest->nic_count; i++)
        compose_nic(c, i);
    compose_serial(c);
    compose_firmware(c);
    text_add(&c->t, "    </VirtualHardwareSection>\n");
}

/* ---- What only ferry reads ---- */

static void compose_own(struct composer *c)
{
    const struct guest *guest = c->guest;
    struct text *t = &c->t;
    char uuid[37];

    text_add(t, "    <ferry:Machine ovf:required=\"false\"");
    text_printf(t, " memoryBytes=\"%" PRIu64 "\" firmware=\"%s\"", guest->memory_bytes,
                guest_firmware_name(guest->firmware));
    if (memcmp(guest->uuid, (uint8_t[16]){0}, 16) != 0)
        text_attribute(t, "uuid", describe_format_uuid(guest->uuid, uuid));
    text_attribute(t, "cpuModel", guest->cpu_model);
    text_attribute(t, "append", guest->append);
    text_add(t, ">\n      <Info>The machine as ferry knows it</Info>\n");
    for (uint32_t i = 0; i < guest->disk_count; i++) {
        text_printf(t, "      <ferry:Disk diskId=\"vmdisk%u\" bus=\"%s\" readonly=\"%s\"", i + 1,
                    guest_bus_name(guest->disks[i].bus),
                    guest->disks[i].readonly ? "true" : "false");
        text_attribute(t, "serial", guest->disks[i].serial);
        text_add(t, "/>\n");
        if (guest->disks[i].readonly)
            notes_add(&c->notes, "disk %u may be written to there: there are no read-only disks",
                      i + 1);
        if (*guest->disks[i].serial)
            notes_add(&c->notes, "disk %u has another serial number there than '%s'", i + 1,
                      guest->disks[i].serial);
    }
    for (uint32_t i = 0; i < guest->nic_count; i++) {
        text_printf(t, "      <ferry:Nic instanceId=\"%u\"", FIRST_NIC_ID + i);
        text_attribute(t, "network", guest->nics[i].network);
        text_attribute(t, "model", guest->nics[i].model);
        text_add(t, "/>\n");
    }
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        if (c->files[kind].href)
            text_printf(t, "      <ferry:File kind=\"%s\" fileRef=\"%s\"/>\n",
                        guest_file_name(kind), guest_file_name(kind));
    text_add(t, "    </ferry:Machine>\n");
}

/* ---- The whole ---- */

static void compose_system(struct composer *c)
{
    const struct vmware_os *os = vmware_os(c->guest->os);
    struct text *t = &c->t;

    text_add(t, "  <VirtualSystem");
    text_attribute(t, "ovf:id", c->guest->name);
    text_add(t, ">\n    <Info>A virtual machine</Info>\n");
    text_element(t, 4, "Name", c->guest->name);
    text_printf(t, "    <OperatingSystemSection ovf:id=\"%u\" vmw:osType=\"%s\">\n", os->cim_id,
                os->ovf);
    text_add(t, "      <Info>The kind of installed guest operating system</Info>\n");
    if (*c->guest->os)
        text_element(t, 6, "Description", c->guest->os);
    text_add(t, "    </OperatingSystemSection>\n");
    compose_hardware(c);
    compose_own(c);
    text_add(t, "  </VirtualSystem>\n");
}

static int pad(struct text *t, size_t pad_to, size_t tail, struct ferry_error *err)
{
    size_t size = t->out.size + tail;

    if (!pad_to || t->out.error)
        return 0;
    if (size > pad_to)
        return ferry_fail(err, -ENOSPC, NULL, "the OVF needs %zu bytes and not %zu", size, pad_to);
    uint8_t *spaces = writer_grow(&t->out, pad_to - size);
    if (spaces)
        memset(spaces, ' ', pad_to - size);
    return 0;
}

static void free_composer(struct composer *c)
{
    text_free(&c->t);
}

int ovf_write(const struct guest *guest, const struct ovf_file *disks, const struct ovf_file *files,
              size_t pad_to, json_t *notes, char **text, size_t *size, struct ferry_error *err)
{
    static const char last[] = "\n</Envelope>\n";
    CLEANUP(free_composer)
    struct composer c = {
        .t = text_init(),
        .notes = {.list = notes},
        .guest = guest,
        .disks = disks,
        .files = files,
    };

    vmware_place_disks(guest, c.places, &c.notes);
    text_add(&c.t, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                   "<Envelope xmlns=\"" OVF_NS_1 "\"\n    xmlns:ovf=\"" OVF_NS_1
                   "\"\n    xmlns:rasd=\"" OVF_NS_RASD "\"\n    xmlns:vssd=\"" OVF_NS_VSSD
                   "\"\n    xmlns:vmw=\"" OVF_NS_VMW "\"\n    xmlns:ferry=\"" OVF_NS_OWN "\">\n");
    compose_references(&c);
    int error = compose_disks(&c, err);
    if (!error) {
        compose_networks(&c);
        compose_system(&c);
        error = pad(&c.t, pad_to, strlen(last), err);
    }
    text_add(&c.t, last);
    return error ? error : text_done(&c.t, &c.notes, text, size, err);
}

int ovf_room(const struct guest *guest, const struct ovf_file *disks, const struct ovf_file *files,
             size_t *size, struct ferry_error *err)
{
    struct ovf_file most[LIMIT_DISKS], most_files[GUEST_FILE_KINDS];
    CLEANUP_FREE char *text = NULL;

    memcpy(most, disks, guest->disk_count * sizeof(*disks));
    memcpy(most_files, files, sizeof(most_files));
    for (uint32_t i = 0; i < guest->disk_count; i++)
        most[i].size_bytes = OVF_SIZE_UNKNOWN - 1; /* as many digits as there can be */
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        most_files[kind].size_bytes = OVF_SIZE_UNKNOWN - 1;
    return ovf_write(guest, most, most_files, 0, NULL, &text, size, err);
}

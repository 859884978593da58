/*
 * OVF: the Items of the virtual hardware.  OVF 2 has StorageItem and EthernetPortItem beside Item,
 * with the same fields in namespaces of their own.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf_parse.h"

/* A disk as its item has it, before they are put in order. */
struct slot {
    const xmlNode *item;
    char id[OVF_ID_BYTES];
    char parent[OVF_ID_BYTES];
    uint64_t unit;
};

struct hardware {
    struct ovf_parse *p;
    const xmlNode *section;
    char configuration[OVF_ID_BYTES]; /* of the deployment options, the one that is taken */
    uint64_t disks;                   /* all of them; the first LIMIT_DISKS are in slots */
    struct slot slots[LIMIT_DISKS];
};

static const xmlNode *field(const xmlNode *item, const char *name)
{
    static const char *const spaces[] = {
        OVF_NS_RASD,
        OVF_CIM "CIM_StorageAllocationSettingData",
        OVF_CIM "CIM_StorageAllocationSettingData.xsd", /* VirtualBox's spelling */
        OVF_CIM "CIM_EthernetPortAllocationSettingData",
        OVF_CIM "CIM_EthernetPortAllocationSettingData.xsd",
    };

    for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++) {
        const xmlNode *node = xml_child(item, spaces[i], name);
        if (node)
            return node;
    }
    return NULL;
}

static char *word(const xmlNode *item, const char *name, char *out, size_t room)
{
    return xml_word(field(item, name), out, room);
}

static uint64_t number(const xmlNode *item, const char *name, uint64_t missing)
{
    char text[40];
    uint64_t value;

    return describe_number(word(item, name, text, sizeof(text)), &value) ? missing : value;
}

static bool is_item(const struct hardware *h, const xmlNode *node)
{
    return xml_is(node, h->p->ns, "Item") || xml_is(node, h->p->ns, "StorageItem") ||
           xml_is(node, h->p->ns, "EthernetPortItem");
}

/* Is it the machine as it is made, not a bound of what one may choose, or of another choice? */
static bool is_taken(const struct hardware *h, const xmlNode *item)
{
    char bound[16], configurations[256], *rest = NULL;

    xml_attribute_word(item, h->p->ns, "bound", bound, sizeof(bound));
    if (*bound && strcmp(bound, "normal") != 0)
        return false;
    xml_attribute_word(item, h->p->ns, "configuration", configurations, sizeof(configurations));
    if (!*configurations)
        return true;
    for (char *one = strtok_r(configurations, " \t\r\n", &rest); one;
         one = strtok_r(NULL, " \t\r\n", &rest))
        if (!strcmp(one, h->configuration))
            return true;
    return false;
}

/* The deployment option that is the default, or the first. */
static void choose_configuration(struct hardware *h)
{
    const xmlNode *options = xml_child(h->p->envelope, h->p->ns, "DeploymentOptionSection");
    const xmlNode *chosen = xml_child(options, h->p->ns, "Configuration");
    char is_default[8];

    if (!chosen)
        return;
    FOR_EACH_XML_CHILD(node, options, h->p->ns, "Configuration")
    if (describe_yes(xml_attribute_word(node, h->p->ns, "default", is_default, sizeof(is_default))))
        chosen = node;
    xml_attribute_word(chosen, h->p->ns, "id", h->configuration, sizeof(h->configuration));
    notes_add(&h->p->notes, "of its deployment options, '%.60s' is taken", h->configuration);
}

/* ---- Items ---- */

static int take_memory(struct hardware *h, const xmlNode *item, struct ferry_error *err)
{
    char unit[40], cut[SHOWN_BYTES];
    uint64_t quantity = number(item, "VirtualQuantity", 0), bytes;

    word(item, "AllocationUnits", unit, sizeof(unit));
    bytes = *unit ? ovf_unit_bytes(unit) : MIB;
    if (!bytes)
        return ferry_refuse(err, -EBADMSG, h->p->about,
                            "has memory in a unit that is not known: '%s'", shown(unit, cut));
    if (h->p->guest->memory_bytes)
        notes_add(&h->p->notes, "memory is described twice: the first is taken");
    else
        h->p->guest->memory_bytes = describe_multiply(quantity, bytes);
    return 0;
}

static void take_cpus(struct hardware *h, const xmlNode *item)
{
    uint64_t quantity = number(item, "VirtualQuantity", 1);

    if (h->p->guest->cpus)
        notes_add(&h->p->notes, "the number of CPUs is described twice: the first is taken");
    else
        h->p->guest->cpus = quantity > UINT32_MAX ? UINT32_MAX : (uint32_t)quantity;
}

static int take_nic(struct hardware *h, const xmlNode *item, struct ferry_error *err)
{
    struct guest *guest = h->p->guest;
    char text[64];

    if (guest->nic_count++ >= LIMIT_NICS)
        return 0; /* guest_check tells how many there are */
    struct guest_nic *nic = &guest->nics[guest->nic_count - 1];
    CLEANUP_FREE char *network = xml_text(field(item, "Connection"));
    if (!network)
        return ferry_fail(err, -ENOMEM, h->p->about, "out of memory");
    describe_cut(network, nic->network, sizeof(nic->network), "the name of a network",
                 &h->p->notes);
    describe_mac(word(item, "Address", text, sizeof(text)), nic, &h->p->notes);
    word(item, "ResourceSubType", text, sizeof(text));
    text[strcspn(text, " \t,;")] = 0; /* the first of several that would do */
    for (size_t i = 0; text[i] && i + 1 < sizeof(nic->model); i++)
        nic->model[i] = (char)tolower((unsigned char)text[i]);
    word(item, "InstanceID", h->p->nic_ids[guest->nic_count - 1], OVF_ID_BYTES);
    return 0;
}

static void take_disk(struct hardware *h, const xmlNode *item)
{
    if (h->disks++ >= LIMIT_DISKS)
        return;
    struct slot *slot = &h->slots[h->disks - 1];
    slot->item = item;
    slot->unit = number(item, "AddressOnParent", 0);
    word(item, "InstanceID", slot->id, sizeof(slot->id));
    word(item, "Parent", slot->parent, sizeof(slot->parent));
}

static void note_item(struct hardware *h, const xmlNode *item, uint64_t type)
{
    char name[80], resource[80];

    if (!*word(item, "ElementName", name, sizeof(name)))
        word(item, "Caption", name, sizeof(name));
    word(item, "HostResource", resource, sizeof(resource));
    bool removable = type == OVF_FLOPPY || type == OVF_CD || type == OVF_DVD;
    if (removable && *resource)
        notes_add(&h->p->notes, "'%.60s' has a medium in it, which is not kept: %.60s", name,
                  resource);
    /* Input, USB, graphics, sound and VMware's "other" say nothing about what the guest needs. */
    else if (!removable && type != 1 && type != 13 && type != 23 && type != 24 && type != 35)
        notes_add(&h->p->notes, "the device '%.60s' (type %" PRIu64 ") is not kept", name, type);
}

static int take_item(struct hardware *h, const xmlNode *item, struct ferry_error *err)
{
    uint64_t type = number(item, "ResourceType", 0);

    switch (type) {
    case OVF_CPU:
        take_cpus(h, item);
        return 0;
    case OVF_MEMORY:
        return take_memory(h, item, err);
    case OVF_ETHERNET:
        return take_nic(h, item, err);
    case OVF_DISK:
        take_disk(h, item);
        return 0;
    case OVF_SERIAL:
        h->p->guest->serial_console = true;
        return 0;
    case OVF_IDE:
    case OVF_SCSI:
    case OVF_STORAGE:
        return 0; /* looked up by the disks on it */
    default:
        note_item(h, item, type);
        return 0;
    }
}

/* ---- Disks ---- */

static enum guest_bus bus_of(const struct hardware *h, const struct slot *slot)
{
    char id[OVF_ID_BYTES], subtype[64];

    if (!*slot->parent)
        return GUEST_BUS_VIRTIO;
    FOR_EACH_XML_CHILD(item, h->section, h->p->ns, NULL)
    {
        if (!is_item(h, item) ||
            strcmp(word(item, "InstanceID", id, sizeof(id)), slot->parent) != 0)
            continue;
        word(item, "ResourceSubType", subtype, sizeof(subtype));
        if (strcasestr(subtype, "nvme"))
            return GUEST_BUS_NVME;
        if (strcasestr(subtype, "virtio"))
            return GUEST_BUS_SCSI; /* VirtioSCSI */
        switch (number(item, "ResourceType", 0)) {
        case OVF_IDE:
            return GUEST_BUS_IDE;
        case OVF_SCSI:
            return GUEST_BUS_SCSI;
        case OVF_STORAGE:
            return GUEST_BUS_SATA;
        default:
            return GUEST_BUS_VIRTIO;
        }
    }
    return GUEST_BUS_VIRTIO;
}

static void swap(struct slot *a, struct slot *b)
{
    struct slot c = *a;

    *a = *b;
    *b = c;
}

/*
 * In the order of booting: those that VMware's section of this names first; then as in the text,
 * but on one controller by address.
 */
static void sort_disks(struct hardware *h, uint32_t count)
{
    uint32_t first = 0;
    char id[OVF_ID_BYTES];

    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = i + 1; j < count; j++)
            if (!strcmp(h->slots[i].parent, h->slots[j].parent) &&
                h->slots[j].unit < h->slots[i].unit)
                swap(&h->slots[i], &h->slots[j]);
    FOR_EACH_XML_CHILD(node, h->p->system, OVF_NS_VMW, "BootOrderSection")
    {
        xml_attribute_word(node, OVF_NS_VMW, "instanceId", id, sizeof(id));
        for (uint32_t i = first; i < count; i++) {
            if (strcmp(h->slots[i].id, id) != 0)
                continue;
            for (uint32_t j = i; j > first; j--)
                swap(&h->slots[j], &h->slots[j - 1]);
            first++;
            break;
        }
    }
}

static int parse_disks(struct hardware *h, struct ferry_error *err)
{
    char resource[OVF_ID_BYTES + 16];
    int error = 0;

    if (h->disks > LIMIT_DISKS)
        return ferry_refuse(err, -EBADMSG, h->p->about,
                            "has %" PRIu64 " disks; at most %d are possible", h->disks,
                            LIMIT_DISKS);
    sort_disks(h, (uint32_t)h->disks);
    for (uint32_t i = 0; i < h->disks && !error; i++) {
        h->p->guest->disk_count = i + 1;
        h->p->guest->disks[i].bus = bus_of(h, &h->slots[i]);
        error = ovf_parse_disk(
            h->p, i, word(h->slots[i].item, "HostResource", resource, sizeof(resource)), err);
    }
    return error;
}

int ovf_parse_hardware(struct ovf_parse *p, const xmlNode *hardware, struct ferry_error *err)
{
    CLEANUP_FREE struct hardware *h = calloc(1, sizeof(*h));
    int error = 0;

    if (!h)
        return ferry_fail(err, -ENOMEM, p->about, "out of memory");
    h->p = p;
    h->section = hardware;
    choose_configuration(h);
    FOR_EACH_XML_CHILD(item, hardware, p->ns, NULL)
    if (!error && is_item(h, item) && is_taken(h, item))
        error = take_item(h, item, err);
    return error ? error : parse_disks(h, err);
}

/*
 * ova.xml, reading: a list of objects that refer to one another by their ids.  The machine is the
 * one VM that is no snapshot; its disks and network cards are the VBDs and VIFs that name it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/xml.h"
#include "imagefmt/foreign/xva.h"

#define WORD_BYTES 128

struct parse {
    const char *about;
    xmlNode *objects; /* the <data> with them */
    struct guest *guest;
    struct xva_refs *refs;
    struct notes *notes;
    char vm[XVA_REF_BYTES];
};

/* ---- XML-RPC ---- */

/* The value of this name in the struct that is in value; NULL: there is none. */
static xmlNode *field(const xmlNode *value, const char *name)
{
    char word[WORD_BYTES];

    FOR_EACH_XML_CHILD(member, xml_child(value, NULL, "struct"), NULL, "member")
    if (!strcmp(xml_word(xml_child(member, NULL, "name"), word, sizeof(word)), name))
        return xml_child(member, NULL, "value");
    return NULL;
}

static const char *word_of(const xmlNode *value, const char *name, char word[WORD_BYTES])
{
    return xml_word(field(value, name), word, WORD_BYTES);
}

static bool has_word(const xmlNode *value, const char *name, const char *is)
{
    char word[WORD_BYTES];

    return !strcmp(word_of(value, name, word), is);
}

static uint64_t number_of(const xmlNode *value, const char *name)
{
    char word[WORD_BYTES];
    uint64_t number;

    return describe_number(word_of(value, name, word), &number) ? 0 : number;
}

/* Is there something in the array or struct of this name? */
static bool has_items(const xmlNode *value, const char *name)
{
    const xmlNode *list = field(value, name);

    return xml_child(xml_path(list, NULL, "array/data"), NULL, "value") ||
           xml_child(xml_child(list, NULL, "struct"), NULL, "member");
}

/* The object's fields. */
static xmlNode *find(const struct parse *p, const char *class, const char *id)
{
    FOR_EACH_XML_CHILD(object, p->objects, NULL, "value")
    if (has_word(object, "class", class) && has_word(object, "id", id))
        return field(object, "snapshot");
    return NULL;
}

/* ---- The machine ---- */

static int choose_vm(struct parse *p, xmlNode **vm, struct ferry_error *err)
{
    unsigned machines = 0, snapshots = 0;
    xmlNode *snapshot = NULL, *chosen = NULL;

    FOR_EACH_XML_CHILD(object, p->objects, NULL, "value")
    {
        if (!has_word(object, "class", "VM"))
            continue;
        bool is_snapshot = has_word(field(object, "snapshot"), "is_a_snapshot", "1");
        snapshots += is_snapshot;
        machines += !is_snapshot;
        if (is_snapshot)
            snapshot = object;
        else
            chosen = object;
    }
    if (machines > 1 || (!machines && snapshots != 1))
        return ferry_refuse(err, -EOPNOTSUPP, p->about,
                            "has %u machines; one with exactly one can be read",
                            machines ? machines : snapshots);
    if (machines && snapshots)
        notes_add(p->notes, "snapshots: %u", snapshots);
    chosen = machines ? chosen : snapshot;
    xml_word(field(chosen, "id"), p->vm, sizeof(p->vm));
    *vm = field(chosen, "snapshot");
    return 0;
}

static void parse_firmware(struct parse *p, const xmlNode *vm)
{
    const xmlNode *params = field(vm, "HVM_boot_params");
    char word[WORD_BYTES];

    if (!*word_of(vm, "HVM_boot_policy", word)) {
        notes_add(p->notes,
                  "it is a paravirtual machine of Xen, whose guest may not start elsewhere");
        return;
    }
    p->guest->firmware = GUEST_FIRMWARE_BIOS;
    if (!has_word(params, "firmware", "uefi"))
        return;
    bool secure = has_word(field(vm, "platform"), "secureboot", "true");
    p->guest->firmware = secure ? GUEST_FIRMWARE_EFI_SECURE : GUEST_FIRMWARE_EFI;
    if (*word_of(field(vm, "NVRAM"), "EFI-variables", word))
        notes_add(p->notes, "the firmware's variables are in Xen's own form and are not kept");
}

static void note_losses(struct parse *p, const xmlNode *vm)
{
    static const struct {
        const char *field, *what;
    } lists[] = {
        {"VGPUs", "virtual GPUs"},
        {"VTPMs", "a virtual TPM"},
        {"VUSBs", "USB devices"},
        {"attached_PCIs", "PCI devices of the host"},
    };
    char word[WORD_BYTES];

    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
        if (has_items(vm, lists[i].field))
            notes_add(p->notes, "%s", lists[i].what);
    word_of(vm, "suspend_VDI", word);
    if (*word && strcmp(word, "OpaqueRef:NULL") != 0)
        notes_add(p->notes, "the state of a suspended machine");
    if (number_of(vm, "VCPUs_max") != number_of(vm, "VCPUs_at_startup"))
        notes_add(p->notes, "CPUs that are added later: up to %llu",
                  (unsigned long long)number_of(vm, "VCPUs_max"));
}

static int parse_vm(struct parse *p, struct ferry_error *err)
{
    struct guest *guest = p->guest;
    char word[WORD_BYTES];
    xmlNode *vm = NULL;

    int error = choose_vm(p, &vm, err);
    if (error)
        return error;
    guest_set_name(guest, word_of(vm, "name_label", word));
    if (describe_parse_uuid(word_of(vm, "uuid", word), guest->uuid))
        memset(guest->uuid, 0, sizeof(guest->uuid));
    uint64_t cpus = number_of(vm, "VCPUs_at_startup");
    if (!cpus)
        cpus = number_of(vm, "VCPUs_max");
    guest->cpus = cpus > UINT32_MAX ? UINT32_MAX : (uint32_t)cpus;
    guest->memory_bytes = number_of(vm, "memory_static_max");
    parse_firmware(p, vm);
    note_losses(p, vm);
    return 0;
}

/* ---- Disks ---- */

struct found {
    const xmlNode *vbd;
    uint64_t place;
};

/* "0", or the letter of "xvda" and "hda". */
static uint64_t place_of(const xmlNode *vbd)
{
    char word[WORD_BYTES];
    uint64_t number;

    if (!describe_number(word_of(vbd, "userdevice", word), &number))
        return number;
    word_of(vbd, "device", word);
    const char *letter = !strncmp(word, "xvd", 3)  ? word + 3
                         : !strncmp(word, "hd", 2) ? word + 2
                                                   : "";
    return *letter >= 'a' && *letter <= 'z' ? (uint64_t)(*letter - 'a') : UINT64_MAX;
}

static int parse_disk(struct parse *p, const xmlNode *vbd, struct ferry_error *err)
{
    uint32_t index = p->guest->disk_count;
    struct guest_disk *disk = &p->guest->disks[index];
    char *ref = p->refs->disks[index];

    xml_word(field(vbd, "VDI"), ref, XVA_REF_BYTES);
    const xmlNode *vdi = find(p, "VDI", ref);
    if (!vdi)
        return ferry_refuse(err, -ENOENT, p->about, "does not describe its disk %u", index + 1);
    for (uint32_t i = 0; i < index; i++)
        if (!strcmp(p->refs->disks[i], ref))
            return ferry_refuse(err, -EEXIST, p->about, "has the disk '%s' twice", ref);
    *disk = (struct guest_disk){
        .size_bytes = number_of(vdi, "virtual_size"),
        .readonly = has_word(vbd, "mode", "RO"),
        .format = "raw",
    };
    snprintf(disk->file, sizeof(disk->file), "%s", ref);
    if (!disk->size_bytes || disk->size_bytes > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EBADMSG, p->about, "has the disk '%s' of %llu bytes", ref,
                            (unsigned long long)disk->size_bytes);
    p->guest->disk_count++;
    return 0;
}

static int compare_places(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    return (x->place > y->place) - (x->place < y->place);
}

static int parse_disks(struct parse *p, struct ferry_error *err)
{
    struct found found[LIMIT_DISKS] = {{.place = 0}};
    uint32_t count = 0;
    int error = 0;

    FOR_EACH_XML_CHILD(object, p->objects, NULL, "value")
    {
        const xmlNode *vbd = field(object, "snapshot");
        if (!has_word(object, "class", "VBD") || !has_word(vbd, "VM", p->vm))
            continue;
        if (!has_word(vbd, "type", "Disk")) {
            if (!has_word(vbd, "empty", "1"))
                notes_add(p->notes, "a CD or floppy disk");
            continue;
        }
        if (count == LIMIT_DISKS)
            return ferry_refuse(err, -E2BIG, p->about, "has more than %d disks", LIMIT_DISKS);
        found[count++] = (struct found){.vbd = vbd, .place = place_of(vbd)};
    }
    qsort(found, count, sizeof(*found), compare_places);
    for (uint32_t i = 0; !error && i < count; i++)
        error = parse_disk(p, found[i].vbd, err);
    return error;
}

/* ---- Network cards ---- */

static void parse_nic(struct parse *p, const xmlNode *vif)
{
    struct guest_nic *nic = &p->guest->nics[p->guest->nic_count++];
    char word[WORD_BYTES];

    *nic = (struct guest_nic){.has_mac = false};
    if (*word_of(vif, "MAC", word))
        describe_mac(word, nic, p->notes);
    const xmlNode *network = find(p, "network", word_of(vif, "network", word));
    describe_cut(word_of(network, "name_label", word), nic->network, sizeof(nic->network),
                 "the name of a network", p->notes);
}

static int parse_nics(struct parse *p, struct ferry_error *err)
{
    struct {
        const xmlNode *vif;
        uint64_t device;
    } found[LIMIT_NICS];
    uint32_t count = 0;

    FOR_EACH_XML_CHILD(object, p->objects, NULL, "value")
    {
        const xmlNode *vif = field(object, "snapshot");
        if (!has_word(object, "class", "VIF") || !has_word(vif, "VM", p->vm))
            continue;
        if (count == LIMIT_NICS)
            return ferry_refuse(err, -E2BIG, p->about, "has more than %d network cards",
                                LIMIT_NICS);
        uint64_t device = number_of(vif, "device");
        uint32_t at = count++;
        for (; at && found[at - 1].device > device; at--)
            found[at] = found[at - 1];
        found[at].vif = vif;
        found[at].device = device;
    }
    for (uint32_t i = 0; i < count; i++)
        parse_nic(p, found[i].vif);
    return 0;
}

int xva_parse(const char *text, size_t size, const char *about, struct guest *guest,
              struct xva_refs *refs, struct notes *notes, struct ferry_error *err)
{
    CLEANUP(xml_free) xmlDoc *doc = NULL;
    struct parse p = {.about = about, .guest = guest, .refs = refs, .notes = notes};

    memset(guest, 0, sizeof(*guest));
    memset(refs, 0, sizeof(*refs));
    int error = describe_check_text(text, size, about, err);
    if (!error)
        error = xml_parse(text, size, about, &doc, err);
    if (error)
        return error;
    const xmlNode *root = xmlDocGetRootElement(doc);
    p.objects = xml_path(field(root, "objects"), NULL, "array/data");
    if (!xml_is(root, NULL, "value") || !p.objects)
        return ferry_refuse(err, -EBADMSG, about, "has no objects in its description");
    error = parse_vm(&p, err);
    if (!error)
        error = parse_disks(&p, err);
    if (!error)
        error = parse_nics(&p, err);
    return error ? error : guest_check(guest, about, err);
}

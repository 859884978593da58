/*
 * OVF, read: 1.x and 2.x, as VMware, ovftool, VirtualBox and ferry write it.  Here is the envelope
 * and the machine in it; its files, its hardware and what goes beyond the standard have files of
 * their own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/ovf_parse.h"

/* ---- The machine ---- */

/* Counts machines below node; *last: one of them. */
static unsigned count_systems(const struct ovf_parse *p, const xmlNode *node, xmlNode **last)
{
    unsigned count = 0;

    FOR_EACH_XML_CHILD(child, node, p->ns, NULL)
    { /* as deep as xml_parse lets it be */
        if (xml_is(child, p->ns, "VirtualSystem")) {
            *last = child;
            count++;
        } else if (xml_is(child, p->ns, "VirtualSystemCollection")) {
            count += count_systems(p, child, last);
        }
    }
    return count;
}

static int find_system(struct ovf_parse *p, struct ferry_error *err)
{
    char id[OVF_ID_BYTES], cut[SHOWN_BYTES];
    unsigned count = count_systems(p, p->envelope, &p->system);

    if (!count)
        return ferry_refuse(err, -EBADMSG, p->about, "has no machine in it");
    xml_attribute_word(p->system, p->ns, "id", id, sizeof(id));
    if (count > 1)
        return ferry_refuse(err, -EOPNOTSUPP, p->about,
                            "has %u machines in it ('%s' is one of them): export each on its own",
                            count, shown(id, cut));
    return 0;
}

static int find_envelope(struct ovf_parse *p, xmlDoc *doc, struct ferry_error *err)
{
    static const char *const spaces[] = {OVF_NS_1, OVF_NS_2};

    p->envelope = xmlDocGetRootElement(doc);
    for (size_t i = 0; i < 2; i++)
        if (xml_is(p->envelope, spaces[i], "Envelope"))
            p->ns = spaces[i];
    if (!p->ns)
        return ferry_refuse(err, -EBADMSG, p->about,
                            "is not an OVF of version 1 or 2: there is no Envelope of these");
    if (xml_child(p->envelope, p->ns, "EncryptionSection") ||
        xml_child(xml_child(p->envelope, p->ns, "References"), XML_ANY, "EncryptedData"))
        return ferry_refuse(err, -EOPNOTSUPP, p->about, "is encrypted");
    return find_system(p, err);
}

static void parse_name(struct ovf_parse *p)
{
    char name[256];

    if (!*xml_word(xml_child(p->system, p->ns, "Name"), name, sizeof(name)))
        xml_attribute_word(p->system, p->ns, "id", name, sizeof(name));
    guest_set_name(p->guest, name);
    if (strcmp(p->guest->name, name) != 0)
        notes_add(&p->notes, "the machine is called '%.60s', and '%s' here", name, p->guest->name);
}

/* The description if there is one; else what the program that wrote it calls it. */
static int parse_os(struct ovf_parse *p, struct ferry_error *err)
{
    const xmlNode *section = xml_child(p->system, p->ns, "OperatingSystemSection");
    bool own = xml_child(p->system, OVF_NS_OWN, "Machine");
    CLEANUP_FREE char *text = xml_text(xml_child(section, p->ns, "Description"));
    char word[64];

    if (!text)
        return ferry_fail(err, -ENOMEM, p->about, "out of memory");
    if (!*text && !own && !*xml_attribute_word(section, OVF_NS_VMW, "osType", word, sizeof(word)))
        xml_word(xml_child(section, OVF_NS_VBOX, "OSType"), word, sizeof(word));
    else if (!*text)
        *word = 0;
    describe_cut(*text ? text : word, p->guest->os, sizeof(p->guest->os),
                 "the name of the guest operating system", &p->notes);
    return 0;
}

/* Sections that nobody here knows, though their writer says that they are needed. */
static void note_sections(struct ovf_parse *p)
{
    const xmlNode *const parents[] = {p->envelope, p->system};
    char required[8];

    for (size_t i = 0; i < 2; i++) {
        FOR_EACH_XML_CHILD(node, parents[i], XML_ANY, NULL)
        {
            const char *ns = node->ns ? (const char *)node->ns->href : "";
            xml_attribute_word(node, p->ns, "required", required, sizeof(required));
            if (strcmp(ns, p->ns) != 0 && strcmp(ns, OVF_NS_VMW) != 0 &&
                strcmp(ns, OVF_NS_VBOX) != 0 && strcmp(ns, OVF_NS_OWN) != 0 &&
                (!*required || describe_yes(required)))
                notes_add(&p->notes, "the section '%.60s' is not known", (const char *)node->name);
        }
    }
    unsigned properties = 0;
    FOR_EACH_XML_CHILD(product, p->system, p->ns, "ProductSection")
    FOR_EACH_XML_CHILD(property, product, p->ns, "Property")
    properties++;
    if (properties)
        notes_add(&p->notes, "%u properties for software in the guest are not kept", properties);
}

static int parse_system(struct ovf_parse *p, struct ferry_error *err)
{
    const xmlNode *hardware = xml_child(p->system, p->ns, "VirtualHardwareSection");

    if (!hardware)
        return ferry_refuse(err, -EBADMSG, p->about, "says nothing about the machine's hardware");
    if (xml_next(hardware, p->ns, "VirtualHardwareSection"))
        notes_add(&p->notes, "of several descriptions of its hardware, the first is taken");
    parse_name(p);
    int error = parse_os(p, err);
    if (!error)
        error = ovf_parse_hardware(p, hardware, err);
    if (!error)
        error = ovf_parse_vmware(p, hardware, err);
    if (!error)
        error = ovf_parse_virtualbox(p, err);
    if (!error)
        error = ovf_parse_own(p, err);
    if (error)
        return error;
    if (!p->guest->cpus) {
        p->guest->cpus = 1;
        notes_add(&p->notes, "the number of CPUs is not said: one");
    }
    ovf_note_unused_disks(p);
    note_sections(p);
    return guest_check(p->guest, p->about, err);
}

int ovf_read(const char *text, size_t size, const char *about, struct guest *guest,
             struct ovf_package *package, json_t *notes, struct ferry_error *err)
{
    CLEANUP(xml_free) xmlDoc *doc = NULL;
    CLEANUP_FREE struct ovf_parse *p = calloc(1, sizeof(*p));

    if (!p)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    memset(guest, 0, sizeof(*guest));
    memset(package, 0, sizeof(*package));
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        package->files[kind].size_bytes = OVF_SIZE_UNKNOWN;
    p->about = about;
    p->guest = guest;
    p->package = package;
    p->notes.list = notes;
    int error = xml_parse(text, size, about, &doc, err);
    if (!error)
        error = find_envelope(p, doc, err);
    if (!error)
        error = parse_system(p, err);
    return error ? error : notes_done(&p->notes, about, err);
}

/* ---- As a description_format ---- */

static bool probe(const char *text, size_t size)
{
    return xml_probe(text, size, "Envelope");
}

static int write_description(const struct guest *guest, json_t *notes, char **text, size_t *size,
                             struct ferry_error *err)
{
    struct ovf_file disks[LIMIT_DISKS], files[GUEST_FILE_KINDS];

    for (uint32_t i = 0; i < guest->disk_count; i++)
        disks[i] = (struct ovf_file){
            .href = *guest->disks[i].file ? guest->disks[i].file : NULL,
            .size_bytes = OVF_SIZE_UNKNOWN,
        };
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        files[kind] = (struct ovf_file){
            .href = *guest->files[kind] ? guest->files[kind] : NULL,
            .size_bytes = OVF_SIZE_UNKNOWN,
        };
    return ovf_write(guest, disks, files, 0, notes, text, size, err);
}

static int read_description(const char *text, size_t size, const char *about, struct guest *guest,
                            json_t *notes, struct ferry_error *err)
{
    CLEANUP_FREE struct ovf_package *package = malloc(sizeof(*package));

    if (!package)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    struct notes more = {.list = notes};
    int error = ovf_read(text, size, about, guest, package, notes, err);
    for (uint32_t i = 0; !error && i < guest->disk_count; i++)
        if (package->disks[i].chunk_bytes || package->disks[i].gzip)
            notes_add(&more, "the file of disk %u is %s in the package", i + 1,
                      package->disks[i].gzip ? "compressed" : "in pieces");
    return error ? error : notes_done(&more, about, err);
}

const struct description_format description_ovf = {
    .name = "ovf",
    .extension = ".ovf",
    .probe = probe,
    .write = write_description,
    .read = read_description,
};

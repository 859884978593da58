/* OVF: the DiskSection and the files that References lists. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "imagefmt/foreign/ovf_parse.h"

const char *ovf_resource_id(const char *resource, const char *kind)
{
    size_t length = strlen(kind);

    if (!strncasecmp(resource, "ovf:", 4))
        resource += 4;
    resource += strspn(resource, "/");
    return !strncmp(resource, kind, length) && resource[length] == '/' ? resource + length + 1
                                                                       : NULL;
}

/* The child of `section` whose ovf:attribute is value. */
static xmlNode *find(const struct ovf_parse *p, const char *section, const char *element,
                     const char *attribute, const char *value)
{
    char is[OVF_ID_BYTES];

    FOR_EACH_XML_CHILD(node, xml_child(p->envelope, p->ns, section), p->ns, element)
    if (!strcmp(xml_attribute_word(node, p->ns, attribute, is, sizeof(is)), value))
        return node;
    return NULL;
}

xmlNode *ovf_find_file(const struct ovf_parse *p, const char *id)
{
    xmlNode *file = find(p, "References", "File", "id", id);

    return file ? file : find(p, "References", "File", "href", id);
}

/* %20 and the like in place; what is no such thing, or would be a NUL, stays. */
static void decode_href(char *name)
{
    char *out = name;

    for (; *name; name++) {
        const char pair[] = {name[0] == '%' ? name[1] : 0, name[0] == '%' && name[1] ? name[2] : 0,
                             0};
        uint8_t byte = 0;
        if (!hex_decode(pair, &byte, 1) && byte)
            name += 2;
        else
            byte = (uint8_t)*name;
        *out++ = (char)byte;
    }
    *out = 0;
}

/* A number that may be missing. */
static int read_number(const struct ovf_parse *p, const xmlNode *node, const char *name,
                       uint64_t missing, uint64_t *value, struct ferry_error *err)
{
    char word[40], cut[SHOWN_BYTES];

    *value = missing;
    if (!*xml_attribute_word(node, p->ns, name, word, sizeof(word)))
        return 0;
    if (describe_number(word, value))
        return ferry_refuse(err, -EBADMSG, p->about,
                            "has '%s' where the %s of a file or disk should be", shown(word, cut),
                            name);
    return 0;
}

int ovf_parse_file(struct ovf_parse *p, const xmlNode *file, struct ovf_part *part, char name[256],
                   struct ferry_error *err)
{
    CLEANUP_FREE char *href = xml_attribute(file, p->ns, "href", NULL);
    char compression[16], cut[SHOWN_BYTES];

    if (!href)
        return ferry_fail(err, -ENOMEM, p->about, "out of memory");
    int error =
        describe_copy(href, part->href, sizeof(part->href), "the name of a file", p->about, err);
    if (error)
        return error;
    if (!*href || strstr(href, "://"))
        return ferry_refuse(err, -EOPNOTSUPP, p->about,
                            "has a file that is not in the package: '%s'", shown(href, cut));
    decode_href(href);
    error = describe_copy(href, name, 256, "the name of a file", p->about, err);
    if (!error)
        error = read_number(p, file, "size", OVF_SIZE_UNKNOWN, &part->size_bytes, err);
    if (!error)
        error = read_number(p, file, "chunkSize", 0, &part->chunk_bytes, err);
    if (error)
        return error;
    xml_attribute_word(file, p->ns, "compression", compression, sizeof(compression));
    part->gzip = !strcasecmp(compression, "gzip");
    if (*compression && !part->gzip && strcasecmp(compression, "identity") != 0)
        return ferry_refuse(err, -EOPNOTSUPP, p->about,
                            "has a file with a compression that is not known: '%s'",
                            shown(compression, cut));
    return 0;
}

static int parse_capacity(const struct ovf_parse *p, const xmlNode *node, uint64_t *bytes,
                          struct ferry_error *err)
{
    char unit[40], cut[SHOWN_BYTES];

    int error = read_number(p, node, "capacity", 0, bytes, err);
    if (error || !*bytes)
        return error;
    xml_attribute_word(node, p->ns, "capacityAllocationUnits", unit, sizeof(unit));
    uint64_t factor = *unit ? ovf_unit_bytes(unit) : 1;
    if (!factor)
        return ferry_refuse(err, -EBADMSG, p->about,
                            "has a disk's capacity in a unit that is not known: '%s'",
                            shown(unit, cut));
    *bytes = describe_multiply(*bytes, factor);
    return 0;
}

/* What the Disk element says but for its file. */
static int parse_disk_element(struct ovf_parse *p, const xmlNode *node, uint32_t index,
                              struct ferry_error *err)
{
    struct guest_disk *disk = &p->guest->disks[index];
    char parent[OVF_ID_BYTES], uri[128], cut[SHOWN_BYTES];

    if (*xml_attribute_word(node, p->ns, "parentRef", parent, sizeof(parent)))
        return ferry_refuse(err, -EOPNOTSUPP, p->about,
                            "has a disk that builds on another one ('%s'): export it as a whole",
                            shown(parent, cut));
    int error = parse_capacity(p, node, &disk->size_bytes, err);
    if (error)
        return error;
    p->package->disks[index].capacity_bytes = disk->size_bytes;
    xml_attribute_word(node, p->ns, "format", uri, sizeof(uri));
    snprintf(disk->format, sizeof(disk->format), "%s", ovf_format_of_uri(uri));
    return 0;
}

static int refuse_reuse(const struct ovf_parse *p, uint32_t index, struct ferry_error *err)
{
    char cut[SHOWN_BYTES];

    for (uint32_t i = 0; i < index; i++) {
        const char *href = p->package->disks[index].href;
        if (!strcmp(p->disk_ids[i], p->disk_ids[index]) ||
            (*href && !strcmp(p->package->disks[i].href, href)))
            return ferry_refuse(err, -EOPNOTSUPP, p->about,
                                "has two disks that are the same one: '%s'",
                                shown(p->disk_ids[index], cut));
    }
    return 0;
}

int ovf_parse_disk(struct ovf_parse *p, uint32_t index, const char *resource,
                   struct ferry_error *err)
{
    const char *id = ovf_resource_id(resource, "disk"),
               *file_id = ovf_resource_id(resource, "file");
    struct ovf_part *part = &p->package->disks[index];
    char reference[OVF_ID_BYTES], cut[SHOWN_BYTES];

    snprintf(p->disk_ids[index], OVF_ID_BYTES, "%s", id ? id : file_id ? file_id : "");
    part->size_bytes = OVF_SIZE_UNKNOWN;
    if (id) {
        const xmlNode *node = find(p, "DiskSection", "Disk", "diskId", p->disk_ids[index]);
        int error = node ? parse_disk_element(p, node, index, err)
                         : ferry_refuse(err, -EBADMSG, p->about,
                                        "has no disk '%s' in its DiskSection", shown(id, cut));
        if (error)
            return error;
        file_id = xml_attribute_word(node, p->ns, "fileRef", reference, sizeof(reference));
    }
    if (!file_id)
        return ferry_refuse(err, -EBADMSG, p->about,
                            "has a disk that is neither in it nor a file of it: '%s'",
                            shown(resource, cut));
    if (*file_id) {
        const xmlNode *file = find(p, "References", "File", "id", file_id);
        int error = file ? ovf_parse_file(p, file, part, p->guest->disks[index].file, err)
                         : ferry_refuse(err, -EBADMSG, p->about,
                                        "has no file '%s' in its References", shown(file_id, cut));
        if (error)
            return error;
    } else if (!part->capacity_bytes) {
        return ferry_refuse(err, -EBADMSG, p->about,
                            "has a disk without a file and without a size: '%s'",
                            shown(p->disk_ids[index], cut));
    } else {
        notes_add(&p->notes, "disk %u has no file: it is blank", index + 1);
    }
    return refuse_reuse(p, index, err);
}

void ovf_note_unused_disks(struct ovf_parse *p)
{
    char id[OVF_ID_BYTES];

    FOR_EACH_XML_CHILD(node, xml_child(p->envelope, p->ns, "DiskSection"), p->ns, "Disk")
    {
        bool used = false;
        xml_attribute_word(node, p->ns, "diskId", id, sizeof(id));
        for (uint32_t i = 0; i < p->guest->disk_count && !used; i++)
            used = !strcmp(p->disk_ids[i], id);
        if (!used)
            notes_add(&p->notes, "the disk '%.60s' is in the package, but not in the machine", id);
    }
}

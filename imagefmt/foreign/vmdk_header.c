/*
 * VMDK: the binary header of a sparse extent, and the descriptor, a text of lines: comments,
 * KEY=VALUE with quotes or without, and extents (ACCESS SECTORS KIND "FILE" [OFFSET]).
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/vmdk.h"

#define DESCRIPTOR_FIRST_LINE "# Disk DescriptorFile"
#define NO_PARENT             0xffffffffu
#define HEADS                 UINT64_C(255) /* of the geometry in a descriptor that is written */
#define TRACK_SECTORS         63

/* ---- Header ---- */

static const char *header_fault(const struct vmdk_header *h)
{
    if (h->version < 1 || h->version > 3)
        return "is of a version that is not known (known: 1 to 3)";
    if (h->grain < 8 || h->grain > DISK_UNIT_MAX_BYTES / VMDK_SECTOR || (h->grain & (h->grain - 1)))
        return "has a grain size that is out of range (4 KiB to 2 MiB, a power of two)";
    if (h->gtes != VMDK_GTES)
        return "has grain tables of another size than 512 entries";
    if (h->capacity > VMDK_CAPACITY_MAX)
        return "has an extent larger than 2 TiB, which this format cannot hold";
    if (h->flags & VMDK_FLAG_COMPRESSED && (h->compression != 1 || !(h->flags & VMDK_FLAG_MARKERS)))
        return "is compressed in a way that is not known (known: deflate with markers)";
    return NULL;
}

int vmdk_parse_header(const uint8_t sector[VMDK_SECTOR], const char *about,
                      struct vmdk_header *header, struct ferry_error *err)
{
    struct reader r = reader_init(sector, VMDK_SECTOR);

    if (reader_u32(&r) != VMDK_MAGIC)
        return ferry_refuse(err, -EBADMSG, about, "is not a VMDK: the magic is missing");
    header->version = reader_u32(&r);
    header->flags = reader_u32(&r);
    header->capacity = reader_u64(&r);
    header->grain = reader_u64(&r);
    header->descriptor = reader_u64(&r);
    header->descriptor_sectors = reader_u64(&r);
    header->gtes = reader_u32(&r);
    header->redundant_gd = reader_u64(&r);
    header->gd = reader_u64(&r);
    header->overhead = reader_u64(&r);
    reader_u8(&r); /* unclean shutdown: nothing to be done about it */
    const uint8_t *newlines = reader_take(&r, 4);
    header->compression = reader_u16(&r);
    if (header->flags & VMDK_FLAG_NEWLINES && memcmp(newlines, "\n \r\n", 4) != 0)
        return ferry_refuse(err, -EBADMSG, about,
                            "was damaged by a transfer as text: its line ends were changed");
    const char *fault = header_fault(header);
    return fault ? ferry_refuse(err, -EBADMSG, about, "%s", fault) : 0;
}

void vmdk_compose_header(const struct vmdk_header *header, uint8_t sector[VMDK_SECTOR])
{
    CLEANUP(writer_free) struct writer w = writer_init(VMDK_SECTOR);

    memset(sector, 0, VMDK_SECTOR);
    writer_u32(&w, VMDK_MAGIC);
    writer_u32(&w, header->version);
    writer_u32(&w, header->flags);
    writer_u64(&w, header->capacity);
    writer_u64(&w, header->grain);
    writer_u64(&w, header->descriptor);
    writer_u64(&w, header->descriptor_sectors);
    writer_u32(&w, header->gtes);
    writer_u64(&w, header->redundant_gd);
    writer_u64(&w, header->gd);
    writer_u64(&w, header->overhead);
    writer_u8(&w, 0);
    writer_copy(&w, "\n \r\n", 4);
    writer_u16(&w, header->compression);
    if (!w.error)
        memcpy(sector, w.data, w.size);
}

bool vmdk_is_descriptor(const uint8_t *bytes, size_t size)
{
    size_t line = strlen(DESCRIPTOR_FIRST_LINE);

    return size >= line && !strncasecmp((const char *)bytes, DESCRIPTOR_FIRST_LINE, line);
}

bool vmdk_probe(const uint8_t *head, size_t head_bytes, const uint8_t *tail, size_t tail_bytes)
{
    struct reader r = reader_init(head, head_bytes);

    (void)tail;
    (void)tail_bytes;
    if (reader_u32(&r) != VMDK_MAGIC)
        return vmdk_is_descriptor(head, head_bytes);
    uint32_t version = reader_u32(&r);
    return version >= 1 && version <= 3;
}

/* ---- Descriptor ---- */

/* text, less quotes and spaces around it: printable ASCII, the rest as '?'. */
static void copy_value(const char *text, size_t length, char *out, size_t room)
{
    while (length && (isspace((unsigned char)*text) || *text == '"')) {
        text++;
        length--;
    }
    while (length && (isspace((unsigned char)text[length - 1]) || text[length - 1] == '"'))
        length--;
    if (length >= room)
        length = room - 1;
    for (size_t i = 0; i < length; i++)
        out[i] = text[i] < ' ' || text[i] > '~' ? '?' : text[i];
    out[length] = 0;
}

static bool starts_with_word(const char *line, const char *word)
{
    size_t length = strlen(word);

    return !strncasecmp(line, word, length) && isspace((unsigned char)line[length]);
}

static bool is_extent(const char *line)
{
    return starts_with_word(line, "RW") || starts_with_word(line, "RDONLY") ||
           starts_with_word(line, "NOACCESS");
}

/* RW 10240 FLAT "disk-flat.vmdk" 0; false: it makes no sense. */
static bool parse_extent(const char *line, struct vmdk_descriptor *d)
{
    char *end;

    if (d->extents++)
        return true; /* only the number of the others matters */
    line += strcspn(line, " \t");
    d->sectors = strtoull(line, &end, 10);
    line = end + strspn(end, " \t");
    size_t length = strcspn(line, " \t");
    copy_value(line, length, d->kind, sizeof(d->kind));
    const char *open = strchr(line, '"'), *close = open ? strchr(open + 1, '"') : NULL;
    if (close) {
        copy_value(open, (size_t)(close - open), d->file, sizeof(d->file));
        d->offset = strtoull(close + 1, NULL, 10);
    }
    return length && d->sectors && d->sectors <= LIMIT_DISK_BYTES / VMDK_SECTOR &&
           d->offset <= LIMIT_DISK_BYTES / VMDK_SECTOR;
}

static void parse_key(const char *line, struct vmdk_descriptor *d)
{
    const char *equals = strchr(line, '=');
    char key[32], value[256];

    if (!equals)
        return;
    copy_value(line, (size_t)(equals - line), key, sizeof(key));
    copy_value(equals + 1, strlen(equals + 1), value, sizeof(value));
    if (!strcasecmp(key, "createType"))
        snprintf(d->create_type, sizeof(d->create_type), "%.31s", value);
    else if (!strcasecmp(key, "CID"))
        d->cid = (uint32_t)strtoul(value, NULL, 16);
    else if (!strcasecmp(key, "parentCID"))
        d->has_parent = strtoul(value, NULL, 16) != NO_PARENT;
    else if (!strcasecmp(key, "parentFileNameHint"))
        snprintf(d->parent, sizeof(d->parent), "%s", value);
}

int vmdk_read_descriptor(struct source *source, uint64_t offset, uint64_t size,
                         struct vmdk_descriptor *descriptor, struct ferry_error *err)
{
    if (size > VMDK_DESCRIPTOR_MAX_BYTES)
        return ferry_refuse(err, -EFBIG, source->about, "has a descriptor larger than %u KiB",
                            (unsigned)(VMDK_DESCRIPTOR_MAX_BYTES / KIB));
    CLEANUP_FREE char *text = calloc(1, size + 1);
    if (!text)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error = source->pread(source, offset, text, size, err);
    if (error)
        return error;
    memset(descriptor, 0, sizeof(*descriptor));
    if (is_zero(text, size))
        return ferry_refuse(err, -ENOTSUP, source->about,
                            "has no descriptor in it: it is one extent of a disk in several files");
    if (!vmdk_is_descriptor((const uint8_t *)text, size))
        return ferry_refuse(err, -EBADMSG, source->about,
                            "has no descriptor where its header says");
    char *rest = NULL;
    for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        line += strspn(line, " \t");
        if (*line == '#')
            continue;
        if (!is_extent(line))
            parse_key(line, descriptor);
        else if (!parse_extent(line, descriptor))
            return ferry_refuse(err, -EBADMSG, source->about,
                                "has an extent line in its descriptor that makes no sense");
    }
    return 0;
}

int vmdk_check_descriptor(const struct vmdk_descriptor *d, const char *about,
                          struct ferry_error *err)
{
    if (d->has_parent)
        return ferry_refuse(err, -ENOTSUP, about,
                            "is a delta disk on parent '%s', which is not read: consolidate its "
                            "snapshots first",
                            d->parent);
    if (d->extents != 1)
        return ferry_refuse(err, -ENOTSUP, about, "is a disk in %u extents (%s); one is read",
                            d->extents, d->create_type);
    return 0;
}

int vmdk_inflate(struct codec *codec, const uint8_t *stored, size_t size, uint8_t *out,
                 uint64_t grain_bytes, uint64_t left)
{
    int error = codec_decompress(codec, stored, size, out, grain_bytes, NULL);

    if (error != -EBADMSG || left >= grain_bytes)
        return error;
    memset(out + left, 0, grain_bytes - left);
    return codec_decompress(codec, stored, size, out, left, NULL);
}

void vmdk_compose_descriptor(const struct disk_write_options *options, const char *create_type,
                             const char *access, uint8_t *text)
{
    const uint8_t *id = options->identity;
    uint64_t sectors = options->size_bytes / VMDK_SECTOR,
             cylinders = sectors / (HEADS * TRACK_SECTORS);
    uint32_t cid = (uint32_t)id[0] << 24 | (uint32_t)id[1] << 16 | (uint32_t)id[2] << 8 | id[3];
    char long_id[33];

    cid &= 0x7fffffff; /* all ones means none, all but one means not yet set */
    for (int i = 0; i < 16; i++)
        snprintf(long_id + (size_t)2 * i, 3, "%02x", id[i]);
    snprintf(long_id + 24, 9, "%08x", cid); /* its end is the CID */
    memset(text, 0, VMDK_DESCRIPTOR_SECTORS * VMDK_SECTOR);
    snprintf((char *)text, VMDK_DESCRIPTOR_SECTORS * VMDK_SECTOR,
             DESCRIPTOR_FIRST_LINE "\n"
                                   "version=1\n"
                                   "CID=%08x\n"
                                   "parentCID=ffffffff\n"
                                   "createType=\"%s\"\n"
                                   "\n"
                                   "# Extent description\n"
                                   "%s %llu SPARSE \"disk.vmdk\"\n"
                                   "\n"
                                   "# The Disk Data Base\n"
                                   "#DDB\n"
                                   "\n"
                                   "ddb.adapterType = \"lsilogic\"\n"
                                   "ddb.geometry.cylinders = \"%llu\"\n"
                                   "ddb.geometry.heads = \"255\"\n"
                                   "ddb.geometry.sectors = \"63\"\n"
                                   "ddb.longContentID = \"%s\"\n"
                                   "ddb.virtualHWVersion = \"4\"\n",
             cid, create_type, access, (unsigned long long)sectors,
             (unsigned long long)(cylinders > 65535 ? 65535 : cylinders), long_id);
}

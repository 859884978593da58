/* VHDX: headers, region tables and metadata, as they are read, and the sum they bear. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/vhdx.h"

#define HEADER_MAGIC   0x64616568u /* "head" */
#define REGIONS_MAGIC  0x69676572u /* "regi" */
#define METADATA_MAGIC UINT64_C(0x617461646174656d)
#define REQUIRED       1u
#define ITEM_REQUIRED  4u

const uint8_t vhdx_guids[VHDX_GUIDS][VHDX_GUID_BYTES] = {
    [VHDX_GUID_BAT] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b,
                       0xfd, 0x4a, 0x08},
    [VHDX_GUID_METADATA] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f,
                            0x05, 0x0f, 0x88, 0x6e},
    [VHDX_GUID_FILE_PARAMETERS] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33,
                                   0xf0, 0xaa, 0x44, 0xe7, 0x6b},
    [VHDX_GUID_DISK_SIZE] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe,
                             0xd8, 0x3b, 0xf4, 0xb8},
    [VHDX_GUID_DISK_ID] = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09,
                           0xe0, 0x00, 0xc7, 0x46},
    [VHDX_GUID_LOGICAL_SECTOR] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2,
                                  0x33, 0xa8, 0xfa, 0xab, 0x5f},
    [VHDX_GUID_PHYSICAL_SECTOR] = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9,
                                   0x88, 0x52, 0x51, 0xc5, 0x56},
    [VHDX_GUID_PARENT] = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8,
                          0x48, 0x34, 0xab, 0x0c},
};

uint32_t vhdx_crc32c(uint32_t sum, const void *data, size_t size)
{
    static const uint32_t nibbles[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const uint8_t *bytes = data;

    sum = ~sum;
    for (size_t i = 0; i < size; i++) {
        sum ^= bytes[i];
        sum = sum >> 4 ^ nibbles[sum & 15];
        sum = sum >> 4 ^ nibbles[sum & 15];
    }
    return ~sum;
}

uint32_t vhdx_sum(const void *data, size_t size)
{
    static const uint8_t zero[4];
    uint32_t sum = vhdx_crc32c(0, data, 4);

    sum = vhdx_crc32c(sum, zero, 4);
    return vhdx_crc32c(sum, (const uint8_t *)data + 8, size - 8);
}

/* ---- Headers ---- */

static bool parse_header(const uint8_t *bytes, struct vhdx_header *header)
{
    struct reader r = reader_init(bytes, VHDX_HEADER_BYTES);

    uint32_t magic = reader_u32(&r), sum = reader_u32(&r);
    header->sequence = reader_u64(&r);
    reader_take(&r, (size_t)2 * VHDX_GUID_BYTES); /* file and data write */
    reader_copy(&r, header->log_guid, VHDX_GUID_BYTES);
    header->log_version = reader_u16(&r);
    header->version = reader_u16(&r);
    header->log_bytes = reader_u32(&r);
    header->log_offset = reader_u64(&r);
    return magic == HEADER_MAGIC && sum == vhdx_sum(bytes, VHDX_HEADER_BYTES);
}

int vhdx_read_header(struct source *source, struct vhdx_header *header, struct ferry_error *err)
{
    uint8_t bytes[VHDX_HEADER_BYTES];
    struct vhdx_header one;
    bool found = false;

    for (unsigned i = 1; i <= 2; i++) {
        int error = source->pread(source, i * VHDX_HEADER_OFFSET, bytes, sizeof(bytes), err);
        if (error)
            return error;
        if (parse_header(bytes, &one) && (!found || one.sequence > header->sequence)) {
            *header = one;
            found = true;
        }
    }
    if (!found)
        return ferry_refuse(err, -EBADMSG, source->about,
                            "is damaged: none of its headers is sound");
    if (header->version != 1)
        return ferry_refuse(err, -ENOTSUP, source->about,
                            "is of a version that is not known: %u (known: 1)", header->version);
    return 0;
}

/* ---- Regions ---- */

static int damaged(const struct source *source, const char *what, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, source->about, "is damaged: %s", what);
}

static bool is_guid(const uint8_t *guid, enum vhdx_guid which)
{
    return !memcmp(guid, vhdx_guids[which], VHDX_GUID_BYTES);
}

static int parse_regions(struct source *source, const uint8_t *bytes, struct vhdx_layout *layout,
                         struct ferry_error *err)
{
    struct reader r = reader_init(bytes, VHDX_REGIONS_BYTES);

    reader_take(&r, 8);
    uint32_t count = reader_u32(&r);
    reader_u32(&r);
    if (count > VHDX_REGIONS_MAX)
        return damaged(source, "its region table has too many entries", err);
    while (count--) {
        const uint8_t *guid = reader_take(&r, VHDX_GUID_BYTES);
        uint64_t offset = reader_u64(&r);
        uint32_t size = reader_u32(&r), required = reader_u32(&r);
        if (is_guid(guid, VHDX_GUID_BAT)) {
            layout->bat_offset = offset;
            layout->bat_bytes = size;
        } else if (is_guid(guid, VHDX_GUID_METADATA)) {
            layout->metadata_offset = offset;
            layout->metadata_bytes = size;
        } else if (required & REQUIRED) {
            return ferry_refuse(err, -ENOTSUP, source->about,
                                "needs a region that is not known here");
        }
    }
    uint64_t bat = layout->bat_offset, metadata = layout->metadata_offset;
    if (bat % MIB || metadata % MIB ||
        (bat < metadata + layout->metadata_bytes && metadata < bat + layout->bat_bytes))
        return damaged(source, "its regions overlap, or do not begin at whole MiB", err);
    if (layout->bat_offset < MIB || layout->metadata_offset < MIB ||
        layout->metadata_bytes < VHDX_METADATA_BYTES)
        return damaged(source, "a region that it needs is missing", err);
    return 0;
}

static int read_regions(struct source *source, struct vhdx_layout *layout, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *bytes = malloc(VHDX_REGIONS_BYTES);

    if (!bytes)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    for (unsigned i = 0; i < 2; i++) {
        int error = source->pread(source, VHDX_REGIONS_OFFSET + i * VHDX_REGIONS_BYTES, bytes,
                                  VHDX_REGIONS_BYTES, err);
        if (error)
            return error;
        struct reader r = reader_init(bytes, VHDX_REGIONS_BYTES);
        if (reader_u32(&r) == REGIONS_MAGIC &&
            reader_u32(&r) == vhdx_sum(bytes, VHDX_REGIONS_BYTES))
            return parse_regions(source, bytes, layout, err);
    }
    return damaged(source, "none of its region tables is sound", err);
}

/* ---- Metadata ---- */

static int parse_item(struct source *source, struct vhdx_layout *layout, const uint8_t *guid,
                      uint32_t offset, uint32_t flags, struct ferry_error *err)
{
    uint8_t bytes[8] = {0};
    bool parameters = is_guid(guid, VHDX_GUID_FILE_PARAMETERS);
    bool size = is_guid(guid, VHDX_GUID_DISK_SIZE);
    bool sector = is_guid(guid, VHDX_GUID_LOGICAL_SECTOR);

    if (!parameters && !size && !sector) {
        if (flags & ITEM_REQUIRED && !is_guid(guid, VHDX_GUID_DISK_ID) &&
            !is_guid(guid, VHDX_GUID_PHYSICAL_SECTOR) && !is_guid(guid, VHDX_GUID_PARENT))
            return ferry_refuse(err, -ENOTSUP, source->about,
                                "needs a metadata item that is not known here");
        return 0;
    }
    size_t length = sector ? 4 : 8;
    if (offset > layout->metadata_bytes || length > layout->metadata_bytes - offset)
        return damaged(source, "a metadata item lies outside its region", err);
    int error = source->pread(source, layout->metadata_offset + offset, bytes, length, err);
    struct reader r = reader_init(bytes, sizeof(bytes));
    if (parameters) {
        layout->block_bytes = reader_u32(&r);
        layout->flags = reader_u32(&r);
    } else if (size) {
        layout->size_bytes = reader_u64(&r);
    } else {
        layout->sector_bytes = reader_u32(&r);
    }
    return error;
}

static int read_metadata(struct source *source, struct vhdx_layout *layout, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *bytes = malloc(VHDX_METADATA_BYTES);

    if (!bytes)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    int error = source->pread(source, layout->metadata_offset, bytes, VHDX_METADATA_BYTES, err);
    if (error)
        return error;
    struct reader r = reader_init(bytes, VHDX_METADATA_BYTES);
    uint64_t magic = reader_u64(&r);
    reader_u16(&r);
    uint16_t count = reader_u16(&r);
    reader_take(&r, 20);
    if (magic != METADATA_MAGIC || count > VHDX_ITEMS_MAX)
        return damaged(source, "its metadata table makes no sense", err);
    while (!error && count--) {
        const uint8_t *guid = reader_take(&r, VHDX_GUID_BYTES);
        uint32_t offset = reader_u32(&r);
        reader_u32(&r);
        uint32_t flags = reader_u32(&r);
        reader_u32(&r);
        error = parse_item(source, layout, guid, offset, flags, err);
    }
    return error;
}

static int check_layout(const struct source *source, const struct vhdx_layout *l,
                        struct ferry_error *err)
{
    if (l->flags & VHDX_HAS_PARENT)
        return ferry_refuse(err, -ENOTSUP, source->about,
                            "is a differencing disk, which is not read: merge it with its parent "
                            "first");
    if (l->block_bytes < VHDX_BLOCK_MIN_BYTES || l->block_bytes > VHDX_BLOCK_MAX_BYTES ||
        (l->block_bytes & (l->block_bytes - 1)))
        return damaged(source, "its block size is out of range (1 to 256 MiB)", err);
    if (l->sector_bytes != 512 && l->sector_bytes != 4096)
        return damaged(source, "its sector size is neither 512 nor 4096", err);
    if (!l->size_bytes || l->size_bytes > LIMIT_DISK_BYTES || l->size_bytes % l->sector_bytes)
        return damaged(source, "its disk's size is out of range (to 64 TiB, whole sectors)", err);
    uint64_t blocks = (l->size_bytes + l->block_bytes - 1) / l->block_bytes;
    uint64_t ratio = VHDX_CHUNK_SECTORS * l->sector_bytes / l->block_bytes;
    uint64_t bytes = (blocks + (blocks - 1) / ratio) * 8;
    if (bytes > l->bat_bytes || l->bat_offset > source->size_bytes ||
        bytes > source->size_bytes - l->bat_offset)
        return damaged(source, "its block table is too short", err);
    return 0;
}

int vhdx_read_layout(struct source *source, struct vhdx_layout *layout, struct ferry_error *err)
{
    memset(layout, 0, sizeof(*layout));
    int error = read_regions(source, layout, err);
    if (!error)
        error = read_metadata(source, layout, err);
    return error ? error : check_layout(source, layout, err);
}

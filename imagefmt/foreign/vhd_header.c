/* VHD: footer and dynamic header, as they are read. */
#include <string.h>

#include "common/bytes.h"
#include "imagefmt/foreign/vhd.h"

#define FOOTER_SUM_AT 64
#define HEADER_SUM_AT 36

uint32_t vhd_sum(const uint8_t *bytes, size_t size, size_t sum_at)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += i >= sum_at && i < sum_at + 4 ? 0 : bytes[i];
    return ~sum;
}

uint32_t vhd_bitmap_bytes(uint32_t block_bytes)
{
    uint32_t bytes = block_bytes / VHD_SECTOR / 8;

    return (bytes + VHD_SECTOR - 1) / VHD_SECTOR * VHD_SECTOR;
}

bool vhd_parse_footer(const uint8_t bytes[VHD_FOOTER_BYTES], struct vhd_footer *footer)
{
    struct reader r = reader_init(bytes, VHD_FOOTER_BYTES);
    const uint8_t *cookie = reader_take(&r, 8);

    reader_u32be(&r); /* features */
    footer->version = reader_u32be(&r);
    footer->header_offset = reader_u64be(&r);
    reader_u32be(&r); /* time */
    reader_copy(&r, footer->creator, 4);
    footer->creator[4] = 0;
    reader_take(&r, 16); /* its version and system, original size */
    footer->size_bytes = reader_u64be(&r);
    footer->cylinders = reader_u16be(&r);
    footer->heads = reader_u8(&r);
    footer->sectors = reader_u8(&r);
    footer->type = reader_u32be(&r);
    uint32_t sum = reader_u32be(&r);
    reader_copy(&r, footer->identity, sizeof(footer->identity));
    return !memcmp(cookie, "conectix", 8) && footer->type >= VHD_FIXED &&
           footer->type <= VHD_DIFFERENCING &&
           sum == vhd_sum(bytes, VHD_FOOTER_BYTES, FOOTER_SUM_AT);
}

/* UTF-16 as far as it is ASCII. */
static void copy_name(const uint8_t *utf16, size_t units, char *out)
{
    size_t length = 0;

    for (; length < units && (utf16[2 * length] || utf16[2 * length + 1]); length++) {
        bool plain =
            !utf16[2 * length] && utf16[2 * length + 1] >= ' ' && utf16[2 * length + 1] < 127;
        out[length] = plain ? (char)utf16[2 * length + 1] : '?';
    }
    out[length] = 0;
}

bool vhd_parse_header(const uint8_t bytes[VHD_HEADER_BYTES], struct vhd_header *header)
{
    struct reader r = reader_init(bytes, VHD_HEADER_BYTES);
    const uint8_t *cookie = reader_take(&r, 8);

    reader_u64be(&r);
    header->bat_offset = reader_u64be(&r);
    reader_u32be(&r); /* version */
    header->entries = reader_u32be(&r);
    header->block_bytes = reader_u32be(&r);
    uint32_t sum = reader_u32be(&r);
    reader_copy(&r, header->parent_identity, sizeof(header->parent_identity));
    reader_take(&r, 8); /* the parent's time */
    copy_name(reader_take(&r, 512), 256, header->parent);
    return !memcmp(cookie, "cxsparse", 8) && sum == vhd_sum(bytes, VHD_HEADER_BYTES, HEADER_SUM_AT);
}

uint64_t vhd_disk_size(const struct vhd_footer *footer)
{
    static const char by_bytes[][4 + 1] = {"win ", "d2v ", "qem2", "tap", "CTXS", "wa\0"};
    uint64_t geometry = (uint64_t)footer->cylinders * footer->heads * footer->sectors;

    if (geometry == (uint64_t)65535 * 16 * 255 || !geometry)
        return footer->size_bytes / VHD_SECTOR * VHD_SECTOR;
    for (size_t i = 0; i < sizeof(by_bytes) / sizeof(*by_bytes); i++)
        if (!memcmp(footer->creator, by_bytes[i], 4))
            return footer->size_bytes / VHD_SECTOR * VHD_SECTOR;
    return geometry * VHD_SECTOR;
}

/*
 * VMDK, reading: monolithicSparse and streamOptimized (a grain directory names grain tables, their
 * entries name grains, which are compressed in the latter), and monolithicFlat (a descriptor, and a
 * raw file that the caller opened).
 *
 * The directory is loaded: its size is bounded by the largest capacity, and it must lie within the
 * file.  Grain tables are read through a cache of pages.  Tables may refer to one another or to
 * themselves as they like: an entry only ever says where bytes are read.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/codec.h"
#include "imagefmt/foreign/pages.h"
#include "imagefmt/foreign/vmdk.h"

struct vmdk {
    struct disk disk;
    struct source *source;
    struct source *flat; /* of the caller; NULL: sparse */
    uint64_t flat_offset;
    struct vmdk_header header;
    struct vmdk_descriptor descriptor;
    uint64_t grain_bytes;
    uint32_t *gd; /* sectors of grain tables */
    uint64_t gd_entries;
    struct pages *pages;
    struct codec *codec;
};

static void vmdk_close(struct disk *disk)
{
    struct vmdk *v = disk->opaque;

    free(v->gd);
    pages_destroy(v->pages);
    codec_destroy(v->codec);
    free(v);
}

static void cleanup_vmdk(struct vmdk **v)
{
    if (*v)
        vmdk_close(&(*v)->disk);
}

/* ---- Opening ---- */

static bool lies_within(const struct vmdk *v, uint64_t sector, uint64_t bytes)
{
    uint64_t size = v->source->size_bytes;

    return sector && sector <= size / VMDK_SECTOR && bytes <= size - sector * VMDK_SECTOR;
}

/* A stream's header says that its directory is at the end: the footer knows where. */
static int read_footer(struct vmdk *v, struct ferry_error *err)
{
    struct vmdk_header footer;
    uint8_t sector[VMDK_SECTOR];
    struct source *source = v->source;

    if (source->size_bytes < 4 * VMDK_SECTOR || source->size_bytes % VMDK_SECTOR)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short: its footer is missing");
    int error =
        source->pread(source, source->size_bytes - 2 * VMDK_SECTOR, sector, VMDK_SECTOR, err);
    if (error)
        return error;
    struct reader r = reader_init(sector, VMDK_SECTOR);
    if (reader_u32(&r) != VMDK_MAGIC)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short: its footer is missing");
    error = vmdk_parse_header(sector, source->about, &footer, err);
    if (error)
        return error;
    if (footer.capacity != v->header.capacity || footer.grain != v->header.grain ||
        footer.gd == VMDK_GD_AT_END)
        return ferry_refuse(err, -EBADMSG, source->about, "is damaged: header and footer differ");
    v->header.gd = footer.gd;
    v->header.redundant_gd = footer.redundant_gd;
    return 0;
}

static int load_directory(struct vmdk *v, struct ferry_error *err)
{
    uint64_t covers = v->header.grain * VMDK_GTES, sector = v->header.gd;

    v->gd_entries = (v->header.capacity + covers - 1) / covers;
    uint64_t bytes = v->gd_entries * sizeof(*v->gd); /* at most 4 MiB */
    if (!lies_within(v, sector, bytes) && v->header.flags & VMDK_FLAG_REDUNDANT)
        sector = v->header.redundant_gd;
    if (!lies_within(v, sector, bytes))
        return ferry_refuse(err, -EBADMSG, v->source->about,
                            "is damaged or cut short: its grain directory is not within the file");
    CLEANUP_FREE uint8_t *raw = malloc(bytes);
    v->gd = malloc(bytes);
    if (!raw || !v->gd)
        return ferry_fail(err, -ENOMEM, v->source->about, "out of memory");
    int error = v->source->pread(v->source, sector * VMDK_SECTOR, raw, bytes, err);
    struct reader r = reader_init(raw, bytes);
    for (uint64_t i = 0; !error && i < v->gd_entries; i++)
        v->gd[i] = reader_u32(&r);
    return error;
}

static int open_sparse(struct vmdk *v, const uint8_t *sector, struct ferry_error *err)
{
    struct vmdk_header *h = &v->header;
    struct source *source = v->source;

    int error = vmdk_parse_header(sector, source->about, h, err);
    if (error)
        return error;
    const uint64_t most = VMDK_DESCRIPTOR_MAX_BYTES / VMDK_SECTOR;
    uint64_t start = h->descriptor, sectors = h->descriptor_sectors;
    if (start > source->size_bytes / VMDK_SECTOR)
        start = source->size_bytes / VMDK_SECTOR + 1;
    if (sectors > most)
        sectors = most + 1;
    error = vmdk_read_descriptor(source, start * VMDK_SECTOR, sectors * VMDK_SECTOR, &v->descriptor,
                                 err);
    if (!error)
        error = vmdk_check_descriptor(&v->descriptor, source->about, err);
    if (error)
        return error;
    /* VirtualBox rounds the capacity up to grains; the descriptor has the disk's size. */
    if (v->descriptor.sectors > h->capacity)
        return ferry_refuse(err, -EBADMSG, source->about,
                            "is damaged: header and descriptor disagree about the disk's size");
    v->disk.size_bytes = v->descriptor.sectors * VMDK_SECTOR;
    v->disk.stored_bytes = source->size_bytes;
    v->grain_bytes = h->grain * VMDK_SECTOR;
    v->disk.block_bytes = h->flags & VMDK_FLAG_COMPRESSED ? (uint32_t)v->grain_bytes : 0;
    if (h->gd == VMDK_GD_AT_END)
        error = read_footer(v, err);
    if (!error)
        error = load_directory(v, err);
    if (!error)
        error = pages_create(source, &v->pages, err);
    return error ? error : codec_create(CODEC_ZLIB, 0, &v->codec, err);
}

static int open_flat(struct vmdk *v, const struct disk_open_options *options,
                     struct ferry_error *err)
{
    struct vmdk_descriptor *d = &v->descriptor;
    struct source *source = v->source;

    int error = vmdk_read_descriptor(source, 0, source->size_bytes, d, err);
    if (!error)
        error = vmdk_check_descriptor(&v->descriptor, source->about, err);
    if (error)
        return error;
    if (strcasecmp(d->kind, "FLAT") != 0 && strcasecmp(d->kind, "VMFS") != 0)
        return ferry_refuse(err, -ENOTSUP, source->about,
                            "has an extent of kind %s in '%s', which is not read through its "
                            "descriptor",
                            d->kind, d->file);
    if (!options || !options->external)
        return ferry_refuse(err, -EPERM, source->about,
                            "keeps its content in '%s', which is opened only if you name it: "
                            "--allow-external FILE",
                            d->file);
    v->flat = options->external;
    v->flat_offset = d->offset * VMDK_SECTOR;
    v->disk.size_bytes = d->sectors * VMDK_SECTOR;
    if (v->flat_offset > v->flat->size_bytes ||
        v->disk.size_bytes > v->flat->size_bytes - v->flat_offset)
        return ferry_refuse(err, -EBADMSG, v->flat->about, "is shorter than '%s' says",
                            source->about);
    return 0;
}

/* The extent is content, whatever marks a guest wrote to its start. */
static int vmdk_external_format(struct source *source, char name[DISK_NAME_BYTES],
                                struct ferry_error *err)
{
    (void)source;
    (void)err;
    snprintf(name, DISK_NAME_BYTES, "raw");
    return 0;
}

static int vmdk_open(struct source *source, const struct disk_open_options *options,
                     struct disk **out, struct ferry_error *err)
{
    CLEANUP(cleanup_vmdk) struct vmdk *v = calloc(1, sizeof(*v));
    uint8_t sector[VMDK_SECTOR];
    size_t head = source->size_bytes < VMDK_SECTOR ? source->size_bytes : VMDK_SECTOR;

    if (!v)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    v->disk = (struct disk){.format = &disk_format_vmdk, .opaque = v};
    v->source = source;
    memset(sector, 0, sizeof(sector));
    int error = source->pread(source, 0, sector, head, err);
    bool flat = vmdk_is_descriptor(sector, head);
    if (!error && !flat && options && options->external)
        return ferry_usage(err, source->about, "keeps its content in no other file");
    if (!error)
        error = flat ? open_flat(v, options, err) : open_sparse(v, sector, err);
    if (error)
        return error;
    *out = &take_ptr(&v)->disk;
    return 0;
}

/* ---- Reading ---- */

/* Neither tables nor grains lie on header and descriptor. */
static int check_sector(const struct vmdk *v, uint32_t sector, struct ferry_error *err)
{
    const struct vmdk_header *h = &v->header;

    if (sector && (sector < h->descriptor || sector - h->descriptor >= h->descriptor_sectors))
        return 0;
    return ferry_refuse(err, -EBADMSG, v->source->about,
                        "is damaged: sector %u is said to be a table or a grain", sector);
}

static bool is_hole(const struct vmdk *v, uint32_t gte)
{
    return !gte || (gte == VMDK_GTE_ZERO && v->header.flags & VMDK_FLAG_ZEROED);
}

static int flat_extent(const struct vmdk *v, uint64_t offset, struct disk_extent *extent)
{
    uint64_t start = v->flat_offset + offset, end, all = v->disk.size_bytes - offset;

    *extent = (struct disk_extent){.size_bytes = all, .kind = DISK_DATA};
    if (!v->flat->next_data)
        return 0;
    int more = v->flat->next_data(v->flat, &start, &end);
    uint64_t here = v->flat_offset + offset;
    if (more && start == here) {
        extent->size_bytes = end - here < all ? end - here : all;
    } else {
        extent->kind = DISK_ZERO;
        if (more && start - here < all)
            extent->size_bytes = start - here;
    }
    return 0;
}

/*
 * How many grains from `first` of the table on are of the same kind, which is set at the first
 * call (*kind < 0).  0: already the first is not.
 */
static uint32_t same_grains(const struct vmdk *v, const uint8_t table[VMDK_GT_BYTES],
                            uint32_t first, int *kind)
{
    uint32_t i = first;

    if (first == 0 && *kind == DISK_ZERO && is_zero(table, VMDK_GT_BYTES))
        return VMDK_GTES;
    for (struct reader r = reader_init(table + (size_t)4 * first, (size_t)4 * (VMDK_GTES - first));
         i < VMDK_GTES; i++) {
        int now = is_hole(v, reader_u32(&r)) ? DISK_ZERO : DISK_DATA;
        if (*kind < 0)
            *kind = now;
        if (*kind != now)
            break;
    }
    return i - first;
}

static int vmdk_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                       struct ferry_error *err)
{
    const struct vmdk *v = disk->opaque;
    uint8_t table[VMDK_GT_BYTES];
    int kind = -1;

    if (v->flat)
        return flat_extent(v, offset, extent);
    uint64_t first = offset / v->grain_bytes, grain = first;
    for (bool more = true; more && grain * v->grain_bytes < disk->size_bytes;) {
        uint32_t within = grain % VMDK_GTES, sector = v->gd[grain / VMDK_GTES];
        memset(table, 0, sizeof(table));
        int error = sector ? check_sector(v, sector, err) : 0;
        if (!error && sector)
            error = pages_read(v->pages, (uint64_t)sector * VMDK_SECTOR, table, sizeof(table), err);
        if (error)
            return error;
        uint32_t same = same_grains(v, table, within, &kind);
        grain += same;
        more = same == VMDK_GTES - within && kind == DISK_ZERO;
    }
    uint64_t end = grain * v->grain_bytes;
    extent->size_bytes = (end < disk->size_bytes ? end : disk->size_bytes) - offset;
    extent->kind = (enum disk_extent_kind)kind;
    extent->ratio = kind != DISK_DATA                        ? 0
                    : v->header.flags & VMDK_FLAG_COMPRESSED ? CODEC_RATIO_DEFLATE
                                                             : 1;
    return 0;
}

/* Room for one grain as stored, and one inflated; made once a read, if at all. */
struct grain_room {
    uint8_t *stored, *content;
};

static void free_room(struct grain_room *room)
{
    free(room->stored);
    free(room->content);
}

static int damaged_grain(const struct vmdk *v, uint64_t grain, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, v->source->about,
                        "is damaged: the grain at byte %llu of the disk cannot be inflated",
                        (unsigned long long)(grain * v->grain_bytes));
}

/* A grain into out, of grain_bytes; the last one of a disk may be stored short. */
static int inflate_grain(const struct vmdk *v, uint64_t grain, uint32_t gte,
                         struct grain_room *room, uint8_t *out, struct ferry_error *err)
{
    uint8_t marker[VMDK_GRAIN_MARKER_BYTES];
    uint64_t offset = (uint64_t)gte * VMDK_SECTOR, most = 2 * v->grain_bytes;

    int error = v->source->pread(v->source, offset, marker, sizeof(marker), err);
    if (error)
        return error;
    struct reader r = reader_init(marker, sizeof(marker));
    uint64_t lba = reader_u64(&r);
    uint32_t size = reader_u32(&r);
    if (lba != grain * v->header.grain || !size || size > most)
        return damaged_grain(v, grain, err);
    if (!room->stored && !(room->stored = malloc(most)))
        return ferry_fail(err, -ENOMEM, v->source->about, "out of memory");
    error = v->source->pread(v->source, offset + sizeof(marker), room->stored, size, err);
    if (error)
        return error;
    error = vmdk_inflate(v->codec, room->stored, size, out, v->grain_bytes,
                         v->disk.size_bytes - grain * v->grain_bytes);
    return error == -EBADMSG ? damaged_grain(v, grain, err)
           : error           ? ferry_fail(err, error, v->source->about, "out of memory")
                             : 0;
}

/* size bytes at `within` of a grain. */
static int read_grain(const struct vmdk *v, uint64_t grain, uint64_t within, size_t size,
                      struct grain_room *room, uint8_t *out, struct ferry_error *err)
{
    uint32_t table = v->gd[grain / VMDK_GTES], gte = 0;
    uint8_t entry[4];

    if (table) {
        int error = check_sector(v, table, err);
        if (error)
            return error;
        error = pages_read(v->pages, (uint64_t)table * VMDK_SECTOR + grain % VMDK_GTES * 4, entry,
                           sizeof(entry), err);
        if (error)
            return error;
        struct reader r = reader_init(entry, sizeof(entry));
        gte = reader_u32(&r);
    }
    if (is_hole(v, gte)) {
        memset(out, 0, size);
        return 0;
    }
    int error = check_sector(v, gte, err);
    if (error)
        return error;
    if (!(v->header.flags & VMDK_FLAG_COMPRESSED))
        return v->source->pread(v->source, (uint64_t)gte * VMDK_SECTOR + within, out, size, err);
    if (size == v->grain_bytes)
        return inflate_grain(v, grain, gte, room, out, err);
    if (!room->content && !(room->content = malloc(v->grain_bytes)))
        return ferry_fail(err, -ENOMEM, v->source->about, "out of memory");
    error = inflate_grain(v, grain, gte, room, room->content, err);
    if (!error)
        memcpy(out, room->content + within, size);
    return error;
}

static int vmdk_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                     struct ferry_error *err)
{
    const struct vmdk *v = disk->opaque;
    CLEANUP(free_room) struct grain_room room = {0};
    uint8_t *out = data;
    int error = 0;

    if (v->flat)
        return v->flat->pread(v->flat, v->flat_offset + offset, data, size, err);
    while (!error && size) {
        uint64_t within = offset % v->grain_bytes;
        size_t part = size < v->grain_bytes - within ? size : v->grain_bytes - within;
        error = read_grain(v, offset / v->grain_bytes, within, part, &room, out, err);
        out += part;
        offset += part;
        size -= part;
    }
    return error;
}

static void *vmdk_describe(const struct disk *disk)
{
    const struct vmdk *v = disk->opaque;
    json_t *object = json_pack("{s:s}", "create_type", v->descriptor.create_type);

    if (v->flat)
        json_object_set_new(object, "external", json_string(v->descriptor.file));
    else
        json_object_set_new(object, "grain_bytes", json_integer((json_int_t)v->grain_bytes));
    return object;
}

const struct disk_format disk_format_vmdk = {
    .name = "vmdk",
    .extension = ".vmdk",
    .limits = "disks to 2 TiB; streamOptimized (written by default), monolithicSparse, and "
              "monolithicFlat (read); no deltas",
    .streams = true,
    .probe = vmdk_probe,
    .external_format = vmdk_external_format,
    .open = vmdk_open,
    .open_stream = vmdk_open_stream,
    .extent = vmdk_extent,
    .read = vmdk_read,
    .describe = vmdk_describe,
    .close = vmdk_close,
    .create = vmdk_create,
    .encode = vmdk_encode,
    .put = vmdk_put,
    .finish = vmdk_finish,
    .destroy = vmdk_destroy,
};

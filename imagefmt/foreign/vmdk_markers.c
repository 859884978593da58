/*
 * VMDK, streamOptimized in order: its header and its markers, of which each brings a grain or a
 * table.  The grains are what is read; the tables only have to agree with them, so that a reader at
 * random, who goes by the tables, finds the same disk: both sides are added up as sums over (entry
 * of a table, sector), so nothing grows with the disk.  Tables lie between and behind the grains,
 * or before them all, as QEMU writes them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/zero.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/vmdk_stream.h"

#define METADATA_MAX_SECTORS (8 * KIB)  /* the largest directory */
#define OVERHEAD_MAX         UINT32_MAX /* sectors: entries of tables have 32 bits */

static int damaged(const struct vmdk_stream *v, const char *what, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, v->in.stream->about, "is damaged: %s", what);
}

static int cut_short(const struct vmdk_stream *v, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, v->in.stream->about,
                        "is cut short: its grains and tables end early");
}

static int not_in_order(const struct vmdk_stream *v, const char *what, struct ferry_error *err)
{
    return ferry_refuse(err, -ENOTSUP, v->in.stream->about,
                        "cannot be read in order (%s); it needs a file: it is read at random",
                        what);
}

/* ---- Tables ---- */

static bool tables_first(const struct vmdk_stream *v)
{
    return v->header.gd != VMDK_GD_AT_END;
}

/* One entry of a table, or one grain, for a sum in any order. */
static uint64_t place_sum(uint64_t entry, uint64_t sector)
{
    const uint64_t place[2] = {entry, sector};

    return xxh3(place, sizeof(place));
}

static int read_bytes(struct vmdk_stream *v, void *data, size_t size, struct ferry_error *err)
{
    return stream_read_at(&v->in, v->in.position, data, size, err);
}

static int read_table(struct vmdk_stream *v, struct ferry_error *err)
{
    uint8_t table[VMDK_GT_BYTES];
    uint64_t sector = v->in.position / VMDK_SECTOR;
    int error = read_bytes(v, table, sizeof(table), err);
    struct reader r = reader_init(table, sizeof(table));

    for (uint64_t i = 0; !error && i < VMDK_GTES; i++) {
        uint32_t entry = reader_u32(&r);
        bool hole = !entry || (entry == VMDK_GTE_ZERO && v->header.flags & VMDK_FLAG_ZEROED);
        v->entries_sum += hole ? 0 : place_sum(i, entry);
    }
    v->tables_sum += place_sum(0, sector);
    return error;
}

/* Freed by the caller. */
static int read_directory(struct vmdk_stream *v, uint8_t **out, struct ferry_error *err)
{
    size_t bytes = v->gd_entries * 4; /* at most 4 MiB */
    CLEANUP_FREE uint8_t *entries = malloc(bytes);

    if (!entries)
        return ferry_fail(err, -ENOMEM, v->in.stream->about, "out of memory");
    v->directory = v->in.position / VMDK_SECTOR;
    int error = read_bytes(v, entries, bytes, err);
    struct reader r = reader_init(entries, bytes);
    for (uint64_t i = 0; !error && i < v->gd_entries; i++) {
        uint32_t entry = reader_u32(&r);
        v->directory_sum += entry ? place_sum(0, entry) : 0;
    }
    *out = error ? NULL : take_ptr(&entries);
    return error;
}

/* Do they name just what there is? */
static int check_tables(const struct vmdk_stream *v, struct ferry_error *err)
{
    if (v->directory_sum != v->tables_sum)
        return damaged(v, "its directory does not name the tables that are in it", err);
    if (v->entries_sum != v->grains_sum)
        return damaged(v,
                       tables_first(v)
                           ? "its tables do not name the grains that are in it, or it is "
                             "cut short"
                           : "its tables do not name the grains that are in it",
                       err);
    return 0;
}

/* ---- Markers ---- */

/* To the next sector. */
static int skip_padding(struct vmdk_stream *v, struct ferry_error *err)
{
    uint8_t nobody[VMDK_SECTOR];
    size_t size = (size_t)(-v->in.position % VMDK_SECTOR), got = 0;
    int error = size ? v->in.stream->read(v->in.stream, nobody, size, &got, err) : 0;

    v->in.position += size;
    if (error || got == size || tables_first(v)) /* the last grain of such a file may end bare */
        return error;
    return cut_short(v, err);
}

static int take_grain(struct vmdk_stream *v, uint64_t sector, uint64_t lba, uint32_t size,
                      struct ferry_error *err)
{
    const struct vmdk_header *h = &v->header;
    struct vmdk_grain *grain = &v->grains[vmdk_in_ring(v, v->busy)];

    if (v->directory && !tables_first(v))
        return damaged(v, "a grain follows its directory", err);
    if (lba % h->grain || lba >= h->capacity || size > VMDK_STORED_GRAINS * v->grain_bytes)
        return damaged(v, "a marker of a grain makes no sense", err);
    if (lba < v->next_lba)
        return not_in_order(v, "its grains are not ascending", err);
    v->next_lba = lba + h->grain;
    v->grains_sum += place_sum(lba / h->grain % VMDK_GTES, sector);
    int error = read_bytes(v, grain->stored, size, err);
    if (!error)
        error = skip_padding(v, err);
    if (error)
        return error;
    grain->offset = lba * VMDK_SECTOR;
    grain->stored_bytes = size;
    v->busy++;
    pool_submit(v->pool, &grain->task);
    return 0;
}

static int take_footer(struct vmdk_stream *v, struct ferry_error *err)
{
    struct vmdk_header footer;
    uint8_t sector[VMDK_SECTOR];

    int error = read_bytes(v, sector, sizeof(sector), err);
    if (!error)
        error = vmdk_parse_header(sector, v->in.stream->about, &footer, err);
    if (error)
        return error;
    if (footer.capacity != v->header.capacity || footer.grain != v->header.grain)
        return damaged(v, "header and footer differ", err);
    if (!v->directory || footer.gd != v->directory)
        return damaged(v, "its footer does not name its directory", err);
    v->footer = true;
    return 0;
}

/* QEMU leaves room for a whole grain at the place of the last one. */
static int skip_zeroes(struct vmdk_stream *v, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *bytes = malloc(v->grain_bytes);
    size_t got = 0;

    if (!bytes)
        return ferry_fail(err, -ENOMEM, v->in.stream->about, "out of memory");
    int error = v->in.stream->read(v->in.stream, bytes, v->grain_bytes, &got, err);
    if (!error && !is_zero(bytes, got))
        return damaged(v, "something follows its end", err);
    return error;
}

static int take_end(struct vmdk_stream *v, struct ferry_error *err)
{
    v->ended = true;
    if (!tables_first(v) && !v->footer)
        return damaged(v, "it ends without a footer", err);
    int error = check_tables(v, err);
    if (!error && tables_first(v))
        error = skip_zeroes(v, err);
    return error ? error : stream_expect_end(v->in.stream, err);
}

static int take_metadata(struct vmdk_stream *v, uint64_t sectors, uint32_t kind,
                         struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *entries = NULL;

    if (kind == VMDK_MARKER_END)
        return take_end(v, err);
    if (sectors > METADATA_MAX_SECTORS)
        return damaged(v, "a marker of metadata makes no sense", err);
    uint64_t end = v->in.position + sectors * VMDK_SECTOR, size = 0;
    if (!tables_first(v))
        size = kind == VMDK_MARKER_GT       ? VMDK_GT_BYTES
               : kind == VMDK_MARKER_GD     ? v->gd_entries * 4
               : kind == VMDK_MARKER_FOOTER ? VMDK_SECTOR
                                            : 0;
    if (size && (sectors != (size + VMDK_SECTOR - 1) / VMDK_SECTOR || v->footer ||
                 (v->directory && kind != VMDK_MARKER_FOOTER)))
        return damaged(v, "a table is of another size than it must have, or in another place", err);
    int error = !size                    ? 0
                : kind == VMDK_MARKER_GT ? read_table(v, err)
                : kind == VMDK_MARKER_GD ? read_directory(v, &entries, err)
                                         : take_footer(v, err);
    return error ? error : stream_seek(&v->in, end, err);
}

int vmdk_next_marker(struct vmdk_stream *v, struct ferry_error *err)
{
    uint8_t marker[VMDK_SECTOR];
    uint64_t sector = v->in.position / VMDK_SECTOR;
    size_t got;

    int error = v->in.stream->read(v->in.stream, marker, VMDK_GRAIN_MARKER_BYTES, &got, err);
    if (error)
        return error;
    v->in.position += got;
    if (!got && tables_first(v))
        return take_end(v, err);
    if (got < VMDK_GRAIN_MARKER_BYTES)
        return cut_short(v, err);
    struct reader r = reader_init(marker, sizeof(marker));
    uint64_t value = reader_u64(&r);
    uint32_t size = reader_u32(&r);
    if (size)
        return take_grain(v, sector, value, size, err);
    error = read_bytes(v, marker + got, sizeof(marker) - got, err);
    return error ? error : take_metadata(v, value, reader_u32(&r), err);
}

/* ---- Before the first marker ---- */

static int seek_sector(struct vmdk_stream *v, uint64_t sector, struct ferry_error *err)
{
    if (sector > OVERHEAD_MAX)
        return damaged(v, "its header names places that no such file has", err);
    if (sector * VMDK_SECTOR < v->in.position)
        return not_in_order(v, "its tables are not ascending", err);
    return stream_seek(&v->in, sector * VMDK_SECTOR, err);
}

static int take_descriptor(struct vmdk_stream *v, struct ferry_error *err)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    uint64_t sectors = v->header.descriptor_sectors, most = VMDK_DESCRIPTOR_MAX_BYTES / VMDK_SECTOR;
    size_t size = (size_t)(sectors < most ? sectors : most) * VMDK_SECTOR;
    CLEANUP_FREE uint8_t *text = malloc(size + 1);

    if (!text)
        return ferry_fail(err, -ENOMEM, v->in.stream->about, "out of memory");
    int error = size ? seek_sector(v, v->header.descriptor, err) : 0;
    if (!error)
        error = read_bytes(v, text, size, err);
    if (!error)
        error = source_of_memory(text, size, v->in.stream->about, &source, err);
    if (!error)
        error = vmdk_read_descriptor(source, 0, size, &v->descriptor, err);
    if (!error)
        error = vmdk_check_descriptor(&v->descriptor, v->in.stream->about, err);
    if (error)
        return error;
    if (v->descriptor.sectors > v->header.capacity)
        return damaged(v, "header and descriptor disagree about the disk's size", err);
    v->disk.size_bytes = v->descriptor.sectors * VMDK_SECTOR;
    return 0;
}

static int take_first_tables(struct vmdk_stream *v, struct ferry_error *err)
{
    CLEANUP_FREE uint8_t *entries = NULL;

    int error = seek_sector(v, v->header.gd, err);
    if (!error)
        error = read_directory(v, &entries, err);
    struct reader r = reader_init(entries, error ? 0 : v->gd_entries * 4);
    for (uint64_t i = 0; !error && i < v->gd_entries; i++) {
        uint32_t sector = reader_u32(&r);
        error = sector ? seek_sector(v, sector, err) : 0;
        if (!error && sector)
            error = read_table(v, err);
    }
    return error;
}

int vmdk_take_head(struct vmdk_stream *v, struct ferry_error *err)
{
    const uint64_t covers = VMDK_GTES;
    struct vmdk_header *h = &v->header;
    uint8_t sector[VMDK_SECTOR];

    int error = read_bytes(v, sector, sizeof(sector), err);
    if (error)
        return error;
    if (vmdk_is_descriptor(sector, sizeof(sector)))
        return not_in_order(v, "its content is in another file", err);
    error = vmdk_parse_header(sector, v->in.stream->about, h, err);
    if (error)
        return error;
    if (!(h->flags & VMDK_FLAG_COMPRESSED))
        return not_in_order(v, "it is not streamOptimized", err);
    v->grain_bytes = h->grain * VMDK_SECTOR;
    v->gd_entries = (h->capacity + h->grain * covers - 1) / (h->grain * covers);
    error = take_descriptor(v, err);
    if (!error && tables_first(v))
        error = take_first_tables(v, err);
    return error ? error : seek_sector(v, h->overhead, err);
}

/*
 * VHDX: a source with what its log writes laid over it.
 *
 * Runs may cover one another, as often as a hostile log likes.  So they are cut into pieces that do
 * not: the bounds of all runs are sorted, which gives the least stretches, and each is given to the
 * last run that covers it.  Runs take theirs from the last to the first, and skip what is taken in
 * one step (a forest of "the next free one from here on"), so all that costs hardly more than
 * sorting; and a read looks only at pieces that it touches.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/vhdx.h"

struct piece {
    uint64_t start, end;
    const struct vhdx_run *run;
};

struct overlay {
    struct source source;
    struct source *below;
    struct vhdx_replayed all;
    struct piece *pieces; /* ascending */
    size_t count;
};

void vhdx_replayed_free(struct vhdx_replayed *all)
{
    free(all->bytes);
    free(all->runs);
    *all = (struct vhdx_replayed){0};
}

/* ---- Cutting ---- */

static int compare_bounds(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a, two = *(const uint64_t *)b;

    return one < two ? -1 : one > two;
}

/* Start and end of each run, ascending, each once; returns how many. */
static size_t collect_bounds(const struct vhdx_replayed *all, uint64_t *bounds)
{
    size_t count = 0;

    for (size_t i = 0; i < all->count; i++) {
        bounds[2 * i] = all->runs[i].offset;
        bounds[2 * i + 1] = all->runs[i].offset + all->runs[i].size;
    }
    qsort(bounds, 2 * all->count, sizeof(*bounds), compare_bounds);
    for (size_t i = 0; i < 2 * all->count; i++)
        if (!count || bounds[i] != bounds[count - 1])
            bounds[count++] = bounds[i];
    return count;
}

static size_t find_bound(const uint64_t *bounds, size_t count, uint64_t bound)
{
    const uint64_t *found = bsearch(&bound, bounds, count, sizeof(*bounds), compare_bounds);

    return (size_t)(found - bounds);
}

/* The first stretch from i on that is free. */
static size_t next_free(uint32_t *next, size_t i)
{
    while (next[i] != i)
        i = next[i] = next[next[i]];
    return i;
}

static void own_stretches(struct overlay *o, const uint64_t *bounds, size_t count, uint32_t *next)
{
    for (size_t i = 0; i < count; i++)
        next[i] = (uint32_t)i;
    for (size_t r = o->all.count; r-- > 0;) {
        const struct vhdx_run *run = &o->all.runs[r];
        size_t end = find_bound(bounds, count, run->offset + run->size);
        for (size_t i = next_free(next, find_bound(bounds, count, run->offset)); i < end;
             i = next_free(next, i)) {
            o->pieces[i] = (struct piece){bounds[i], bounds[i + 1], run};
            next[i] = (uint32_t)i + 1;
        }
    }
}

/* Without those that no run covers. */
static size_t pack_pieces(struct piece *pieces, size_t count)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++)
        if (pieces[i].run)
            pieces[kept++] = pieces[i];
    return kept;
}

static int cut(struct overlay *o, struct ferry_error *err)
{
    size_t most = 2 * o->all.count + 1;
    CLEANUP_FREE uint64_t *bounds = calloc(most, sizeof(*bounds));
    CLEANUP_FREE uint32_t *next = calloc(most, sizeof(*next));

    o->pieces = calloc(most, sizeof(*o->pieces));
    if (!bounds || !next || !o->pieces)
        return ferry_fail(err, -ENOMEM, o->source.about, "out of memory");
    size_t count = collect_bounds(&o->all, bounds);
    own_stretches(o, bounds, count, next);
    o->count = pack_pieces(o->pieces, count);
    return 0;
}

/* ---- The source ---- */

/* Bytes from to end, all of one piece. */
static void copy_piece(const struct vhdx_run *run, uint64_t from, uint64_t end, uint8_t *out)
{
    uint8_t sector[VHDX_LOG_SECTOR];

    if (!run->data) {
        memset(out, 0, end - from);
        return;
    }
    memcpy(sector, run->lead, 8);
    memcpy(sector + 8, run->data, VHDX_LOG_SECTOR - 12);
    memcpy(sector + VHDX_LOG_SECTOR - 4, run->trail, 4);
    memcpy(out, sector + (from - run->offset), end - from);
}

/* The first piece that ends behind offset. */
static size_t find_piece(const struct overlay *o, uint64_t offset)
{
    size_t low = 0, high = o->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (o->pieces[middle].end > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int pread_overlay(struct source *source, uint64_t offset, void *data, size_t size,
                         struct ferry_error *err)
{
    const struct overlay *o = (const struct overlay *)source;
    uint64_t below = o->below->size_bytes;

    if (offset > source->size_bytes || size > source->size_bytes - offset)
        return ferry_refuse(err, -EBADMSG, source->about, "is cut short");
    size_t part = offset >= below ? 0 : size < below - offset ? size : below - offset;
    int error = part ? o->below->pread(o->below, offset, data, part, err) : 0;
    memset((uint8_t *)data + part, 0, size - part);
    for (size_t i = find_piece(o, offset); i < o->count && o->pieces[i].start < offset + size;
         i++) {
        const struct piece *piece = &o->pieces[i];
        uint64_t from = piece->start > offset ? piece->start : offset;
        uint64_t end = piece->end < offset + size ? piece->end : offset + size;
        copy_piece(piece->run, from, end, (uint8_t *)data + (from - offset));
    }
    return error;
}

static void close_overlay(struct source *source)
{
    struct overlay *o = (struct overlay *)source;

    vhdx_replayed_free(&o->all);
    free(o->pieces);
    free(o);
}

static void cleanup_overlay(struct overlay **o)
{
    if (*o)
        close_overlay(&(*o)->source);
}

int vhdx_overlay(struct source *below, struct vhdx_replayed *all, struct source **out,
                 struct ferry_error *err)
{
    CLEANUP(cleanup_overlay) struct overlay *o = calloc(1, sizeof(*o));

    if (!o)
        return ferry_fail(err, -ENOMEM, below->about, "out of memory");
    o->below = below;
    o->source = (struct source){.pread = pread_overlay,
                                .close = close_overlay,
                                .size_bytes = all->size_bytes,
                                .about = below->about};
    o->all = *all;
    *all = (struct vhdx_replayed){0};
    int error = cut(o, err);
    if (error)
        return error;
    *out = &take_ptr(&o)->source;
    return 0;
}

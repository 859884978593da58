/*
 * The pipeline.  The disk is walked in pieces of 1 MiB (or a unit, if that is larger); only units
 * that an extent of data touches are looked at.  Pieces go through a ring: a worker reads one,
 * finds its zero units, encodes and hashes the others; the calling thread takes the oldest piece
 * from the ring and puts its units, so their order, and with it the first error, is that of the
 * disk.  A pass for a writer's plan is the same walk with another last step.
 *
 * A disk in order is read by the calling thread while it walks, and there is one pass only.
 */
#include "imagefmt/foreign/copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/pool.h"
#include "common/zero.h"
#include "imagefmt/content.h"

#define PIECE_BYTES      (1 * MIB)
#define SLOTS_PER_WORKER 3

struct unit_state {
    bool touched;          /* by an extent of data */
    bool wanted;           /* goes to the writer */
    bool raw;              /* encode's answer */
    uint32_t stored_bytes; /* the same */
};

struct piece {
    struct pool_task task;
    struct copy *copy;
    uint64_t offset;
    uint32_t size;
    uint8_t *content;
    uint8_t *stored; /* stored_room a unit; NULL: the writer does not encode */
    struct unit_state *units;
    uint8_t node[SHA256_BYTES];
    int error;
    struct ferry_error err;
};

struct copy {
    struct disk *disk;
    struct disk_writer *writer; /* NULL: digest only */
    const struct disk_copy_options *options;
    uint64_t size, at; /* at: the next byte to walk over */
    uint64_t stored;   /* bytes of the file that the walk so far needs at least */
    uint32_t unit_bytes, piece_bytes;
    /* What becomes of a unit. */
    int (*step)(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err);
    bool encode, hash, keep_zero;
    struct pool *pool;
    struct piece *pieces;
    unsigned count, oldest, busy;
    uint64_t content_bytes;
    struct content_tree tree;
};

/* ---- Walking ---- */

static uint32_t units_of(const struct copy *c, uint32_t bytes)
{
    return (bytes + c->unit_bytes - 1) / c->unit_bytes;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void start_piece(const struct copy *c, struct piece *piece)
{
    piece->offset = c->at / c->piece_bytes * c->piece_bytes;
    piece->size = (uint32_t)least(c->size - piece->offset, c->piece_bytes);
    memset(piece->units, 0, units_of(c, piece->size) * sizeof(*piece->units));
}

static void mark_touched(const struct copy *c, struct piece *piece, uint64_t from, uint64_t end)
{
    for (uint64_t at = from; at < end; at = (at / c->unit_bytes + 1) * c->unit_bytes)
        piece->units[at / c->unit_bytes].touched = true;
}

/*
 * The next piece that data touches, at or behind c->at, with its units marked: 1, or 0 at the end
 * of the disk.
 */
static int next_piece(struct copy *c, struct piece *piece, struct ferry_error *err)
{
    const struct disk_format *format = c->disk->format;
    bool found = false;

    while (c->at < c->disk->size_bytes) {
        struct disk_extent extent = {0};
        if (found && c->at >= piece->offset + piece->size)
            return 1;
        int error = format->extent(c->disk, c->at, &extent, err);
        if (error)
            return error;
        uint64_t end = c->at + least(extent.size_bytes, c->disk->size_bytes - c->at);
        if (extent.kind == DISK_ZERO) {
            c->at = end;
            continue;
        }
        if (!found)
            start_piece(c, piece);
        found = true;
        end = least(end, piece->offset + piece->size);
        mark_touched(c, piece, c->at - piece->offset, end - piece->offset);
        c->stored += extent.ratio ? (end - c->at) / extent.ratio : 0;
        c->at = end;
        if (c->stored > c->disk->stored_bytes)
            return ferry_refuse(
                err, -EBADMSG, NULL,
                "the disk is damaged: it has more content before byte %llu than its "
                "file can hold, so that places of it are shared",
                (unsigned long long)end);
    }
    return found;
}

/* ---- Walking in order ---- */

/* What lies at c->at, to the end of its extent or piece, into the piece or, if it is zero, past it.
 */
static int read_extent(struct copy *c, struct piece *piece, bool *found, struct ferry_error *err)
{
    struct disk_extent extent;

    int error = c->disk->format->extent(c->disk, c->at, &extent, err);
    if (error)
        return error;
    uint64_t end = c->at + least(extent.size_bytes, c->disk->size_bytes - c->at);
    if (extent.kind == DISK_DATA) {
        if (!*found) {
            start_piece(c, piece);
            memset(piece->content, 0, piece->size);
        }
        *found = true;
        uint64_t from = c->at - piece->offset;
        end = least(end, piece->offset + piece->size);
        mark_touched(c, piece, from, end - piece->offset);
        error = c->disk->format->read(c->disk, c->at, piece->content + from, end - c->at, err);
    }
    c->at = end;
    return error;
}

/* next_piece, with the content: nothing is asked for before what lies in front of it was read. */
static int next_piece_read(struct copy *c, struct piece *piece, struct ferry_error *err)
{
    bool found = false;
    int error = 0;

    while (!error && c->at < c->disk->size_bytes &&
           !(found && c->at >= piece->offset + piece->size))
        error = read_extent(c, piece, &found, err);
    return error ? error : found;
}

/* ---- On a worker ---- */

/* Fill piece with the content of units first to end - 1. */
static int read_units(struct piece *piece, uint32_t first, uint32_t end)
{
    const struct copy *c = piece->copy;
    uint64_t from = (uint64_t)first * c->unit_bytes;
    uint64_t size = least((uint64_t)end * c->unit_bytes, piece->size) - from;
    uint64_t there = c->disk->size_bytes - piece->offset; /* before the filling at the end */
    uint64_t part = there > from ? least(size, there - from) : 0;

    memset(piece->content + from + part, 0, size - part);
    return part ? c->disk->format->read(c->disk, piece->offset + from, piece->content + from, part,
                                        &piece->err)
                : 0;
}

static int read_piece(struct piece *piece)
{
    const struct copy *c = piece->copy;
    uint32_t count = units_of(c, piece->size);
    int error = 0;

    for (uint32_t i = 0, end; !error && i < count; i = end) {
        for (end = i + 1; end < count && piece->units[end].touched == piece->units[i].touched;)
            end++;
        if (piece->units[i].touched)
            error = read_units(piece, i, end);
        else
            memset(piece->content + (size_t)i * c->unit_bytes, 0,
                   least((uint64_t)end * c->unit_bytes, piece->size) - (uint64_t)i * c->unit_bytes);
    }
    return error;
}

static struct disk_unit unit_at(const struct piece *piece, uint32_t i)
{
    const struct copy *c = piece->copy;
    uint64_t from = (uint64_t)i * c->unit_bytes;
    uint32_t room = c->writer && piece->stored ? c->writer->stored_room : 0;

    return (struct disk_unit){
        .offset = piece->offset + from,
        .content = piece->content + from,
        .content_bytes = (uint32_t)least(c->unit_bytes, piece->size - from),
        .stored = room ? piece->stored + (size_t)i * room : NULL,
        .stored_room = room,
        .stored_bytes = piece->units[i].stored_bytes,
        .raw = piece->units[i].raw,
    };
}

static int code_unit(struct piece *piece, uint32_t i)
{
    const struct copy *c = piece->copy;
    struct unit_state *state = &piece->units[i];
    struct disk_unit unit = unit_at(piece, i);

    state->wanted = state->touched && (c->keep_zero || !is_zero(unit.content, unit.content_bytes));
    if (!state->wanted || !c->encode)
        return 0;
    int error = c->writer->format->encode(c->writer, &unit, &piece->err);
    state->stored_bytes = unit.stored_bytes;
    state->raw = unit.raw;
    return error;
}

static void work(struct pool_task *task)
{
    struct piece *piece = (struct piece *)task;
    const struct copy *c = piece->copy;

    piece->error = c->disk->in_order ? 0 : read_piece(piece);
    for (uint32_t i = 0; !piece->error && i < units_of(c, piece->size); i++)
        piece->error = code_unit(piece, i);
    if (!piece->error && c->hash)
        content_node(piece->content, piece->size, content_level(c->piece_bytes), piece->node);
}

/* ---- In order ---- */

static int step_units(struct copy *c, const struct piece *piece, struct ferry_error *err)
{
    uint32_t count = units_of(c, piece->size);
    uint32_t most =
        c->writer && !c->encode && c->writer->run_bytes ? c->writer->run_bytes / c->unit_bytes : 1;
    int error = 0;

    for (uint32_t i = 0, run; !error && i < count; i += run) {
        run = 1;
        if (!piece->units[i].wanted)
            continue;
        struct disk_unit unit = unit_at(piece, i);
        while (run < most && i + run < count && piece->units[i + run].wanted)
            unit.content_bytes += unit_at(piece, i + run++).content_bytes;
        c->content_bytes += unit.content_bytes;
        error = c->step ? c->step(c->writer, &unit, err) : 0;
        if (!error && c->options->watch)
            error = c->options->watch->put(c->options->watch->opaque, &unit, err);
    }
    return error;
}

static int tell_done(const struct copy *c, const struct piece *piece, struct ferry_error *err)
{
    const struct disk_copy_watch *watch = c->options->watch;

    return watch ? watch->done(watch->opaque, piece->offset, piece->offset + piece->size,
                               content_level(c->piece_bytes), c->hash ? piece->node : NULL, err)
                 : 0;
}

static int report(const struct copy *c, struct ferry_error *err)
{
    struct progress *progress = c->options->progress;

    if (!progress)
        return 0;
    if (atomic_load(&progress->cancelled))
        return ferry_fail(err, -ECANCELED, NULL, "cancelled");
    const struct progress_report now = {
        .phase = c->options->phase ? c->options->phase : "copy",
        .done_bytes = c->at,
        .total_bytes = c->size,
        .sent_bytes = c->content_bytes,
    };
    if (progress->report)
        progress->report(progress->opaque, &now);
    return 0;
}

/* The piece so many behind the oldest, at most a whole ring. */
static unsigned in_ring(const struct copy *c, unsigned behind)
{
    unsigned at = c->oldest + behind;

    return at < c->count ? at : at - c->count;
}

static int take_oldest(struct copy *c, struct ferry_error *err)
{
    struct piece *piece = &c->pieces[c->oldest];

    pool_wait(c->pool, &piece->task);
    c->oldest = in_ring(c, 1);
    c->busy--;
    if (piece->error) {
        if (err)
            *err = piece->err;
        return piece->error;
    }
    if (c->hash)
        content_add(&c->tree, piece->offset / c->piece_bytes, content_level(c->piece_bytes),
                    piece->node);
    int error = step_units(c, piece, err);
    if (!error)
        error = tell_done(c, piece, err);
    return error ? error : report(c, err);
}

static int run_pass(struct copy *c, struct ferry_error *err)
{
    int (*next)(struct copy *, struct piece *, struct ferry_error *) =
        c->disk->in_order ? next_piece_read : next_piece;
    int more = 1, error = 0;

    c->at = c->options->watch ? c->options->watch->start : 0;
    c->stored = 0;
    while (more > 0 && !error) {
        if (c->busy == c->count)
            error = take_oldest(c, err);
        struct piece *piece = &c->pieces[in_ring(c, c->busy)];
        if (!error && (more = next(c, piece, err)) > 0) {
            c->busy++;
            pool_submit(c->pool, &piece->task);
        }
    }
    while (!error && c->busy) /* also those before a place where the walk failed */
        error = take_oldest(c, err);
    return error ? error : more;
}

/* Which units there are, by extents alone. */
static int plan_places(struct copy *c, struct ferry_error *err)
{
    struct piece *piece = &c->pieces[0];
    int more, error = 0;

    c->at = c->stored = 0;
    while (!error && (more = next_piece(c, piece, err)) != 0) {
        if (more < 0)
            return more;
        for (uint32_t i = 0; !error && i < units_of(c, piece->size); i++) {
            const struct disk_unit unit = unit_at(piece, i);
            if (piece->units[i].touched)
                error = c->writer->format->plan(c->writer, &unit, err);
        }
    }
    return error;
}

static int plan(struct copy *c, struct ferry_error *err)
{
    if (c->disk->in_order)
        return ferry_usage(err, NULL,
                           "this disk is read in order, and whoever writes %s in order must know "
                           "beforehand what is in it: write to a plain file",
                           c->writer->format->name);
    if (c->writer->plan == DISK_PLAN_PLACES)
        return plan_places(c, err);
    c->step = c->writer->format->plan;
    int error = run_pass(c, err);
    c->content_bytes = 0;
    return error;
}

/* ---- Setting up ---- */

static int make_pieces(struct copy *c, struct ferry_error *err)
{
    size_t units = c->piece_bytes / c->unit_bytes;
    size_t stored = c->encode ? units * c->writer->stored_room : 0;
    size_t most = LIMIT_IN_FLIGHT_BYTES / (c->piece_bytes + stored);

    int error = pool_create(c->options->workers, &c->pool, err);
    if (error)
        return error;
    c->count = pool_workers(c->pool) * SLOTS_PER_WORKER;
    c->count = c->count > most ? (unsigned)most : c->count;
    if (!(c->pieces = calloc(c->count, sizeof(*c->pieces))))
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    for (unsigned i = 0; i < c->count; i++) {
        struct piece *piece = &c->pieces[i];
        piece->task.run = work;
        piece->copy = c;
        piece->content = malloc(c->piece_bytes);
        piece->stored = stored ? malloc(stored) : NULL;
        piece->units = calloc(units, sizeof(*piece->units));
        if (!piece->content || !piece->units || (stored && !piece->stored))
            return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    return 0;
}

static void close_copy(struct copy *c)
{
    pool_destroy(c->pool); /* waits for what is still at work */
    for (unsigned i = 0; c->pieces && i < c->count; i++) {
        free(c->pieces[i].content);
        free(c->pieces[i].stored);
        free(c->pieces[i].units);
    }
    free(c->pieces);
}

static int start(struct copy *c, struct ferry_error *err)
{
    c->unit_bytes = c->writer ? c->writer->unit_bytes : CONTENT_LEAF_BYTES;
    c->piece_bytes = c->unit_bytes > PIECE_BYTES ? c->unit_bytes : PIECE_BYTES;
    if (c->disk->block_bytes > c->piece_bytes && c->disk->block_bytes <= DISK_UNIT_MAX_BYTES)
        c->piece_bytes = c->disk->block_bytes;
    c->encode = c->writer && c->writer->format->encode && c->writer->stored_room;
    if (c->size > LIMIT_DISK_BYTES)
        return ferry_refuse(err, -EFBIG, NULL, "the disk is larger than a disk may be");
    return make_pieces(c, err);
}

/* The only pass, or the last one. */
static int run_last_pass(struct copy *c, struct ferry_error *err)
{
    int error = run_pass(c, err);

    return error || !c->disk->format->drain ? error : c->disk->format->drain(c->disk, err);
}

static void fill_result(const struct copy *c, struct disk_copy_result *result)
{
    *result = (struct disk_copy_result){.size_bytes = c->size, .content_bytes = c->content_bytes};
    if (c->hash)
        content_digest(&c->tree, c->size, result->digest);
}

int disk_copy(struct disk *disk, struct disk_writer *writer, uint64_t size_bytes,
              const struct disk_copy_options *options, struct disk_copy_result *result,
              struct ferry_error *err)
{
    CLEANUP(close_copy)
    struct copy c = {.disk = disk, .writer = writer, .options = options, .size = size_bytes};

    int error = start(&c, err);
    if (!error && writer->plan != DISK_PLAN_NONE)
        error = plan(&c, err);
    c.step = writer->format->put;
    c.hash = options->digest;
    c.keep_zero = writer->plan == DISK_PLAN_PLACES;
    if (options->watch && options->watch->tree)
        c.tree = *options->watch->tree;
    if (!error)
        error = run_last_pass(&c, err);
    if (!error)
        error = writer->format->finish(writer, err);
    if (!error)
        fill_result(&c, result);
    return error;
}

int disk_digest(struct disk *disk, uint64_t size_bytes, const struct disk_copy_options *options,
                struct disk_copy_result *result, struct ferry_error *err)
{
    CLEANUP(close_copy)
    struct copy c = {.disk = disk, .options = options, .size = size_bytes, .hash = true};

    int error = start(&c, err);
    if (!error)
        error = run_last_pass(&c, err);
    if (!error)
        fill_result(&c, result);
    return error;
}

/*
 * Writing qcow2, version 3.  One layout for files and pipes:
 *
 *     header | L1 | refcount table | refcount blocks, clusters and L2 tables, as they come
 *
 * Content comes in ascending order, so only one L2 table is ever open: when content moves on to the
 * next, it is complete and goes where the next cluster is free.  Host clusters, too, are taken in
 * ascending order, so a refcount block is complete, and written, when the last cluster that it
 * counts has been.  Memory is L1, refcount table and a few MiB, whatever the disk's size.
 *
 * L1 and refcount table are known only at the end.  Their sizes are not: L1 follows from the disk's
 * size, and the refcount table has room for the most clusters that there can be.  A file gets them
 * by pwrite at the end.  For a pipe there is no way back, and no place in a qcow2 for a pointer to
 * tables at its end: the header has it.  So the writer asks for a plan, runs the same layout over
 * it without writing, and then begins with the tables that this gave.  Uncompressed, extents are
 * plan enough; compressed, sizes are needed, and content is read and compressed twice.  qcow2 has
 * no cheaper way: what is compressed ends where nobody knows beforehand.
 *
 * Compressed clusters are packed byte by byte into host clusters, which they may cross; a host
 * cluster's refcount is the number of compressed ones that touch it.  A cluster that does not
 * shrink would end the packing, and waste the rest of a host cluster: some of them are held back,
 * and put together.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "imagefmt/foreign/qcow2.h"
#include "imagefmt/foreign/sink.h"

#define CLUSTER_BYTES (64 * KIB) /* the usual one */
/* That of zstd, which at its first level makes no more of clusters of this size than at its third
 * of those of 64 KiB, in half the time. */
#define ZSTD_CLUSTER_BYTES (256 * KIB)
#define ZSTD_FAST_LEVEL    1
#define HEADER_BYTES       112
#define REFCOUNT_ORDER     4 /* 16 bits */
#define REFCOUNT_MOST      UINT16_MAX
#define NO_TABLE           UINT64_MAX
#define HELD_BYTES         (8 * MIB)

/* A cluster that is held back. */
struct held {
    uint64_t cluster;
    uint32_t size;
};

struct qcow2_writer {
    struct disk_writer writer;
    struct sink *sink;
    struct codec *codec; /* NULL: not compressed */
    bool zstd;
    unsigned cluster_bits;
    uint32_t cluster_bytes;
    uint64_t size_bytes, l1_entries, l1_clusters, reftable_clusters;
    bool planning; /* lay out, write nothing */
    bool started;  /* the pass that writes has begun */
    /* The pass at hand. */
    uint64_t next;                   /* the first host cluster that is free */
    uint64_t counted;                /* host clusters whose refcount stands */
    uint64_t table;                  /* the index of the open L2 table, or NO_TABLE */
    uint32_t open_bytes, open_count; /* of the host cluster before `next` that compressed clusters
                                        fill, and how many touch it; 0: there is none */
    uint64_t open_first;             /* of those, the first */
    /* As in the file. */
    uint64_t *l1, *reftable, *l2;
    uint16_t *refcounts;
    uint8_t *open;
    uint64_t *planned_l1;
    struct held *held; /* NULL: not compressed */
    uint8_t *held_data;
    unsigned held_count, held_most;
};

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + !!(a % b);
}

static uint64_t per_table(const struct qcow2_writer *w)
{
    return w->cluster_bytes / sizeof(*w->l2);
}

static uint64_t per_refblock(const struct qcow2_writer *w)
{
    return w->cluster_bytes / sizeof(*w->refcounts);
}

/* ---- Bytes ---- */

/* At this offset, behind everything before; what is left out between is zero. */
static int emit(struct qcow2_writer *w, uint64_t offset, const void *data, size_t size,
                struct ferry_error *err)
{
    struct sink *sink = w->sink;

    if (w->planning)
        return 0;
    if (sink->pwrite)
        return sink->pwrite(sink, offset, data, size, err);
    int error = sink_zeroes(sink, offset - sink->position, err);
    return error ? error : sink->write(sink, data, size, err);
}

static int emit_header(struct qcow2_writer *w, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer b = writer_init(1 << QCOW2_CLUSTER_BITS_MIN);

    writer_u32be(&b, QCOW2_MAGIC);
    writer_u32be(&b, 3);
    writer_u64be(&b, 0); /* no backing file */
    writer_u32be(&b, 0);
    writer_u32be(&b, w->cluster_bits);
    writer_u64be(&b, w->size_bytes);
    writer_u32be(&b, 0); /* not encrypted */
    writer_u32be(&b, (uint32_t)w->l1_entries);
    writer_u64be(&b, w->cluster_bytes);
    writer_u64be(&b, (1 + w->l1_clusters) * w->cluster_bytes);
    writer_u32be(&b, (uint32_t)w->reftable_clusters);
    writer_u32be(&b, 0); /* no snapshots */
    writer_u64be(&b, 0);
    writer_u64be(&b, w->zstd ? QCOW2_COMPRESSION : 0);
    writer_u64be(&b, 0);
    writer_u64be(&b, 0);
    writer_u32be(&b, REFCOUNT_ORDER);
    writer_u32be(&b, HEADER_BYTES);
    writer_u8(&b, w->zstd);
    writer_grow(&b, HEADER_BYTES - QCOW2_V3_BYTES - 1);
    writer_u64be(&b, QCOW2_EXTENSION_END); /* and its length */
    if (b.error)
        return ferry_fail(err, b.error, w->sink->about, "out of memory");
    return emit(w, 0, b.data, b.size, err);
}

/* Header, L1 and refcount table, as they stand now. */
static int emit_head(struct qcow2_writer *w, struct ferry_error *err)
{
    int error = emit_header(w, err);

    if (!error)
        error = emit(w, w->cluster_bytes, w->l1, w->l1_entries * sizeof(*w->l1), err);
    if (!error)
        error = emit(w, (1 + w->l1_clusters) * w->cluster_bytes, w->reftable,
                     w->reftable_clusters * w->cluster_bytes, err);
    return error;
}

/* ---- Refcounts ---- */

static int emit_refblock(struct qcow2_writer *w, uint64_t block, uint64_t at,
                         struct ferry_error *err)
{
    w->reftable[block] = htobe64(at * w->cluster_bytes);
    int error = emit(w, at * w->cluster_bytes, w->refcounts, w->cluster_bytes, err);
    memset(w->refcounts, 0, w->cluster_bytes);
    return error;
}

/* The refcount of the next cluster that has none. */
static int count_cluster(struct qcow2_writer *w, uint32_t refcount, struct ferry_error *err)
{
    uint64_t per = per_refblock(w), block = w->counted / per;

    w->refcounts[w->counted % per] = htobe16((uint16_t)refcount);
    return ++w->counted % per ? 0 : emit_refblock(w, block, w->next++, err);
}

/* Everything taken so far is referred to once. */
static int count_all(struct qcow2_writer *w, struct ferry_error *err)
{
    int error = 0;

    while (!error && w->counted < w->next)
        error = count_cluster(w, 1, err);
    return error;
}

/* The last block, which counts itself as well. */
static int count_rest(struct qcow2_writer *w, struct ferry_error *err)
{
    uint64_t per = per_refblock(w), at = w->next;

    if (w->counted % per == 0)
        return 0;
    w->next++;
    w->refcounts[w->counted++ % per] = htobe16(1);
    return emit_refblock(w, at / per, at, err);
}

/* ---- Clusters ---- */

/* A whole cluster of the file, filled up with zeroes.  Returns where it is in *at. */
static int add_cluster(struct qcow2_writer *w, const void *data, size_t size, uint64_t *at,
                       struct ferry_error *err)
{
    *at = w->next++ * w->cluster_bytes;
    int error = emit(w, *at, data, size, err);
    return error ? error : count_all(w, err);
}

/* The host cluster that compressed ones fill is full, or gets no more. */
static int close_packed(struct qcow2_writer *w, struct ferry_error *err)
{
    uint32_t count = w->open_count;

    if (!w->open_bytes)
        return 0;
    int error = emit(w, w->counted * w->cluster_bytes, w->open, w->open_bytes, err);
    w->open_bytes = w->open_count = 0;
    if (!error)
        error = count_cluster(w, count, err);
    return error ? error : count_all(w, err);
}

/*
 * A compressed cluster is put behind the one before, crossing into the next host cluster if it
 * must: unless a refcount block belongs there, or the count is full.
 */
static int start_packing(struct qcow2_writer *w, uint32_t size, struct ferry_error *err)
{
    int error = 0;

    bool crosses = size > w->cluster_bytes - w->open_bytes;
    if (w->open_bytes &&
        (w->open_count == REFCOUNT_MOST || (crosses && (w->counted + 1) % per_refblock(w) == 0)))
        error = close_packed(w, err);
    if (!error && !w->open_bytes)
        w->next++;
    return error;
}

static int pack(struct qcow2_writer *w, const uint8_t *data, uint32_t size, uint64_t *entry,
                struct ferry_error *err)
{
    int error = start_packing(w, size, err);
    if (error)
        return error;
    uint64_t at = w->counted * w->cluster_bytes + w->open_bytes;
    uint32_t room = w->cluster_bytes - w->open_bytes, part = size < room ? size : room;
    *entry =
        QCOW2_COMPRESSED | at | ((at + size - 1) / 512 - at / 512) << (62 - (w->cluster_bits - 8));
    if (!w->planning)
        memcpy(w->open + w->open_bytes, data, part);
    w->open_bytes += part;
    w->open_count++;
    if (part == size && w->open_bytes < w->cluster_bytes)
        return 0;
    if (part < size) /* the continuation is the next cluster, whatever closing does */
        w->next++;
    uint32_t count = w->open_count;
    error = emit(w, w->counted * w->cluster_bytes, w->open, w->cluster_bytes, err);
    w->open_bytes = w->open_count = 0;
    if (!error)
        error = count_cluster(w, count, err);
    if (part == size)
        return error ? error : count_all(w, err);
    if (!error && !w->planning)
        memcpy(w->open, data + part, size - part);
    w->open_bytes = size - part;
    w->open_count = 1;
    return error;
}

/* ---- L2 tables ---- */

static int put_raw(struct qcow2_writer *w, uint64_t cluster, const void *data, uint32_t size,
                   struct ferry_error *err)
{
    uint64_t at;

    int error = add_cluster(w, data, size, &at, err);
    w->l2[cluster % per_table(w)] = htobe64(at | QCOW2_COPIED);
    return error;
}

/* End the packing, and put what was held back for its sake. */
static int release(struct qcow2_writer *w, struct ferry_error *err)
{
    int error = close_packed(w, err);

    for (unsigned i = 0; !error && i < w->held_count; i++)
        error = put_raw(w, w->held[i].cluster, w->held_data + (size_t)i * w->cluster_bytes,
                        w->held[i].size, err);
    w->held_count = 0;
    return error;
}

static int hold(struct qcow2_writer *w, const struct disk_unit *unit, struct ferry_error *err)
{
    w->held[w->held_count] = (struct held){unit->offset / w->cluster_bytes, unit->content_bytes};
    if (!w->planning)
        memcpy(w->held_data + (size_t)w->held_count * w->cluster_bytes, unit->content,
               unit->content_bytes);
    return ++w->held_count == w->held_most ? release(w, err) : 0;
}

static int close_table(struct qcow2_writer *w, struct ferry_error *err)
{
    uint64_t at;

    if (w->table == NO_TABLE)
        return 0;
    int error = release(w, err);
    if (!error)
        error = add_cluster(w, w->l2, w->cluster_bytes, &at, err);
    if (error)
        return error;
    w->l1[w->table] = htobe64(at | QCOW2_COPIED);
    w->table = NO_TABLE;
    memset(w->l2, 0, w->cluster_bytes);
    return 0;
}

/* One unit into the layout. */
static int lay_out(struct qcow2_writer *w, const struct disk_unit *unit, struct ferry_error *err)
{
    uint64_t cluster = unit->offset / w->cluster_bytes;
    uint64_t table = cluster / per_table(w), entry = 0;

    int error = table == w->table ? 0 : close_table(w, err);
    if (error)
        return error;
    w->table = table;
    if (w->open_bytes && unit->raw)
        return hold(w, unit, err);
    if (!w->codec || unit->raw)
        return put_raw(w, cluster, unit->content, unit->content_bytes, err);
    error = pack(w, unit->stored, unit->stored_bytes, &entry, err);
    w->l2[cluster % per_table(w)] = htobe64(entry);
    if (w->open_count == 1)
        w->open_first = cluster;
    return error;
}

uint64_t qcow2_unwritten(const struct disk_writer *writer)
{
    const struct qcow2_writer *w = writer->opaque;
    uint64_t first = w->open_bytes ? w->open_first : UINT64_MAX;

    if (w->held_count && w->held[0].cluster < first)
        first = w->held[0].cluster;
    return first == UINT64_MAX ? first : first * w->cluster_bytes;
}

/* ---- Passes ---- */

static int begin_pass(struct qcow2_writer *w, struct ferry_error *err)
{
    w->next = 1 + w->l1_clusters + w->reftable_clusters;
    w->counted = 0;
    w->table = NO_TABLE;
    w->open_bytes = w->open_count = 0;
    return count_all(w, err);
}

static int end_pass(struct qcow2_writer *w, struct ferry_error *err)
{
    int error = close_table(w, err);

    return error ? error : count_rest(w, err);
}

/* The plan is complete: what it gave is the head. */
static int start_writing(struct qcow2_writer *w, struct ferry_error *err)
{
    size_t l1_bytes = w->l1_entries * sizeof(*w->l1);

    w->started = true;
    if (w->writer.plan != DISK_PLAN_NONE) {
        int error = end_pass(w, err);
        w->planning = false;
        if (!error)
            error = emit_head(w, err);
        if (error)
            return error;
        if (!(w->planned_l1 = malloc(l1_bytes + 1)))
            return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
        memcpy(w->planned_l1, w->l1, l1_bytes);
    }
    return begin_pass(w, err);
}

int qcow2_plan(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    struct qcow2_writer *w = writer->opaque;

    return lay_out(w, unit, err);
}

int qcow2_put(struct disk_writer *writer, const struct disk_unit *unit, struct ferry_error *err)
{
    struct qcow2_writer *w = writer->opaque;

    int error = w->started ? 0 : start_writing(w, err);
    return error ? error : lay_out(w, unit, err);
}

int qcow2_finish(struct disk_writer *writer, struct ferry_error *err)
{
    struct qcow2_writer *w = writer->opaque;

    int error = w->started ? 0 : start_writing(w, err);
    if (!error)
        error = end_pass(w, err);
    if (error)
        return error;
    uint64_t end = w->next * w->cluster_bytes;
    if (w->sink->pwrite) {
        error = emit_head(w, err);
        return error ? error : w->sink->extend(w->sink, end, err);
    }
    if (memcmp(w->planned_l1, w->l1, w->l1_entries * sizeof(*w->l1)))
        return ferry_fail(err, -EIO, w->sink->about,
                          "the disk changed while it was read; what was written is of no use");
    return sink_zeroes(w->sink, end - w->sink->position, err);
}

int qcow2_encode(const struct disk_writer *writer, struct disk_unit *unit, struct ferry_error *err)
{
    const struct qcow2_writer *w = writer->opaque;
    CLEANUP_FREE uint8_t *whole = NULL;
    const uint8_t *content = unit->content;

    if (unit->content_bytes < w->cluster_bytes) { /* the last one: a cluster is always whole */
        if (!(whole = calloc(1, w->cluster_bytes)))
            return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
        content = memcpy(whole, unit->content, unit->content_bytes);
    }
    unit->stored_bytes = (uint32_t)codec_compress(w->codec, content, w->cluster_bytes, unit->stored,
                                                  w->cluster_bytes - 1);
    unit->raw = !unit->stored_bytes;
    return 0;
}

/* ---- Setting up ---- */

static int choose_codec(struct qcow2_writer *w, const struct disk_write_options *o,
                        struct ferry_error *err)
{
    const char *codec = o->codec ? o->codec : "none";
    bool fast = w->zstd && !o->level && w->cluster_bytes >= ZSTD_CLUSTER_BYTES;
    int level = fast ? ZSTD_FAST_LEVEL : o->level;

    if (w->zstd || !strcmp(codec, "zlib"))
        return codec_create(w->zstd ? CODEC_ZSTD : CODEC_DEFLATE, level, &w->codec, err);
    if (strcmp(codec, "none"))
        return ferry_usage(err, "--codec", "'%.40s' is not none, zlib or zstd", codec);
    if (o->level)
        return ferry_usage(err, "--level", "needs --codec zlib or zstd");
    return 0;
}

/* Sizes of the tables; the refcount table's depends on itself, as it is counted, too. */
static int measure(struct qcow2_writer *w, struct ferry_error *err)
{
    uint64_t clusters = divide_up(w->size_bytes, w->cluster_bytes);
    uint64_t entry = sizeof(uint64_t), blocks = 0;

    w->l1_entries = divide_up(clusters, per_table(w));
    w->l1_clusters = divide_up(w->l1_entries * entry, w->cluster_bytes);
    for (uint64_t before = UINT64_MAX; before != blocks;) {
        before = blocks;
        w->reftable_clusters = divide_up(blocks * entry, w->cluster_bytes);
        blocks =
            divide_up(1 + w->l1_clusters + w->reftable_clusters + blocks + w->l1_entries + clusters,
                      per_refblock(w));
    }
    if (w->l1_entries * entry > LIMIT_QCOW2_L1_BYTES ||
        w->reftable_clusters * w->cluster_bytes > LIMIT_QCOW2_REFTABLE_BYTES)
        return ferry_usage(err, "--cluster", "the disk is too large for clusters of %u bytes",
                           w->cluster_bytes);
    return 0;
}

static int make_tables(struct qcow2_writer *w, struct ferry_error *err)
{
    w->l1 = calloc(w->l1_entries + 1, sizeof(*w->l1));
    w->reftable = calloc(w->reftable_clusters + 1, w->cluster_bytes);
    w->l2 = calloc(1, w->cluster_bytes);
    w->refcounts = calloc(1, w->cluster_bytes);
    w->open = malloc(w->cluster_bytes);
    w->held_most = HELD_BYTES / w->cluster_bytes;
    if (w->codec) {
        w->held = calloc(w->held_most, sizeof(*w->held));
        w->held_data = malloc(HELD_BYTES);
    }
    if (!w->l1 || !w->reftable || !w->l2 || !w->refcounts || !w->open ||
        (w->codec && (!w->held || !w->held_data)))
        return ferry_fail(err, -ENOMEM, w->sink->about, "out of memory");
    return 0;
}

static int prepare(struct qcow2_writer *w, const struct disk_write_options *o,
                   struct ferry_error *err)
{
    w->zstd = o->codec && !strcmp(o->codec, "zstd");
    uint64_t cluster = o->unit_bytes ? o->unit_bytes : w->zstd ? ZSTD_CLUSTER_BYTES : CLUSTER_BYTES;

    if (cluster & (cluster - 1) || cluster < 1u << QCOW2_CLUSTER_BITS_MIN ||
        cluster > 1u << QCOW2_CLUSTER_BITS_MAX)
        return ferry_usage(err, "--cluster", "must be a power of two from 512 bytes to 2 MiB");
    if (o->subformat)
        return ferry_usage(err, "--subformat", "qcow2 has one kind only");
    w->cluster_bytes = (uint32_t)cluster;
    w->cluster_bits = (unsigned)__builtin_ctz(w->cluster_bytes);
    w->size_bytes = o->size_bytes;
    int error = choose_codec(w, o, err);
    if (!error)
        error = measure(w, err);
    if (!error)
        error = make_tables(w, err);
    if (error)
        return error;
    w->planning = !w->sink->pwrite;
    w->writer = (struct disk_writer){
        .format = &disk_format_qcow2,
        .unit_bytes = w->cluster_bytes,
        .stored_room = w->codec ? w->cluster_bytes : 0,
        .plan = !w->planning ? DISK_PLAN_NONE
                : w->codec   ? DISK_PLAN_SIZES
                             : DISK_PLAN_PLACES,
        .opaque = w,
    };
    return w->planning ? begin_pass(w, err) : 0;
}

void qcow2_destroy(struct disk_writer *writer)
{
    struct qcow2_writer *w = writer->opaque;

    codec_destroy(w->codec);
    free(w->l1);
    free(w->planned_l1);
    free(w->reftable);
    free(w->l2);
    free(w->refcounts);
    free(w->open);
    free(w->held);
    free(w->held_data);
    free(w);
}

int qcow2_create(struct sink *sink, const struct disk_write_options *options,
                 struct disk_writer **out, struct ferry_error *err)
{
    struct qcow2_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return ferry_fail(err, -ENOMEM, sink->about, "out of memory");
    w->sink = sink;
    w->writer.opaque = w;
    int error = prepare(w, options, err);
    if (error)
        qcow2_destroy(&w->writer);
    else
        *out = &w->writer;
    return error;
}

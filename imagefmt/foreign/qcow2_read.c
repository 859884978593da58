/*
 * Reading qcow2.  The L1 table is in memory, L2 tables are in a small cache under a lock; there are
 * two levels, so no table can make a lookup go round.  A lookup answers for a run of clusters of
 * one kind, as long as they lie in one L2 table, or in a stretch without any.  Offsets are checked
 * against the file when they are used, so only what the guest sees can be found damaged.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/qcow2.h"

enum kind { ABSENT, ZERO, DATA, COMPRESSED };

#define RUN_BYTES (16 * MIB) /* of runs that may be asked for again and again */

struct mapping {
    enum kind kind;
    uint64_t size_bytes; /* from the place asked for */
    uint64_t host;       /* DATA: where that place is in the file; COMPRESSED: the descriptor */
};

struct cached_table {
    uint64_t offset, used; /* used: when last, 0: never filled */
    uint64_t *entries;
};

struct qcow2 {
    struct disk disk;
    struct source *source;
    struct disk *backing;
    struct qcow2_header header;
    struct codec *codec;
    uint32_t cluster_bytes, table_entries; /* entries: of one L2 table */
    bool extended;
    uint64_t *l1, l1_count; /* as in the file but for the byte order; 0: no table */
    pthread_mutex_t lock;   /* of all below */
    struct cached_table *cache;
    unsigned cache_count;
    uint64_t clock;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int damaged_at(const struct qcow2 *q, uint64_t offset, const char *what,
                      struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, q->source->about, "is damaged at byte %llu of the disk: %s",
                        (unsigned long long)offset, what);
}

/* ---- Tables ---- */

static struct cached_table *find_table(struct qcow2 *q, uint64_t offset)
{
    struct cached_table *oldest = &q->cache[0];

    for (unsigned i = 0; i < q->cache_count; i++) {
        struct cached_table *table = &q->cache[i];
        if (table->used && table->offset == offset)
            return table;
        if (table->used < oldest->used)
            oldest = table;
    }
    oldest->used = 0;
    return oldest;
}

/* The L2 table at this place of the file, valid until the lock is given up. */
static int load_table(struct qcow2 *q, uint64_t offset, const uint64_t **entries,
                      struct ferry_error *err)
{
    struct cached_table *table = find_table(q, offset);

    if (!table->used) {
        size_t words = q->cluster_bytes / sizeof(uint64_t);
        if (!table->entries && !(table->entries = malloc(q->cluster_bytes)))
            return ferry_fail(err, -ENOMEM, q->source->about, "out of memory");
        int error = q->source->pread(q->source, offset, table->entries, q->cluster_bytes, err);
        if (error)
            return error;
        for (size_t i = 0; i < words; i++)
            table->entries[i] = be64toh(table->entries[i]);
        table->offset = offset;
    }
    table->used = ++q->clock;
    *entries = table->entries;
    return 0;
}

/* Is the cluster there the header or in the L1 table? */
static bool is_head(const struct qcow2 *q, uint64_t host)
{
    uint64_t end = q->header.l1_offset + q->l1_count * sizeof(*q->l1);

    return !host || (host < end && host + q->cluster_bytes > q->header.l1_offset);
}

/* What an entry of an L2 table, which lies at `table`, says; NULL or why it makes no sense. */
static const char *check_entry(const struct qcow2 *q, uint64_t table, uint64_t entry,
                               uint64_t bitmap)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_COMPRESSED)
        return entry & QCOW2_COPIED ? "a compressed cluster claims to be writable" : NULL;
    if (entry & ~(QCOW2_OFFSET_MASK | QCOW2_COPIED | QCOW2_ZERO))
        return "reserved bits of an L2 entry are set";
    if ((entry & QCOW2_ZERO) && (q->extended || q->header.version == 2))
        return "an L2 entry has a zero flag that its version lacks";
    if (host & (q->cluster_bytes - 1))
        return "a cluster does not begin where clusters do";
    if (host >= q->source->size_bytes)
        return "a cluster lies past the end of the file";
    if (!host && (entry & QCOW2_COPIED))
        return "a cluster lies on the header";
    if (host && (host == table || is_head(q, host)))
        return "a cluster lies on a table";
    if (q->extended && (bitmap & (bitmap >> 32) & UINT32_MAX))
        return "a subcluster is both data and zero";
    if (q->extended && !host && (bitmap & UINT32_MAX))
        return "subclusters lie on the header";
    return NULL;
}

/* The kind of one piece: a cluster, or a subcluster of one. */
static enum kind kind_of(const struct qcow2 *q, uint64_t entry, uint64_t bitmap, unsigned sub)
{
    if (entry & QCOW2_COMPRESSED)
        return COMPRESSED;
    if (q->extended)
        return bitmap >> sub & 1 ? DATA : bitmap >> (32 + sub) & 1 ? ZERO : ABSENT;
    return entry & QCOW2_ZERO ? ZERO : entry & QCOW2_OFFSET_MASK ? DATA : ABSENT;
}

/*
 * The piece at `offset` as a mapping from its start.  Pieces are subclusters where there are such,
 * else clusters; a compressed cluster is one in any case.
 */
static int map_piece(const struct qcow2 *q, uint64_t table, const uint64_t *entries,
                     uint64_t offset, uint64_t *start, struct mapping *m, struct ferry_error *err)
{
    uint64_t index = (offset / q->cluster_bytes) % q->table_entries;
    uint64_t entry = entries[q->extended ? 2 * index : index];
    uint64_t bitmap = q->extended ? entries[2 * index + 1] : 0;
    uint64_t piece = q->extended ? q->cluster_bytes / QCOW2_SUBCLUSTERS : q->cluster_bytes;
    uint64_t within = offset % q->cluster_bytes;
    const char *why = check_entry(q, table, entry, bitmap);

    if (why)
        return damaged_at(q, offset, why, err);
    m->kind = kind_of(q, entry, bitmap, (unsigned)(within / piece));
    if (m->kind == COMPRESSED)
        piece = q->cluster_bytes;
    *start = offset - offset % piece;
    m->size_bytes = piece;
    m->host = m->kind == COMPRESSED ? entry & ~QCOW2_COMPRESSED
                                    : (entry & QCOW2_OFFSET_MASK) + within - within % piece;
    return 0;
}

/*
 * A run of one kind within an L2 table.  One that may be asked for piece by piece, because it is
 * read in pieces or lies over another disk's extents, ends early: each time it is walked again.
 */
static int map_run(const struct qcow2 *q, uint64_t table, const uint64_t *entries, uint64_t offset,
                   struct mapping *m, struct ferry_error *err)
{
    uint64_t range = (uint64_t)q->cluster_bytes * q->table_entries;
    uint64_t end = least(offset - offset % range + range, q->disk.size_bytes);
    uint64_t start, next;
    struct mapping more;

    int error = map_piece(q, table, entries, offset, &start, m, err);
    if (error)
        return error;
    if (m->kind == DATA || q->backing)
        end = least(end, offset + RUN_BYTES);
    if (m->kind != COMPRESSED) {
        for (next = start + m->size_bytes; next < end; next += more.size_bytes) {
            /* What is wrong there is reported when it is asked for. */
            if (map_piece(q, table, entries, next, &next, &more, NULL) || more.kind != m->kind ||
                (m->kind == DATA && more.host != m->host + (next - start)))
                break;
            m->size_bytes += more.size_bytes;
        }
    }
    m->size_bytes = least(m->size_bytes - (offset - start), end - offset);
    if (m->kind == DATA)
        m->host += offset - start;
    return 0;
}

static void map_nothing(const struct qcow2 *q, uint64_t offset, struct mapping *m)
{
    uint64_t range = (uint64_t)q->cluster_bytes * q->table_entries;
    uint64_t index = offset / range, most = q->backing ? offset + RUN_BYTES : UINT64_MAX;

    while (index < q->l1_count && !q->l1[index] && index * range < most)
        index++;
    *m = (struct mapping){.kind = ABSENT,
                          .size_bytes = least(index * range, q->disk.size_bytes) - offset};
}

static int map(struct qcow2 *q, uint64_t offset, struct mapping *m, struct ferry_error *err)
{
    uint64_t entry = q->l1[offset / q->cluster_bytes / q->table_entries];
    const uint64_t *entries = NULL;

    if (!entry) {
        map_nothing(q, offset, m);
        return 0;
    }
    if (entry & ~(QCOW2_OFFSET_MASK | QCOW2_COPIED))
        return damaged_at(q, offset, "reserved bits of an L1 entry are set", err);
    entry &= QCOW2_OFFSET_MASK;
    if (entry & (q->cluster_bytes - 1))
        return damaged_at(q, offset, "an L2 table does not begin where clusters do", err);
    if (is_head(q, entry))
        return damaged_at(q, offset, "an L2 table lies on the header or the L1 table", err);
    LOCK_SCOPE(&q->lock);
    int error = load_table(q, entry, &entries, err);
    return error ? error : map_run(q, entry, entries, offset, m, err);
}

/* ---- Content ---- */

static int inflate_cluster(struct qcow2 *q, uint64_t offset, uint64_t descriptor, uint8_t *cluster,
                           struct ferry_error *err)
{
    unsigned bits = 62 - (q->header.cluster_bits - 8);
    uint64_t host = descriptor & ((UINT64_C(1) << bits) - 1);
    uint64_t size = ((descriptor >> bits) + 1) * 512 - host % 512;

    if (host < q->cluster_bytes)
        return damaged_at(q, offset, "a compressed cluster lies on the header", err);
    if (host >= q->source->size_bytes)
        return damaged_at(q, offset, "a compressed cluster lies past the end of the file", err);
    size = least(size, q->source->size_bytes - host); /* the last sector may be a part of one */
    CLEANUP_FREE uint8_t *stored = malloc(size);
    if (!stored)
        return ferry_fail(err, -ENOMEM, q->source->about, "out of memory");
    int error = q->source->pread(q->source, host, stored, size, err);
    if (error)
        return error;
    error = codec_decompress(q->codec, stored, size, cluster, q->cluster_bytes, NULL);
    if (error == -ENOMEM)
        return ferry_fail(err, error, q->source->about, "out of memory");
    return error ? damaged_at(q, offset, "a compressed cluster cannot be inflated", err) : 0;
}

static int read_compressed(struct qcow2 *q, uint64_t offset, uint64_t descriptor, void *data,
                           size_t size, struct ferry_error *err)
{
    if (size == q->cluster_bytes)
        return inflate_cluster(q, offset, descriptor, data, err);
    CLEANUP_FREE uint8_t *cluster = malloc(q->cluster_bytes);
    if (!cluster)
        return ferry_fail(err, -ENOMEM, q->source->about, "out of memory");
    int error = inflate_cluster(q, offset, descriptor, cluster, err);
    if (!error)
        memcpy(data, cluster + offset % q->cluster_bytes, size);
    return error;
}

/* What no cluster holds: the backing file's, zeroes behind its end. */
static int read_absent(const struct qcow2 *q, uint64_t offset, void *data, size_t size,
                       struct ferry_error *err)
{
    uint64_t end = q->backing ? q->backing->size_bytes : 0;
    size_t part = offset < end ? (size_t)least(size, end - offset) : 0;

    memset((uint8_t *)data + part, 0, size - part);
    return part ? q->backing->format->read(q->backing, offset, data, part, err) : 0;
}

static int qcow2_read(struct disk *disk, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    struct qcow2 *q = disk->opaque;
    uint8_t *to = data;
    struct mapping m;
    int error = 0;

    while (!error && size) {
        if ((error = map(q, offset, &m, err)))
            return error;
        size_t part = (size_t)least(size, m.size_bytes);
        switch (m.kind) {
        case ABSENT:
            error = read_absent(q, offset, to, part, err);
            break;
        case ZERO:
            memset(to, 0, part);
            break;
        case DATA:
            error = q->source->pread(q->source, m.host, to, part, err);
            break;
        case COMPRESSED:
            error = read_compressed(q, offset, m.host, to, part, err);
            break;
        }
        to += part;
        offset += part;
        size -= part;
    }
    return error;
}

static int qcow2_extent(struct disk *disk, uint64_t offset, struct disk_extent *extent,
                        struct ferry_error *err)
{
    struct qcow2 *q = disk->opaque;
    struct mapping m;

    int error = map(q, offset, &m, err);
    if (error)
        return error;
    *extent = (struct disk_extent){
        .size_bytes = m.size_bytes,
        .kind = m.kind == DATA || m.kind == COMPRESSED ? DISK_DATA : DISK_ZERO,
        .ratio = m.kind == DATA          ? 1
                 : m.kind != COMPRESSED  ? 0
                 : q->header.compression ? CODEC_RATIO_ZSTD
                                         : CODEC_RATIO_DEFLATE,
    };
    if (m.kind != ABSENT || !q->backing || offset >= q->backing->size_bytes)
        return 0;
    error = q->backing->format->extent(q->backing, offset, extent, err);
    extent->size_bytes = least(extent->size_bytes, m.size_bytes);
    return error;
}

/* ---- Opening ---- */

static int check_backing(struct qcow2 *q, const struct disk_open_options *options,
                         struct ferry_error *err)
{
    q->backing = options ? options->backing : NULL;
    if (q->header.backing && !q->backing)
        return ferry_refuse(err, -EPERM, q->source->about,
                            "builds on '%.180s'; allow it with --allow-external FILE",
                            q->header.backing);
    if (!q->header.backing && q->backing)
        return ferry_usage(err, q->source->about, "builds on no other file");
    if (q->backing && q->backing->in_order)
        return ferry_usage(err, q->source->about, "cannot build on a stream");
    q->disk.stored_bytes = q->source->size_bytes + (q->backing ? q->backing->stored_bytes : 0);
    return 0;
}

static int load_l1(struct qcow2 *q, struct ferry_error *err)
{
    uint64_t range = (uint64_t)q->cluster_bytes * q->table_entries;

    /* What is behind belongs to the memory of snapshots. */
    q->l1_count = (q->header.size_bytes + range - 1) / range;
    if (!(q->l1 = malloc(q->l1_count * sizeof(*q->l1) + 1)))
        return ferry_fail(err, -ENOMEM, q->source->about, "out of memory");
    int error =
        q->source->pread(q->source, q->header.l1_offset, q->l1, q->l1_count * sizeof(*q->l1), err);
    for (uint64_t i = 0; !error && i < q->l1_count; i++) {
        uint64_t entry = be64toh(q->l1[i]);
        q->l1[i] = entry == QCOW2_COPIED ? 0 : entry; /* a flag of nothing */
    }
    return error;
}

static int prepare(struct qcow2 *q, const struct disk_open_options *options,
                   struct ferry_error *err)
{
    int error = qcow2_read_header(q->source, &q->header, err);
    if (error)
        return error;
    q->extended = q->header.incompatible & QCOW2_EXTENDED_L2;
    q->cluster_bytes = 1u << q->header.cluster_bits;
    q->table_entries = q->cluster_bytes / (q->extended ? 16 : 8);
    q->disk = (struct disk){.format = &disk_format_qcow2,
                            .size_bytes = q->header.size_bytes,
                            .block_bytes = q->cluster_bytes,
                            .opaque = q};
    q->cache_count = (unsigned)least(LIMIT_QCOW2_CACHE_BYTES / q->cluster_bytes, 64);
    if (!(q->cache = calloc(q->cache_count, sizeof(*q->cache))))
        return ferry_fail(err, -ENOMEM, q->source->about, "out of memory");
    error = check_backing(q, options, err);
    if (!error)
        error = codec_create(q->header.compression ? CODEC_ZSTD : CODEC_DEFLATE, 0, &q->codec, err);
    return error ? error : load_l1(q, err);
}

static void qcow2_close(struct disk *disk)
{
    struct qcow2 *q = disk->opaque;

    for (unsigned i = 0; q->cache && i < q->cache_count; i++)
        free(q->cache[i].entries);
    free(q->cache);
    free(q->l1);
    codec_destroy(q->codec);
    qcow2_header_free(&q->header);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static int qcow2_open(struct source *source, const struct disk_open_options *options,
                      struct disk **out, struct ferry_error *err)
{
    struct qcow2 *q = calloc(1, sizeof(*q));

    if (!q)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    pthread_mutex_init(&q->lock, NULL);
    q->source = source;
    q->disk.opaque = q;
    int error = prepare(q, options, err);
    if (error)
        qcow2_close(&q->disk);
    else
        *out = &q->disk;
    return error;
}

static void *qcow2_describe(const struct disk *disk)
{
    const struct qcow2 *q = disk->opaque;

    return json_pack("{s:i, s:i, s:s, s:b, s:b, s:s*, s:O}", "version", (int)q->header.version,
                     "cluster_bytes", (int)q->cluster_bytes, "compression",
                     q->header.compression ? "zstd" : "zlib", "extended_l2", q->extended, "dirty",
                     (q->header.incompatible & QCOW2_DIRTY) != 0, "backing_file", q->header.backing,
                     "internal_snapshots", q->header.internal);
}

const struct disk_format disk_format_qcow2 = {
    .name = "qcow2",
    .extension = ".qcow2",
    .limits = "versions 2 and 3; clusters of 512 bytes to 2 MiB; not encrypted, no external data",
    .streams = true,
    .probe = qcow2_probe,
    .external_format = qcow2_backing_format,
    .open = qcow2_open,
    .extent = qcow2_extent,
    .read = qcow2_read,
    .describe = qcow2_describe,
    .close = qcow2_close,
    .create = qcow2_create,
    .plan = qcow2_plan,
    .encode = qcow2_encode,
    .put = qcow2_put,
    .unwritten = qcow2_unwritten,
    .finish = qcow2_finish,
    .destroy = qcow2_destroy,
};

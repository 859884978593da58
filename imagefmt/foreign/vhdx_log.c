/*
 * VHDX: the log (MS-VHDX 2.3).  It is a ring of entries of whole sectors of 4 KiB; each has a
 * header, descriptors, and the sectors they speak of.  The active sequence is the run of sound
 * entries with ascending numbers that ends with the highest one and holds the tail that this one
 * names.  What it writes is laid over the source, in memory (vhdx_overlay.c): runs of one sector or
 * of zeroes, in the order of the log, so that the last one wins.
 *
 * The log is read as a whole, up to a limit.  Each place in it is summed at most once, and all sums
 * together may take no more than some times its size: entries that overlap cost no more than that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/zero.h"
#include "imagefmt/foreign/vhdx.h"

#define ENTRY_MAGIC      0x65676f6cu /* "loge" */
#define DATA_MAGIC       0x63736564u /* "desc" */
#define ZERO_MAGIC       0x6f72657au /* "zero" */
#define SECTOR_MAGIC     0x61746164u /* "data" */
#define ENTRY_HEAD_BYTES 64
#define DESCRIPTOR_BYTES 32
#define SUM_BUDGET       4 /* times the size of the log */

struct entry {
    bool sound;
    uint32_t sectors, tail, descriptors;
    uint64_t sequence, flushed, last;
};

struct log {
    const struct vhdx_header *header;
    struct source *source;
    uint8_t *bytes;
    uint32_t sectors;
    uint64_t budget;
    struct entry *entries; /* one a sector: what begins there */
};

/* ---- Finding the active sequence ---- */

/* Sector i of the log, which is a ring. */
static const uint8_t *sector_at(const struct log *log, uint64_t i)
{
    return log->bytes + i % log->sectors * VHDX_LOG_SECTOR;
}

static bool sum_is_right(struct log *log, uint32_t start, uint32_t sectors, uint32_t want)
{
    if (log->budget < sectors)
        return false;
    log->budget -= sectors;
    uint8_t first[VHDX_LOG_SECTOR];
    memcpy(first, sector_at(log, start), sizeof(first));
    memset(first + 4, 0, 4);
    uint32_t sum = vhdx_crc32c(0, first, sizeof(first));
    for (uint32_t i = 1; i < sectors; i++)
        sum = vhdx_crc32c(sum, sector_at(log, (uint64_t)start + i), VHDX_LOG_SECTOR);
    return sum == want;
}

static void look_for_entry(struct log *log, uint32_t start)
{
    struct entry *e = &log->entries[start];
    struct reader r = reader_init(sector_at(log, start), ENTRY_HEAD_BYTES);

    uint32_t magic = reader_u32(&r), sum = reader_u32(&r), length = reader_u32(&r);
    e->tail = reader_u32(&r);
    e->sequence = reader_u64(&r);
    e->descriptors = reader_u32(&r);
    reader_u32(&r);
    const uint8_t *guid = reader_take(&r, VHDX_GUID_BYTES);
    e->flushed = reader_u64(&r);
    e->last = reader_u64(&r);
    e->sectors = length / VHDX_LOG_SECTOR;
    uint64_t head = ENTRY_HEAD_BYTES + (uint64_t)e->descriptors * DESCRIPTOR_BYTES;
    e->sound = magic == ENTRY_MAGIC && !memcmp(guid, log->header->log_guid, VHDX_GUID_BYTES) &&
               length && length % VHDX_LOG_SECTOR == 0 && e->sectors <= log->sectors &&
               head <= length && e->sequence && e->tail % VHDX_LOG_SECTOR == 0 &&
               e->tail / VHDX_LOG_SECTOR < log->sectors &&
               sum_is_right(log, start, e->sectors, sum);
}

/*
 * From tail on, entries with ascending numbers to the one at head: how many, or 0 if they do not
 * lead there.
 */
static uint32_t length_of_sequence(const struct log *log, uint32_t head)
{
    uint32_t at = log->entries[head].tail / VHDX_LOG_SECTOR, count = 0;
    uint64_t sectors = 0;

    for (;; count++) {
        const struct entry *e = &log->entries[at];
        sectors += e->sectors;
        if (!e->sound || sectors > log->sectors)
            return 0;
        if (at == head)
            return count + 1;
        uint32_t next = (uint32_t)(((uint64_t)at + e->sectors) % log->sectors);
        if (log->entries[next].sequence != e->sequence + 1)
            return 0;
        at = next;
    }
}

/* The head of the active sequence; log->sectors: there is none. */
static uint32_t find_head(const struct log *log)
{
    uint32_t best = log->sectors;

    for (uint32_t i = 0; i < log->sectors; i++) {
        const struct entry *e = &log->entries[i];
        if (e->sound && (best == log->sectors || e->sequence > log->entries[best].sequence) &&
            length_of_sequence(log, i))
            best = i;
    }
    return best;
}

/* ---- Laying it over the source ---- */

static int damaged(const struct log *log, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, log->source->about,
                        "is damaged: its log, which must be replayed, makes no sense");
}

static int add_run(const struct log *log, struct vhdx_replayed *all, const struct vhdx_run *run,
                   struct ferry_error *err)
{
    if (run->offset % VHDX_LOG_SECTOR || run->size % VHDX_LOG_SECTOR || run->offset > INT64_MAX ||
        run->size > INT64_MAX - run->offset)
        return damaged(log, err);
    all->runs[all->count++] = *run;
    return 0;
}

/* One descriptor; *data: the log's sector of the next one's data. */
static int replay_descriptor(const struct log *log, const struct entry *e, const uint8_t *bytes,
                             uint64_t *data, struct vhdx_replayed *all, struct ferry_error *err)
{
    struct reader r = reader_init(bytes, DESCRIPTOR_BYTES);
    struct vhdx_run run = {0};
    uint32_t magic = reader_u32(&r);

    if (magic == ZERO_MAGIC) {
        reader_u32(&r);
        run.size = reader_u64(&r);
    } else if (magic == DATA_MAGIC) {
        const uint8_t *sector = sector_at(log, (*data)++);
        struct reader s = reader_init(sector, VHDX_LOG_SECTOR);
        uint32_t sector_magic = reader_u32(&s);
        uint64_t sequence = (uint64_t)reader_u32(&s) << 32;
        run.trail = reader_take(&r, 4);
        run.lead = reader_take(&r, 8);
        run.data = reader_take(&s, VHDX_LOG_SECTOR - 12);
        run.size = VHDX_LOG_SECTOR;
        if (sector_magic != SECTOR_MAGIC || (sequence | reader_u32(&s)) != e->sequence)
            return damaged(log, err);
    } else {
        return damaged(log, err);
    }
    run.offset = reader_u64(&r);
    return reader_u64(&r) != e->sequence ? damaged(log, err) : add_run(log, all, &run, err);
}

static int replay_entry(const struct log *log, uint32_t at, struct vhdx_replayed *all,
                        struct ferry_error *err)
{
    const struct entry *e = &log->entries[at];
    uint64_t head = ENTRY_HEAD_BYTES + (uint64_t)e->descriptors * DESCRIPTOR_BYTES;
    uint64_t first = (head + VHDX_LOG_SECTOR - 1) / VHDX_LOG_SECTOR, data = at + first;
    int error = 0;

    if (log->source->size_bytes < e->flushed)
        return ferry_refuse(err, -EBADMSG, log->source->about,
                            "is cut short: its log says that it had %llu bytes",
                            (unsigned long long)e->flushed);
    if (e->last > all->size_bytes && e->last <= 2 * LIMIT_DISK_BYTES)
        all->size_bytes = e->last;
    for (uint32_t i = 0; !error && i < e->descriptors; i++) {
        uint64_t byte = ENTRY_HEAD_BYTES + (uint64_t)i * DESCRIPTOR_BYTES;
        const uint8_t *sector = sector_at(log, at + byte / VHDX_LOG_SECTOR);
        error = replay_descriptor(log, e, sector + byte % VHDX_LOG_SECTOR, &data, all, err);
        if (!error && data - at > e->sectors)
            error = damaged(log, err);
    }
    return error;
}

static int replay_all(const struct log *log, uint32_t head, struct vhdx_replayed *all,
                      struct ferry_error *err)
{
    uint32_t count = length_of_sequence(log, head),
             start = log->entries[head].tail / VHDX_LOG_SECTOR;
    uint64_t runs = 0;
    int error = 0;

    for (uint32_t i = 0, at = start; i < count; i++) {
        runs += log->entries[at].descriptors;
        at = (at + log->entries[at].sectors) % log->sectors;
    }
    if (!(all->runs = calloc(runs + 1, sizeof(*all->runs))))
        return ferry_fail(err, -ENOMEM, log->source->about, "out of memory");
    for (uint32_t i = 0, at = start; !error && i < count; i++) {
        error = replay_entry(log, at, all, err);
        at = (at + log->entries[at].sectors) % log->sectors;
    }
    return error;
}

/* ---- All of it ---- */

static int read_log(struct log *log, struct vhdx_replayed *all, struct ferry_error *err)
{
    const struct vhdx_header *h = log->header;

    if (h->log_version || !h->log_bytes || h->log_bytes % MIB || h->log_offset % MIB ||
        h->log_offset < MIB)
        return damaged(log, err);
    if (h->log_bytes > VHDX_LOG_MAX_BYTES)
        return ferry_refuse(err, -EFBIG, log->source->about,
                            "has a log of more than 8 MiB to be replayed: open it once where it "
                            "was made");
    log->bytes = all->bytes = malloc(h->log_bytes);
    log->sectors = h->log_bytes / VHDX_LOG_SECTOR;
    log->budget = (uint64_t)SUM_BUDGET * log->sectors;
    if (!log->bytes)
        return ferry_fail(err, -ENOMEM, log->source->about, "out of memory");
    return log->source->pread(log->source, h->log_offset, log->bytes, h->log_bytes, err);
}

int vhdx_replay(struct source *source, const struct vhdx_header *header, struct source **out,
                struct ferry_error *err)
{
    struct log log = {.header = header, .source = source};

    *out = source;
    if (is_zero(header->log_guid, VHDX_GUID_BYTES))
        return 0;
    CLEANUP(vhdx_replayed_free) struct vhdx_replayed all = {.size_bytes = source->size_bytes};
    int error = read_log(&log, &all, err);
    if (error)
        return error;
    CLEANUP_FREE struct entry *entries = calloc(log.sectors, sizeof(*entries));
    log.entries = entries;
    if (!entries)
        return ferry_fail(err, -ENOMEM, source->about, "out of memory");
    for (uint32_t i = 0; i < log.sectors; i++)
        look_for_entry(&log, i);
    uint32_t head = find_head(&log);
    if (head == log.sectors)
        return damaged(&log, err);
    error = replay_all(&log, head, &all, err);
    return error ? error : vhdx_overlay(source, &all, out, err);
}

/* The journal.  Reading takes one batch at a time, so memory is bounded by the limits of a batch.
 */
#include "imagefmt/foreign/resume_journal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

#define MAGIC        "ferryres"
#define VERSION      1
#define HEADER_BYTES 24
#define MARK         0x62726572 /* "rerb" */
#define HEAD_BYTES   40
#define SUMMED_BYTES 32 /* of the head; the sum follows */
#define UNIT_BYTES   16
#define NODE_BYTES   (12 + SHA256_BYTES)
#define RAW          (UINT32_C(1) << 31)

static int bad_header(const struct journal *j, struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, j->about,
                        "is not the journal of a conversion, or is damaged");
}

static void begin(struct journal *j, int fd, const char *about)
{
    *j = (struct journal){
        .fd = fd,
        .about = about,
        .units = writer_init((size_t)LIMIT_RESUME_UNITS * UNIT_BYTES),
        .nodes = writer_init((size_t)LIMIT_RESUME_NODES * NODE_BYTES),
    };
}

int journal_create(struct journal *j, int fd, const char *about, const json_t *what,
                   struct ferry_error *err)
{
    CLEANUP(writer_free)
    struct writer w = writer_init(HEADER_BYTES + LIMIT_RESUME_HEADER_BYTES);
    CLEANUP_FREE char *text = json_dumps(what, JSON_COMPACT | JSON_SORT_KEYS);

    begin(j, fd, about);
    if (!text)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    size_t size = strlen(text);
    writer_copy(&w, MAGIC, 8);
    writer_u32(&w, VERSION);
    writer_u32(&w, (uint32_t)size);
    writer_u64(&w, xxh3(text, size));
    writer_copy(&w, text, size);
    if (w.error)
        return ferry_fail(err, w.error, about, "cannot be made");
    j->start = j->end = w.size;
    int error = ftruncate(fd, 0) ? -errno : pwrite_all(fd, w.data, w.size, 0);
    if (!error && fsync(fd))
        error = -errno;
    return error ? ferry_fail_sys(err, error, about, "cannot write") : 0;
}

int journal_open(struct journal *j, int fd, const char *about, json_t **what,
                 struct ferry_error *err)
{
    uint8_t head[HEADER_BYTES];

    begin(j, fd, about);
    if (pread_all(fd, head, sizeof(head), 0))
        return bad_header(j, err);
    struct reader r = reader_init(head, sizeof(head));
    bool ours = !memcmp(reader_take(&r, 8), MAGIC, 8) && reader_u32(&r) == VERSION;
    uint32_t size = reader_u32(&r);
    uint64_t sum = reader_u64(&r);
    if (!ours || size > LIMIT_RESUME_HEADER_BYTES)
        return bad_header(j, err);
    CLEANUP_FREE char *text = malloc(size + 1);
    if (!text)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    if (pread_all(fd, text, size, HEADER_BYTES) || xxh3(text, size) != sum ||
        !(*what = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL)))
        return bad_header(j, err);
    if (!json_is_object(*what)) {
        json_decref(*what);
        return bad_header(j, err);
    }
    j->start = j->end = HEADER_BYTES + (uint64_t)size;
    return 0;
}

void journal_close(struct journal *j)
{
    writer_free(&j->units);
    writer_free(&j->nodes);
}

/* ---- Reading ---- */

void journal_rewind(struct journal *j)
{
    j->end = j->start;
    j->sum = 0;
}

void journal_batch_free(struct journal_batch *batch)
{
    free(batch->bytes);
    *batch = (struct journal_batch){0};
}

/* sum of the batch before, head without sum, body: in one buffer, which is summed. */
static uint64_t sum_of(uint8_t *bytes, size_t size, uint64_t before)
{
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(before >> (8 * i));
    return xxh3(bytes, size);
}

int journal_next(struct journal *j, struct journal_batch *batch, struct ferry_error *err)
{
    uint8_t head[HEAD_BYTES];

    if (pread_all(j->fd, head, sizeof(head), j->end))
        return 0;
    struct reader r = reader_init(head, sizeof(head));
    bool ours = reader_u32(&r) == MARK;
    struct journal_batch b = {.units = reader_u32(&r), .nodes = reader_u32(&r)};
    ours = !reader_u32(&r) && ours;
    b.done = reader_u64(&r);
    b.unwritten = reader_u64(&r);
    uint64_t sum = reader_u64(&r);
    if (!ours || b.units > LIMIT_RESUME_UNITS || b.nodes > LIMIT_RESUME_NODES)
        return 0;
    size_t unit_bytes = (size_t)b.units * UNIT_BYTES, node_bytes = (size_t)b.nodes * NODE_BYTES;
    size_t before = 8 + SUMMED_BYTES, size = before + unit_bytes + node_bytes;
    if (!(b.bytes = malloc(size)))
        return ferry_fail(err, -ENOMEM, j->about, "out of memory");
    memcpy(b.bytes + 8, head, SUMMED_BYTES);
    if (pread_all(j->fd, b.bytes + before, size - before, j->end + HEAD_BYTES) ||
        sum_of(b.bytes, size, j->sum) != sum) {
        journal_batch_free(&b);
        return 0;
    }
    b.unit_bytes = reader_init(b.bytes + before, unit_bytes);
    b.node_bytes = reader_init(b.bytes + before + unit_bytes, node_bytes);
    j->sum = sum;
    j->end += HEAD_BYTES + unit_bytes + node_bytes;
    *batch = b;
    return 1;
}

void journal_next_unit(struct journal_batch *batch, struct disk_unit *unit)
{
    struct reader *r = &batch->unit_bytes;

    *unit = (struct disk_unit){.offset = reader_u64(r)};
    unit->content_bytes = reader_u32(r);
    unit->stored_bytes = reader_u32(r);
    unit->raw = unit->content_bytes & RAW;
    unit->content_bytes &= ~RAW;
}

void journal_next_node(struct journal_batch *batch, struct journal_node *node)
{
    struct reader *r = &batch->node_bytes;

    node->offset = reader_u64(r);
    node->level = reader_u32(r);
    reader_copy(r, node->node, sizeof(node->node));
}

/* ---- Writing ---- */

int journal_add_unit(struct journal *j, const struct disk_unit *unit, struct ferry_error *err)
{
    writer_u64(&j->units, unit->offset);
    writer_u32(&j->units, unit->content_bytes | (unit->raw ? RAW : 0));
    writer_u32(&j->units, unit->stored_bytes);
    j->unit_count++;
    return j->units.error ? ferry_fail(err, j->units.error, j->about, "out of memory") : 0;
}

int journal_add_node(struct journal *j, const struct journal_node *node, struct ferry_error *err)
{
    writer_u64(&j->nodes, node->offset);
    writer_u32(&j->nodes, node->level);
    writer_copy(&j->nodes, node->node, sizeof(node->node));
    j->node_count++;
    return j->nodes.error ? ferry_fail(err, j->nodes.error, j->about, "out of memory") : 0;
}

void journal_drop_units(struct journal *j, uint32_t count)
{
    if (count >= j->unit_count)
        return;
    j->unit_count = count;
    j->units.size = (size_t)count * UNIT_BYTES;
}

bool journal_is_full(const struct journal *j)
{
    return j->unit_count >= LIMIT_RESUME_UNITS / 2 || j->node_count >= LIMIT_RESUME_NODES / 2;
}

int journal_write(struct journal *j, uint64_t done, uint64_t unwritten, struct ferry_error *err)
{
    size_t size = 8 + SUMMED_BYTES + j->units.size + j->nodes.size;
    CLEANUP(writer_free) struct writer w = writer_init(size + 8);

    writer_u64(&w, 0);
    writer_u32(&w, MARK);
    writer_u32(&w, j->unit_count);
    writer_u32(&w, j->node_count);
    writer_u32(&w, 0);
    writer_u64(&w, done);
    writer_u64(&w, unwritten);
    writer_copy(&w, j->units.data, j->units.size);
    writer_copy(&w, j->nodes.data, j->nodes.size);
    if (w.error)
        return ferry_fail(err, w.error, j->about, "out of memory");
    uint64_t sum = sum_of(w.data, size, j->sum);
    struct iovec iov[] = {{w.data + 8, SUMMED_BYTES},
                          {&(uint64_t){htole64(sum)}, 8},
                          {w.data + 8 + SUMMED_BYTES, size - 8 - SUMMED_BYTES}};
    uint64_t at = j->end;
    int error = 0;
    for (int i = 0; !error && i < 3; at += iov[i++].iov_len)
        error = pwrite_all(j->fd, iov[i].iov_base, iov[i].iov_len, at);
    if (!error && fdatasync(j->fd))
        error = -errno;
    if (error)
        return ferry_fail_sys(err, error, j->about, "cannot write");
    j->end = at;
    j->sum = sum;
    j->unit_count = j->node_count = 0;
    writer_reset(&j->units);
    writer_reset(&j->nodes);
    return 0;
}

/*
 * PAGES: a table of runs and then the content of the data runs, as it is.  The sender copies each
 * page into one buffer, tests the copy for zero while it is in the cache, and sends the buffer.
 */
#include "migrate/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/zero.h"
#include "migrate/message.h"

#define RUN_BYTES  16u
#define HEAD_BYTES 8u

enum { CODEC_NONE = 0 };
enum { RUN_DATA = 0, RUN_ZERO = 1 };

struct run {
    uint64_t offset;
    uint32_t size;
    uint32_t kind;
};

struct page_batch {
    struct channel *channel;
    const uint8_t *ram;
    size_t capacity;
    size_t used; /* bytes of content */
    uint32_t count;
    struct run runs[LIMIT_PAGE_RUNS];
    struct writer head;
    uint8_t *content;
};

int page_batch_create(struct channel *channel, const struct memory *memory, size_t content_bytes,
                      struct page_batch **out, struct ferry_error *err)
{
    struct page_batch *b = calloc(1, sizeof(*b));

    if (!b || !(b->content = aligned_alloc(MEMORY_PAGE_BYTES, content_bytes))) {
        free(b);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    b->channel = channel;
    b->ram = memory_base(memory);
    b->capacity = content_bytes;
    b->head = writer_init(HEAD_BYTES + LIMIT_PAGE_RUNS * RUN_BYTES);
    *out = b;
    return 0;
}

void page_batch_destroy(struct page_batch *b)
{
    if (!b)
        return;
    writer_free(&b->head);
    free(b->content);
    free(b);
}

int page_batch_flush(struct page_batch *b, struct ferry_error *err)
{
    if (!b->count)
        return 0;
    writer_reset(&b->head);
    writer_u32(&b->head, CODEC_NONE);
    writer_u32(&b->head, b->count);
    for (uint32_t i = 0; i < b->count; i++) {
        writer_u64(&b->head, b->runs[i].offset);
        writer_u32(&b->head, b->runs[i].size);
        writer_u32(&b->head, b->runs[i].kind);
    }
    if (b->head.error)
        return ferry_fail_sys(err, b->head.error, NULL, "cannot describe pages");
    const struct iovec pieces[2] = {{.iov_base = b->head.data, .iov_len = b->head.size},
                                    {.iov_base = b->content, .iov_len = b->used}};
    b->count = 0;
    b->used = 0;
    return channel_send(b->channel, MESSAGE_PAGES, pieces, pieces[1].iov_len ? 2 : 1, err);
}

/* Count the page to the last run, or begin one. */
static void note(struct page_batch *b, uint64_t offset, uint32_t kind)
{
    struct run *last = b->count ? &b->runs[b->count - 1] : NULL;

    if (last && last->kind == kind && last->offset + last->size == offset &&
        last->size < (1u << 30)) {
        last->size += MEMORY_PAGE_BYTES;
        return;
    }
    b->runs[b->count++] = (struct run){offset, MEMORY_PAGE_BYTES, kind};
}

int page_batch_add(struct page_batch *b, uint64_t offset, uint64_t size, bool fresh,
                   struct page_counts *counts, struct ferry_error *err)
{
    for (uint64_t end = offset + size; offset < end; offset += MEMORY_PAGE_BYTES) {
        uint8_t *copy = b->content + b->used;
        memcpy(copy, b->ram + offset, MEMORY_PAGE_BYTES);
        if (is_zero(copy, MEMORY_PAGE_BYTES)) {
            counts->zero_bytes += MEMORY_PAGE_BYTES;
            if (fresh)
                continue;
            note(b, offset, RUN_ZERO);
        } else {
            counts->raw_bytes += MEMORY_PAGE_BYTES;
            note(b, offset, RUN_DATA);
            b->used += MEMORY_PAGE_BYTES;
        }
        if (b->used < b->capacity && b->count < LIMIT_PAGE_RUNS)
            continue;
        int error = page_batch_flush(b, err);
        if (error)
            return error;
    }
    return 0;
}

/* ---- the destination ---- */

/* The runs, checked: ascending, within RAM, and exactly as much content as there is. */
static int parse_runs(struct reader *r, uint64_t ram_size, struct run *runs, uint32_t *count)
{
    uint64_t end = 0, content = 0;

    uint32_t codec = reader_u32(r);
    *count = reader_u32(r);
    if (r->error || codec != CODEC_NONE || !*count || *count > LIMIT_PAGE_RUNS)
        return -EBADMSG;
    for (uint32_t i = 0; i < *count; i++) {
        struct run *run = &runs[i];
        run->offset = reader_u64(r);
        run->size = reader_u32(r);
        run->kind = reader_u32(r);
        if (r->error || run->offset % MEMORY_PAGE_BYTES || run->size % MEMORY_PAGE_BYTES ||
            !run->size || run->kind > RUN_ZERO || run->offset < end || run->offset > ram_size ||
            run->size > ram_size - run->offset)
            return -EBADMSG;
        end = run->offset + run->size;
        content += run->kind == RUN_DATA ? run->size : 0;
    }
    return content == reader_left(r) ? 0 : -EBADMSG;
}

int pages_install(struct memory *memory, const struct frame *frame, uint64_t *bytes,
                  struct ferry_error *err)
{
    struct reader r = reader_init(frame->data, frame->size);
    struct run runs[LIMIT_PAGE_RUNS];
    uint32_t count;

    *bytes = 0;
    if (parse_runs(&r, memory_size(memory), runs, &count))
        return ferry_refuse(err, -EBADMSG, NULL, "a frame of pages is malformed");
    for (uint32_t i = 0; i < count; i++) {
        int error =
            runs[i].kind == RUN_DATA
                ? memory_load(memory, runs[i].offset, reader_take(&r, runs[i].size), runs[i].size)
                : memory_discard(memory, runs[i].offset, runs[i].size);
        if (error)
            return ferry_fail_sys(err, error, NULL, "cannot put pages into the guest's RAM");
        *bytes += runs[i].size;
    }
    return 0;
}

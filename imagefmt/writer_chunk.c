/*
 * Chunks on their way into an image: a ring of slots that the workers compress, written in order,
 * and a line for the index of each.
 */
#include "imagefmt/writer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <zstd.h>

#include "common/zero.h"
#include "imagefmt/chunk.h"

int writer_page(struct image_writer *w, struct ferry_error *err)
{
    uint64_t offset = w->offset;

    struct writer *body = writer_begin_record(w, RECORD_PAGE);
    writer_u32(body, w->table.count - 1);
    writer_u32(body, w->page_count);
    writer_copy(body, w->page.data, w->page.size);
    body->error = body->error ? body->error : w->page.error;
    int error = writer_put_record(w, NULL, 0, err);
    if (error)
        return error;
    index_entry(&w->index, w->table.count - 1, w->page_count, w->page_first, offset);
    w->table.pages++;
    w->page_count = 0;
    writer_reset(&w->page);
    return w->index.error ? writer_no_memory(w, err) : 0;
}

/* A line for the index, and its node for the tree. */
static void note_line(struct image_writer *w, const struct page_line *line)
{
    struct image_section *section = &table_last(&w->table)->section;
    unsigned level = content_level(section->chunk_bytes) + line->level;

    if (!w->page_count++)
        w->page_first = line->index;
    page_line_write(&w->page, line);
    content_add(&w->tree, line->index >> line->level, level, line->digest);
    section->chunks++;
}

/* A chunk is in the image: at offset, in stored_bytes, of which `added` are new. */
static void note_chunk(struct image_writer *w, const struct chunk_head *head, uint64_t offset,
                       uint32_t added)
{
    struct image_section *section = &table_last(&w->table)->section;
    struct page_line line = {.index = head->index,
                             .offset = offset,
                             .stored_bytes = head->stored_bytes,
                             .codec = (uint8_t)head->codec};

    memcpy(line.digest, head->digest, SHA256_BYTES);
    note_line(w, &line);
    section->content_bytes += head->content_bytes;
    section->stored_bytes += added;
    w->content_bytes += head->content_bytes;
}

static int page_if_full(struct image_writer *w, struct ferry_error *err)
{
    return w->page_count == PAGE_CHUNKS ? writer_page(w, err) : 0;
}

/* A node of the tree that is as in the base. */
int writer_kept(void *opaque, uint64_t index, unsigned level, const uint8_t digest[SHA256_BYTES],
                struct ferry_error *err)
{
    struct image_writer *w = opaque;
    struct chunk_head head = {
        .section = w->table.count - 1, .codec = CODEC_KEPT, .index = index, .stored_bytes = level};
    struct page_line line = {.index = index, .codec = CODEC_KEPT, .level = (uint8_t)level};

    memcpy(head.digest, digest, SHA256_BYTES);
    memcpy(line.digest, digest, SHA256_BYTES);
    chunk_head_write(writer_begin_record(w, RECORD_CHUNK), &head);
    int error = writer_put_record(w, NULL, 0, err);
    if (error)
        return error;
    note_line(w, &line);
    return page_if_full(w, err);
}

static struct chunk_head head_of(const struct image_writer *w, const struct encode_slot *slot)
{
    struct chunk_head head = {
        .section = w->table.count - 1,
        .codec = CODEC_ZSTD,
        .index = slot->index,
        .content_bytes = slot->content_bytes,
        .stored_bytes = (uint32_t)slot->stored_bytes,
        .sum = slot->sum,
    };

    memcpy(head.digest, slot->digest, SHA256_BYTES);
    return head;
}

static int write_stored(struct image_writer *w, struct encode_slot *slot, struct ferry_error *err)
{
    struct chunk_head head = head_of(w, slot);
    struct same_chunk stored = {.offset = w->offset,
                                .content_bytes = head.content_bytes,
                                .stored_bytes = head.stored_bytes};

    chunk_head_write(writer_begin_record(w, RECORD_CHUNK), &head);
    uint8_t *behind = slot->stored;
    if (w->seal) {
        behind -= RECORD_HEAD_BYTES;
        uint64_t offset = w->offset + chunk_record_bytes(true);
        record_wrap(behind, slot->stored_bytes + SEAL_TAG_BYTES, RECORD_SEAL, offset);
    }
    int error = writer_put_record(w, behind, chunk_stored_bytes(w->seal, head.stored_bytes), err);
    if (error)
        return error;
    memcpy(stored.digest, slot->digest, SHA256_BYTES);
    same_note(w->same, &stored);
    note_chunk(w, &head, stored.offset, stored.stored_bytes);
    return 0;
}

/* Content that lies in the image already: only where. */
static int write_same(struct image_writer *w, const struct encode_slot *slot,
                      const struct same_chunk *same, struct ferry_error *err)
{
    struct chunk_head head = head_of(w, slot);

    head.codec = CODEC_SAME;
    head.stored_bytes = same->stored_bytes;
    head.sum = same->offset;
    chunk_head_write(writer_begin_record(w, RECORD_CHUNK), &head);
    int error = writer_put_record(w, NULL, 0, err);
    if (!error)
        note_chunk(w, &head, same->offset, 0);
    return error;
}

/* Wait for the oldest chunk in work and write it. */
static int write_oldest(struct image_writer *w, struct ferry_error *err)
{
    struct encode_slot *slot = &w->slots[w->oldest];

    pool_wait(w->pool, &slot->task);
    w->oldest = (w->oldest + 1) % w->slots_used;
    w->busy--;
    if (slot->read_error)
        return writer_broken(w, ferry_fail_sys(err, slot->read_error,
                                               table_last(&w->table)->section.name,
                                               "cannot read at byte %" PRIu64, slot->offset));
    if (slot->zero)
        return 0;
    if (!slot->kept && ZSTD_isError(slot->stored_bytes))
        return writer_broken(w, ferry_fail(err, -EIO, NULL, "cannot compress: %s",
                                           ZSTD_getErrorName(slot->stored_bytes)));
    if (slot->not_sealed)
        return writer_broken(w, ferry_fail(err, -EIO, NULL, "cannot seal: libcrypto failed"));
    int error = keep_chunk(&w->keep, slot->index, slot->kept, err);
    if (error || slot->kept)
        return error ? writer_broken(w, error) : 0;
    const struct same_chunk *same =
        same_find(w->same, slot->digest, slot->content_bytes, w->offset);
    error = same ? write_same(w, slot, same, err) : write_stored(w, slot, err);
    return error ? error : page_if_full(w, err);
}

int writer_drain(struct image_writer *w, struct ferry_error *err)
{
    int error = 0;

    while (!error && w->busy)
        error = write_oldest(w, err);
    return error;
}

/* May chunk `index` come now?  Its length, 0: the end of the section. */
static int next_chunk(struct image_writer *w, uint64_t index, uint32_t *size,
                      struct ferry_error *err)
{
    int error = writer_check(w, true, err);
    if (error)
        return error;
    const struct image_section *section = &table_last(&w->table)->section;
    *size = section_chunk_bytes(section, index);
    if (!*size || index < w->next_index)
        return writer_usage(w, err, section->name,
                            *size ? "chunks must ascend" : "chunk behind the end");
    w->next_index = index + 1;
    return 0;
}

/* A slot for chunk `index`, ready but for its content. */
static int take_slot(struct image_writer *w, uint64_t index, uint32_t size,
                     struct encode_slot **out, struct ferry_error *err)
{
    const struct image_section *section = &table_last(&w->table)->section;

    int error = w->busy == w->slots_used ? write_oldest(w, err) : 0;
    if (error)
        return error;
    struct encode_slot *slot = *out = &w->slots[(w->oldest + w->busy) % w->slots_used];
    slot->key = w->seal ? &w->seal->key : NULL;
    slot->section = w->table.count - 1;
    slot->not_sealed = false;
    if (encode_prepare(slot, section->chunk_bytes, w->level))
        return writer_no_memory(w, err);
    slot->index = index;
    slot->content_bytes = size;
    slot->level = content_level(section->chunk_bytes);
    slot->offset = index * section->chunk_bytes;
    slot->read = NULL;
    slot->read_error = 0;
    slot->zero = slot->kept = false;
    int found = keep_digest(&w->keep, index, slot->base_digest, err);
    slot->has_base = found > 0;
    return found < 0 ? writer_broken(w, found) : 0;
}

static void submit(struct image_writer *w, struct encode_slot *slot)
{
    w->busy++;
    pool_submit(w->pool, &slot->task);
}

int image_writer_chunk(struct image_writer *w, uint64_t index, const void *data,
                       struct ferry_error *err)
{
    struct encode_slot *slot;
    uint32_t size;

    int error = next_chunk(w, index, &size, err);
    if (error || is_zero(data, size))
        return error;
    error = take_slot(w, index, size, &slot, err);
    if (error)
        return error;
    memcpy(slot->content, data, size);
    submit(w, slot);
    return 0;
}

int image_writer_fetch(struct image_writer *w, uint64_t index,
                       int (*read)(void *opaque, uint64_t offset, void *data, size_t size),
                       void *opaque, struct ferry_error *err)
{
    struct encode_slot *slot;
    uint32_t size;

    int error = next_chunk(w, index, &size, err);
    if (!error)
        error = take_slot(w, index, size, &slot, err);
    if (error)
        return error;
    slot->read = read;
    slot->opaque = opaque;
    submit(w, slot);
    return 0;
}

/*
 * Chunks in a sequential read: their heads are checked, their stored bytes go through the decoding
 * workers, and they reach the visitor in the order of the file.
 */
#include "imagefmt/reader.h"

#include <string.h>

#include "imagefmt/access.h"
#include "imagefmt/chunk.h"
#include "imagefmt/format.h"

/* Hand the oldest chunk in work to the visitor. */
static int deliver_oldest(struct image_reader *r, struct ferry_error *err)
{
    const struct image_section *section = &table_last(&r->table)->section;
    const struct decode_slot *slot = decode_wait(&r->decode);

    if (slot->damage)
        return reader_refuse_chunk(r, slot->index, slot->damage, err);
    if (!r->visitor->chunk)
        return 0;
    return r->visitor->chunk(r->opaque, section, slot->index * section->chunk_bytes, slot->content,
                             slot->content_bytes, err);
}

int reader_deliver_all(struct image_reader *r, struct ferry_error *err)
{
    int error = 0;

    while (!error && r->decode.busy)
        error = deliver_oldest(r, err);
    return error;
}

/* The numbers of a chunk's head, all but its sums. */
static const char *wrong_with_chunk(const struct image_reader *r, const struct chunk_head *head,
                                    uint64_t offset)
{
    const struct table_entry *entry = &r->table.entries[r->table.count - 1];
    uint32_t size = section_chunk_bytes(&entry->section, head->index);

    if (head->section != r->table.count - 1)
        return "it belongs to another section";
    if (r->page_count == PAGE_CHUNKS || r->page_last)
        return "its index page is missing";
    if (!size)
        return "it lies behind the end of its section";
    if (head->index < r->next_index)
        return "it is out of order";
    if (head->codec != CODEC_ZSTD && head->codec != CODEC_SAME)
        return "its codec is unknown";
    if (head->content_bytes != size)
        return "its content has an impossible size";
    if (!head->stored_bytes || head->stored_bytes > STORED_LIMIT(size))
        return "its stored bytes have an impossible size";
    if (content_is_zero(head->digest))
        return "zeroes are stored, which no ferry writes";
    if (head->codec == CODEC_SAME && (head->sum > offset || offset - head->sum > LIMIT_SAME_BYTES))
        return "it refers to a chunk out of reach";
    return NULL;
}

static const char *wrong_with_kept(const struct image_reader *r, const struct chunk_head *head)
{
    const struct image_section *section = &r->table.entries[r->table.count - 1].section;
    uint64_t chunks = section_chunks(section), level = head->stored_bytes;

    if (head->section != r->table.count - 1)
        return "it belongs to another section";
    if (r->page_count == PAGE_CHUNKS || r->page_last)
        return "its index page is missing";
    if (!r->base || level >= KEPT_LEVELS || head->content_bytes || head->sum)
        return "what is kept of the base has impossible numbers";
    if (head->index < r->next_index)
        return "it is out of order";
    if (chunks >> level == 0 || head->index > chunks - (UINT64_C(1) << level) ||
        head->index & ((UINT64_C(1) << level) - 1))
        return "what is kept of the base lies across nodes, or behind the end";
    if (content_is_zero(head->digest))
        return "zeroes are kept, which no ferry writes";
    return NULL;
}

/* A line that the next page must have, and its node for the tree. */
static void note_line(struct image_reader *r, const struct page_line *line)
{
    struct image_section *section = &table_last(&r->table)->section;
    unsigned level = content_level(section->chunk_bytes) + line->level;

    if (!r->page_count++)
        r->page_first = line->index;
    page_line_write(&r->page, line);
    content_add(&r->tree, line->index >> line->level, level, line->digest);
    section->chunks++;
}

/* A chunk of the base, as one of the section at hand. */
static int deliver_kept(void *opaque, const struct image_section *below, uint64_t offset,
                        const uint8_t *data, size_t size, struct ferry_error *err)
{
    struct image_reader *r = opaque;
    const struct image_section *section = &table_last(&r->table)->section;
    uint32_t room = section_chunk_bytes(section, offset / section->chunk_bytes);

    (void)below;
    return r->visitor->chunk(r->opaque, section, offset, data, size < room ? size : room, err);
}

/* What is kept must be what the base has; chunks in work come before it. */
static int take_kept(struct image_reader *r, const struct chunk_head *head, struct ferry_error *err)
{
    struct image_section *section = &table_last(&r->table)->section;
    struct page_line line = {
        .index = head->index, .codec = CODEC_KEPT, .level = (uint8_t)head->stored_bytes};
    uint64_t count = UINT64_C(1) << line.level;
    int64_t below = image_base_section(r->base, section);
    uint8_t node[SHA256_BYTES];

    if (below < 0)
        return reader_refuse_chunk(r, head->index,
                                   "the base has no such section, or one with other chunks", err);
    int error = reader_deliver_all(r, err);
    if (!error)
        error = image_node(r->base, (uint32_t)below, head->index, line.level, node, err);
    if (error)
        return error;
    if (memcmp(node, head->digest, SHA256_BYTES))
        return reader_refuse_chunk(r, head->index, "the base has other content there", err);
    if (r->visitor->chunk)
        error = image_walk_range(r->base, (uint32_t)below, count < 16 ? 1 : 0, head->index,
                                 head->index + count, deliver_kept, r, err);
    memcpy(line.digest, head->digest, SHA256_BYTES);
    note_line(r, &line);
    r->next_index = head->index + count;
    return error ? error : r->page.error ? reader_no_memory(r, err) : 0;
}

static void note_chunk(struct image_reader *r, const struct chunk_head *head, uint64_t offset)
{
    struct image_section *section = &table_last(&r->table)->section;
    bool same = head->codec == CODEC_SAME;
    struct page_line line = {.index = head->index,
                             .offset = same ? head->sum : offset,
                             .stored_bytes = head->stored_bytes,
                             .codec = (uint8_t)head->codec};

    memcpy(line.digest, head->digest, SHA256_BYTES);
    note_line(r, &line);
    r->next_index = head->index + 1;
    section->content_bytes += head->content_bytes;
    section->stored_bytes += same ? 0 : head->stored_bytes;
}

/* Reading failed.  Chunks in work come before that place: they are handed on, and if one of them
 * turns out damaged, that is the error. */
int reader_earlier_damage(struct image_reader *r, int error, struct ferry_error *err)
{
    struct ferry_error earlier = {0};

    while (r->decode.busy) {
        int worse = deliver_oldest(r, &earlier);
        if (worse && err)
            *err = earlier;
        if (worse)
            return worse;
    }
    return error;
}

/* The stored bytes of the chunk that head refers to, out of what has passed by. */
static const char *recall_chunk(struct image_reader *r, const struct chunk_head *head,
                                struct decode_slot *slot)
{
    uint8_t record[CHUNK_RECORD_MOST_BYTES];
    size_t record_bytes = chunk_record_bytes(r->seal);
    struct chunk_head equal;

    if (!input_recall(&r->in, head->sum, record, record_bytes))
        return "it refers to a chunk out of reach";
    if (chunk_record_read(record, head->sum, r->seal, &equal) || equal.codec != CODEC_ZSTD ||
        equal.content_bytes != head->content_bytes || equal.stored_bytes != head->stored_bytes ||
        memcmp(equal.digest, head->digest, SHA256_BYTES))
        return "it refers to what is no equal chunk";
    if (!input_recall(&r->in, head->sum + record_bytes, slot->stored,
                      chunk_stored_bytes(r->seal, head->stored_bytes)))
        return "it refers to a chunk out of reach";
    slot->sum = equal.sum;
    slot->seal_section = equal.section;
    slot->seal_index = equal.index;
    slot->seal_offset = head->sum + record_bytes;
    return NULL;
}

/* The stored bytes of a chunk into slot, from behind its head or from before. */
static int take_stored(struct image_reader *r, const struct chunk_head *head,
                       struct decode_slot *slot, struct ferry_error *err)
{
    slot->index = head->index;
    slot->content_bytes = head->content_bytes;
    slot->stored_bytes = head->stored_bytes;
    slot->sum = head->sum;
    slot->key = r->seal ? &r->seal->key : NULL;
    slot->seal_section = head->section;
    slot->seal_index = head->index;
    slot->seal_offset = r->in.position;
    memcpy(slot->digest, head->digest, SHA256_BYTES);
    if (head->codec == CODEC_SAME) {
        const char *wrong = recall_chunk(r, head, slot);
        return wrong ? reader_refuse_chunk(r, head->index, wrong, err) : 0;
    }
    int error =
        input_read(&r->in, slot->stored, chunk_stored_bytes(r->seal, slot->stored_bytes), err);
    return error ? reader_earlier_damage(r, error, err) : 0;
}

int reader_chunk(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    struct chunk_head head;
    struct decode_slot *slot;

    chunk_head_read(body, &head);
    if (body->error || reader_left(body))
        return reader_refuse(r, "the head of a chunk", "it has an impossible length", err);
    bool kept = head.codec == CODEC_KEPT;
    const char *wrong =
        kept ? wrong_with_kept(r, &head) : wrong_with_chunk(r, &head, record->offset);
    if (wrong)
        return reader_refuse_chunk(r, head.index, wrong, err);
    if (kept)
        return take_kept(r, &head, err);
    int error = decode_full(&r->decode) ? deliver_oldest(r, err) : 0;
    if (error)
        return error;
    if (decode_slot(&r->decode, &slot))
        return reader_no_memory(r, err);
    error = take_stored(r, &head, slot, err);
    if (error)
        return error;
    decode_submit(&r->decode, slot);
    note_chunk(r, &head, record->offset);
    return r->page.error ? reader_no_memory(r, err) : 0;
}

/*
 * The writer: records go out in order; chunks are summed and compressed by the pool meanwhile.
 *
 * Chunks in work sit in a ring of slots.  A new chunk takes the slot behind the youngest; when all
 * are taken, the oldest is waited for and written first, so that the order of the file is that of
 * the calls whatever the number of workers, and memory is bounded by the ring.
 */
#include "imagefmt/image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include <zstd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/pool.h"
#include "common/zero.h"
#include "imagefmt/chunk.h"
#include "imagefmt/content.h"
#include "imagefmt/encode.h"
#include "imagefmt/format.h"
#include "imagefmt/keep.h"
#include "imagefmt/record.h"
#include "imagefmt/same.h"
#include "imagefmt/sign.h"
#include "imagefmt/table.h"

#define SLOTS_PER_WORKER  4
#define INDEX_LIMIT_BYTES (512 * MIB) /* 24 bytes for 1024 chunks: 85 TiB of 4 KiB chunks */

struct image_writer {
    int fd;
    int level;
    uint64_t offset; /* bytes written */
    uint64_t content_bytes;
    bool broken; /* an error has been returned */
    struct pool *pool;
    struct encode_slot *slots;
    unsigned slot_count; /* allocated */
    unsigned slots_used; /* of them, for the chunk size of this section */
    unsigned oldest, busy;
    struct table table;
    struct same_table *same;
    const struct signing_key *signer;
    struct seal *seal;    /* NULL: the image is not sealed */
    struct writer record; /* the record being made */
    struct writer page;   /* entries of the page being filled */
    struct writer index;  /* entries of the index so far */
    uint64_t page_first;  /* index of the page's first chunk */
    uint32_t page_count;
    bool open; /* a data section is */
    uint64_t next_index;
    struct content_tree tree; /* of the open section */
    struct image *base;       /* what the image builds on; NULL: nothing */
    struct keep keep;         /* what the open section keeps of it */
};

static int broken(struct image_writer *w, int error)
{
    w->broken = true;
    return error;
}

static int usage(struct image_writer *w, struct ferry_error *err, const char *about,
                 const char *message)
{
    return broken(w, ferry_usage(err, about, "%s", message));
}

static int no_memory(struct image_writer *w, struct ferry_error *err)
{
    return broken(w, ferry_fail(err, -ENOMEM, NULL, "out of memory"));
}

/* An image that has failed, or a call in the wrong place, is a bug of the caller. */
static int check_state(struct image_writer *w, bool want_open, struct ferry_error *err)
{
    if (w->broken)
        return ferry_usage(err, "image writer", "an earlier call has failed");
    if (w->open != want_open)
        return usage(w, err, "image writer",
                     want_open ? "no section is open" : "a section is open");
    return 0;
}

/* Begin the next record; its body goes to what is returned. */
static struct writer *begin(struct image_writer *w, enum record_tag tag)
{
    record_begin(&w->record, tag, w->offset);
    return &w->record;
}

/* End the record and write it with the size bytes behind it. */
static int write_with(struct image_writer *w, const struct seal *seal, uint8_t *behind, size_t size,
                      struct ferry_error *err)
{
    record_end(&w->record, seal);
    if (w->record.error)
        return no_memory(w, err);
    struct iovec iov[] = {{w->record.data, w->record.size}, {behind, size}};
    int error = writev_all(w->fd, iov, size ? 2 : 1);
    if (error)
        return broken(w, ferry_fail_sys(err, error, NULL, "cannot write the image"));
    w->offset += w->record.size + size;
    return 0;
}

static int record_write(struct image_writer *w, uint8_t *behind, size_t size,
                        struct ferry_error *err)
{
    return write_with(w, w->seal, behind, size, err);
}

static int write_crypt(struct image_writer *w, const struct image_secret *secret, uint32_t flags,
                       struct ferry_error *err)
{
    struct seal_params params;

    int error = seal_make(secret, flags, &params, &w->seal, err);
    if (error)
        return broken(w, error);
    seal_params_write(begin(w, RECORD_CRYPT), &params);
    return write_with(w, NULL, NULL, 0, err);
}

static int write_header(struct image_writer *w, const struct image_secret *secret,
                        struct ferry_error *err)
{
    uint32_t flags = (secret ? HEADER_SEALED : 0) | (w->base ? HEADER_CHILD : 0);
    struct writer *body = begin(w, RECORD_HEADER);

    writer_copy(body, HEADER_MAGIC, HEADER_MAGIC_BYTES);
    writer_u32(body, IMAGE_VERSION);
    writer_u32(body, flags);
    int error = record_write(w, NULL, 0, err);
    return error || !secret ? error : write_crypt(w, secret, flags, err);
}

static int write_base(struct image_writer *w, struct ferry_error *err)
{
    if (!w->base)
        return 0;
    writer_copy(begin(w, RECORD_BASE), image_summary(w->base)->root, SHA256_BYTES);
    return record_write(w, NULL, 0, err);
}

static int write_manifest(struct image_writer *w, const char *manifest, size_t size,
                          struct ferry_error *err)
{
    if (size > LIMIT_MANIFEST_BYTES)
        return usage(w, err, "manifest", "is too large");
    w->table.manifest_offset = w->offset;
    w->table.manifest_size = size;
    sha256(manifest, size, w->table.manifest_digest);
    writer_copy(begin(w, RECORD_MANIFEST), manifest, size);
    return record_write(w, NULL, 0, err);
}

static int writer_start(struct image_writer *w, const struct image_writer_options *options,
                        const char *manifest, size_t manifest_size, struct ferry_error *err)
{
    w->signer = options ? options->signer : NULL;
    w->level = options && options->level ? options->level : IMAGE_LEVEL_DEFAULT;
    if (w->level < IMAGE_LEVEL_MIN || w->level > IMAGE_LEVEL_MAX)
        return ferry_usage(err, "compression level", "must lie within %d and %d", IMAGE_LEVEL_MIN,
                           IMAGE_LEVEL_MAX);
    int error = pool_create(options ? options->workers : 0, &w->pool, err);
    if (error)
        return error;
    w->slot_count = pool_workers(w->pool) * SLOTS_PER_WORKER;
    w->slots = calloc(w->slot_count, sizeof(*w->slots));
    w->same = same_new();
    if (!w->slots || !w->same)
        return no_memory(w, err);
    w->base = options ? options->base : NULL;
    error = write_header(w, options ? options->secret : NULL, err);
    if (!error)
        error = write_base(w, err);
    return error ? error : write_manifest(w, manifest, manifest_size, err);
}

int image_writer_create(int fd, const struct image_writer_options *options, const char *manifest,
                        size_t manifest_size, struct image_writer **out, struct ferry_error *err)
{
    struct image_writer *w = calloc(1, sizeof(*w));

    if (!w)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    w->fd = fd;
    w->record = writer_init(RECORD_LIMIT_BYTES);
    w->page = writer_init(RECORD_LIMIT_BYTES);
    w->index = writer_init(INDEX_LIMIT_BYTES);
    int error = writer_start(w, options, manifest, manifest_size, err);
    if (error) {
        image_writer_destroy(w);
        return error;
    }
    *out = w;
    return 0;
}

static int add_section(struct image_writer *w, const struct image_section *section,
                       struct ferry_error *err)
{
    const char *reason;
    int error = table_add(&w->table, section, w->offset, &reason);

    if (error == -ENOMEM)
        return no_memory(w, err);
    return error ? usage(w, err, section->name, reason) : 0;
}

static int set_name(struct image_writer *w, struct image_section *section, const char *name,
                    struct ferry_error *err)
{
    size_t size = strlen(name);

    if (size >= sizeof(section->name))
        return usage(w, err, name, "is too long for the name of a section");
    memcpy(section->name, name, size + 1);
    return 0;
}

int image_writer_state(struct image_writer *w, const char *name, uint16_t version, const void *data,
                       size_t size, struct ferry_error *err)
{
    struct image_section section = {.kind = IMAGE_STATE, .version = version, .size = size};

    int error = check_state(w, false, err);
    if (!error)
        error = set_name(w, &section, name, err);
    if (!error)
        error = add_section(w, &section, err);
    if (error)
        return error;
    sha256(data, size, table_last(&w->table)->section.digest);
    struct writer *body = begin(w, RECORD_STATE);
    writer_u32(body, w->table.count - 1);
    writer_u16(body, version);
    writer_u8(body, 0);
    writer_u8(body, (uint8_t)strlen(name));
    writer_copy(body, name, strlen(name));
    writer_copy(body, data, size);
    return record_write(w, NULL, 0, err);
}

/* As many slots as LIMIT_IN_FLIGHT_BYTES allows for this chunk size, two at least. */
static unsigned slots_for(const struct image_writer *w, uint32_t chunk_bytes)
{
    uint64_t most = LIMIT_IN_FLIGHT_BYTES / (2 * (uint64_t)chunk_bytes);

    most = most < 2 ? 2 : most;
    return w->slot_count < most ? w->slot_count : (unsigned)most;
}

static int write_kept(void *opaque, uint64_t index, unsigned level,
                      const uint8_t digest[SHA256_BYTES], struct ferry_error *err);

int image_writer_begin(struct image_writer *w, enum image_section_kind kind, const char *name,
                       uint64_t size, uint32_t chunk_bytes, struct ferry_error *err)
{
    struct image_section section = {.kind = kind, .size = size, .chunk_bytes = chunk_bytes};

    int error = check_state(w, false, err);
    if (!error && kind == IMAGE_STATE)
        error = usage(w, err, name, "is a state section, not one of data");
    if (!error)
        error = set_name(w, &section, name, err);
    if (!error)
        error = add_section(w, &section, err);
    if (error)
        return error;
    w->tree = (struct content_tree){0};
    w->open = true;
    w->next_index = 0;
    w->slots_used = slots_for(w, chunk_bytes);
    w->keep = (struct keep){.base = w->base, .node = write_kept, .opaque = w};
    keep_begin(&w->keep, &section);
    w->oldest = 0;
    struct writer *body = begin(w, RECORD_DATA);
    writer_u32(body, w->table.count - 1);
    writer_u8(body, (uint8_t)kind);
    writer_u8(body, 0);
    writer_u8(body, 0);
    writer_u8(body, (uint8_t)strlen(name));
    writer_u32(body, chunk_bytes);
    writer_u64(body, size);
    writer_copy(body, name, strlen(name));
    return record_write(w, NULL, 0, err);
}

static int write_page(struct image_writer *w, struct ferry_error *err)
{
    uint64_t offset = w->offset;

    struct writer *body = begin(w, RECORD_PAGE);
    writer_u32(body, w->table.count - 1);
    writer_u32(body, w->page_count);
    writer_copy(body, w->page.data, w->page.size);
    body->error = body->error ? body->error : w->page.error;
    int error = record_write(w, NULL, 0, err);
    if (error)
        return error;
    index_entry(&w->index, w->table.count - 1, w->page_count, w->page_first, offset);
    w->table.pages++;
    w->page_count = 0;
    writer_reset(&w->page);
    return w->index.error ? no_memory(w, err) : 0;
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
    return w->page_count == PAGE_CHUNKS ? write_page(w, err) : 0;
}

/* A node of the tree that is as in the base. */
static int write_kept(void *opaque, uint64_t index, unsigned level,
                      const uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    struct image_writer *w = opaque;
    struct chunk_head head = {
        .section = w->table.count - 1, .codec = CODEC_KEPT, .index = index, .stored_bytes = level};
    struct page_line line = {.index = index, .codec = CODEC_KEPT, .level = (uint8_t)level};

    memcpy(head.digest, digest, SHA256_BYTES);
    memcpy(line.digest, digest, SHA256_BYTES);
    chunk_head_write(begin(w, RECORD_CHUNK), &head);
    int error = record_write(w, NULL, 0, err);
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

    chunk_head_write(begin(w, RECORD_CHUNK), &head);
    uint8_t *behind = slot->stored;
    if (w->seal) {
        behind -= RECORD_HEAD_BYTES;
        uint64_t offset = w->offset + chunk_record_bytes(true);
        record_wrap(behind, slot->stored_bytes + SEAL_TAG_BYTES, RECORD_SEAL, offset);
    }
    int error = record_write(w, behind, chunk_stored_bytes(w->seal, head.stored_bytes), err);
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
    chunk_head_write(begin(w, RECORD_CHUNK), &head);
    int error = record_write(w, NULL, 0, err);
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
        return broken(w, ferry_fail_sys(err, slot->read_error, table_last(&w->table)->section.name,
                                        "cannot read at byte %" PRIu64, slot->offset));
    if (slot->zero)
        return 0;
    if (!slot->kept && ZSTD_isError(slot->stored_bytes))
        return broken(w, ferry_fail(err, -EIO, NULL, "cannot compress: %s",
                                    ZSTD_getErrorName(slot->stored_bytes)));
    if (slot->not_sealed)
        return broken(w, ferry_fail(err, -EIO, NULL, "cannot seal: libcrypto failed"));
    int error = keep_chunk(&w->keep, slot->index, slot->kept, err);
    if (error || slot->kept)
        return error ? broken(w, error) : 0;
    const struct same_chunk *same =
        same_find(w->same, slot->digest, slot->content_bytes, w->offset);
    error = same ? write_same(w, slot, same, err) : write_stored(w, slot, err);
    return error ? error : page_if_full(w, err);
}

static int drain(struct image_writer *w, struct ferry_error *err)
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
    int error = check_state(w, true, err);
    if (error)
        return error;
    const struct image_section *section = &table_last(&w->table)->section;
    *size = section_chunk_bytes(section, index);
    if (!*size || index < w->next_index)
        return usage(w, err, section->name, *size ? "chunks must ascend" : "chunk behind the end");
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
    struct encode_slot *slot = &w->slots[(w->oldest + w->busy) % w->slots_used];
    slot->key = w->seal ? &w->seal->key : NULL;
    slot->section = w->table.count - 1;
    slot->not_sealed = false;
    if (encode_prepare(slot, section->chunk_bytes, w->level))
        return no_memory(w, err);
    slot->index = index;
    slot->content_bytes = size;
    slot->level = content_level(section->chunk_bytes);
    slot->offset = index * section->chunk_bytes;
    slot->read = NULL;
    slot->read_error = 0;
    slot->zero = slot->kept = false;
    int found = keep_digest(&w->keep, index, slot->base_digest, err);
    slot->has_base = found > 0;
    *out = slot;
    return found < 0 ? broken(w, found) : 0;
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

int image_writer_end(struct image_writer *w, struct ferry_error *err)
{
    int error = check_state(w, true, err);
    if (!error)
        error = drain(w, err);
    if (!error && (error = keep_end(&w->keep, err)))
        w->broken = true;
    if (!error && w->page_count)
        error = write_page(w, err);
    if (error)
        return error;
    struct table_entry *entry = table_last(&w->table);
    content_digest(&w->tree, entry->section.size, entry->section.digest);
    w->open = false;
    table_end_body(&w->table, begin(w, RECORD_END));
    return record_write(w, NULL, 0, err);
}

static int write_index(struct image_writer *w, struct ferry_error *err)
{
    struct reader entries = reader_init(w->index.data, w->index.size);
    size_t record = INDEX_ENTRIES * INDEX_ENTRY_BYTES;

    while (reader_left(&entries)) {
        size_t size = reader_left(&entries) < record ? reader_left(&entries) : record;
        struct writer *body = begin(w, RECORD_INDEX);
        writer_u32(body, (uint32_t)(size / INDEX_ENTRY_BYTES));
        writer_copy(body, reader_take(&entries, size), size);
        int error = record_write(w, NULL, 0, err);
        if (error)
            return error;
    }
    return 0;
}

static int write_signature(struct image_writer *w, const uint8_t root[SHA256_BYTES],
                           struct ferry_error *err)
{
    int error = signature_write(w->signer, root, begin(w, RECORD_SIGNATURE), err);

    return error ? broken(w, error) : record_write(w, NULL, 0, err);
}

int image_writer_finish(struct image_writer *w, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    uint8_t identity[SHA256_BYTES];
    uint64_t index_offset = w->offset;

    int error = check_state(w, false, err);
    if (!error)
        error = write_index(w, err);
    if (!error && table_root(&w->table, identity))
        error = no_memory(w, err);
    if (error)
        return error;
    uint64_t root_offset = w->offset;
    table_root_body(&w->table, identity, begin(w, RECORD_ROOT));
    error = record_write(w, NULL, 0, err);
    if (error)
        return error;
    uint64_t footer_end = w->offset + FOOTER_RECORD_BYTES + (w->seal ? SEAL_TAG_BYTES : 0);
    table_footer_body(&w->table, index_offset, root_offset, footer_end, identity,
                      begin(w, RECORD_FOOTER));
    error = record_write(w, NULL, 0, err);
    if (!error && w->signer)
        error = write_signature(w, identity, err);
    w->broken = true; /* nothing may follow */
    if (root)
        memcpy(root, identity, SHA256_BYTES);
    return error;
}

uint64_t image_writer_bytes(const struct image_writer *w)
{
    return w->offset;
}

uint64_t image_writer_content_bytes(const struct image_writer *w)
{
    return w->content_bytes;
}

void image_writer_destroy(struct image_writer *w)
{
    if (!w)
        return;
    pool_destroy(w->pool); /* waits for chunks in work */
    for (unsigned i = 0; w->slots && i < w->slot_count; i++)
        encode_release(&w->slots[i]);
    free(w->slots);
    same_free(w->same);
    seal_free(w->seal);
    table_free(&w->table);
    writer_free(&w->record);
    writer_free(&w->page);
    writer_free(&w->index);
    free(w);
}

/*
 * The writer: records go out in order; chunks are summed and compressed by the pool meanwhile.
 *
 * Chunks in work sit in a ring of slots.  A new chunk takes the slot behind the youngest; when all
 * are taken, the oldest is waited for and written first, so that the order of the file is that of
 * the calls whatever the number of workers, and memory is bounded by the ring.
 */
#include "imagefmt/writer.h"

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

int writer_broken(struct image_writer *w, int error)
{
    w->broken = true;
    return error;
}

int writer_usage(struct image_writer *w, struct ferry_error *err, const char *about,
                 const char *message)
{
    return writer_broken(w, ferry_usage(err, about, "%s", message));
}

int writer_no_memory(struct image_writer *w, struct ferry_error *err)
{
    return writer_broken(w, ferry_fail(err, -ENOMEM, NULL, "out of memory"));
}

/* An image that has failed, or a call in the wrong place, is a bug of the caller. */
int writer_check(struct image_writer *w, bool want_open, struct ferry_error *err)
{
    if (w->broken)
        return ferry_usage(err, "image writer", "an earlier call has failed");
    if (w->open != want_open)
        return writer_usage(w, err, "image writer",
                            want_open ? "no section is open" : "a section is open");
    return 0;
}

/* Begin the next record; its body goes to what is returned. */
struct writer *writer_begin_record(struct image_writer *w, enum record_tag tag)
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
        return writer_no_memory(w, err);
    struct iovec iov[] = {{w->record.data, w->record.size}, {behind, size}};
    int error = writev_all(w->fd, iov, size ? 2 : 1);
    if (error)
        return writer_broken(w, ferry_fail_sys(err, error, NULL, "cannot write the image"));
    w->offset += w->record.size + size;
    file_begin_writeback(w->fd, &w->begun, w->offset);
    return 0;
}

int writer_put_record(struct image_writer *w, uint8_t *behind, size_t size, struct ferry_error *err)
{
    return write_with(w, w->seal, behind, size, err);
}

static int write_crypt(struct image_writer *w, const struct image_secret *secret, uint32_t flags,
                       struct ferry_error *err)
{
    struct seal_params params;

    int error = seal_make(secret, flags, &params, &w->seal, err);
    if (error)
        return writer_broken(w, error);
    seal_params_write(writer_begin_record(w, RECORD_CRYPT), &params);
    return write_with(w, NULL, NULL, 0, err);
}

static int write_header(struct image_writer *w, const struct image_secret *secret,
                        struct ferry_error *err)
{
    uint32_t flags = (secret ? HEADER_SEALED : 0) | (w->base ? HEADER_CHILD : 0);
    struct writer *body = writer_begin_record(w, RECORD_HEADER);

    writer_copy(body, HEADER_MAGIC, HEADER_MAGIC_BYTES);
    writer_u32(body, IMAGE_VERSION);
    writer_u32(body, flags);
    int error = writer_put_record(w, NULL, 0, err);
    return error || !secret ? error : write_crypt(w, secret, flags, err);
}

static int write_base(struct image_writer *w, struct ferry_error *err)
{
    if (!w->base)
        return 0;
    writer_copy(writer_begin_record(w, RECORD_BASE), image_summary(w->base)->root, SHA256_BYTES);
    return writer_put_record(w, NULL, 0, err);
}

static int write_manifest(struct image_writer *w, const char *manifest, size_t size,
                          struct ferry_error *err)
{
    if (size > LIMIT_MANIFEST_BYTES)
        return writer_usage(w, err, "manifest", "is too large");
    w->table.manifest_offset = w->offset;
    w->table.manifest_size = size;
    sha256(manifest, size, w->table.manifest_digest);
    writer_copy(writer_begin_record(w, RECORD_MANIFEST), manifest, size);
    return writer_put_record(w, NULL, 0, err);
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
        return writer_no_memory(w, err);
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
        return writer_no_memory(w, err);
    return error ? writer_usage(w, err, section->name, reason) : 0;
}

static int set_name(struct image_writer *w, struct image_section *section, const char *name,
                    struct ferry_error *err)
{
    size_t size = strlen(name);

    if (size >= sizeof(section->name))
        return writer_usage(w, err, name, "is too long for the name of a section");
    memcpy(section->name, name, size + 1);
    return 0;
}

int image_writer_state(struct image_writer *w, const char *name, uint16_t version, const void *data,
                       size_t size, struct ferry_error *err)
{
    struct image_section section = {.kind = IMAGE_STATE, .version = version, .size = size};

    int error = writer_check(w, false, err);
    if (!error)
        error = set_name(w, &section, name, err);
    if (!error)
        error = add_section(w, &section, err);
    if (error)
        return error;
    sha256(data, size, table_last(&w->table)->section.digest);
    struct writer *body = writer_begin_record(w, RECORD_STATE);
    writer_u32(body, w->table.count - 1);
    writer_u16(body, version);
    writer_u8(body, 0);
    writer_u8(body, (uint8_t)strlen(name));
    writer_copy(body, name, strlen(name));
    writer_copy(body, data, size);
    return writer_put_record(w, NULL, 0, err);
}

/* As many slots as LIMIT_IN_FLIGHT_BYTES allows for this chunk size, two at least. */
static unsigned slots_for(const struct image_writer *w, uint32_t chunk_bytes)
{
    uint64_t most = LIMIT_IN_FLIGHT_BYTES / (2 * (uint64_t)chunk_bytes);

    most = most < 2 ? 2 : most;
    return w->slot_count < most ? w->slot_count : (unsigned)most;
}

int image_writer_begin(struct image_writer *w, enum image_section_kind kind, const char *name,
                       uint64_t size, uint32_t chunk_bytes, struct ferry_error *err)
{
    struct image_section section = {.kind = kind, .size = size, .chunk_bytes = chunk_bytes};

    int error = writer_check(w, false, err);
    if (!error && kind == IMAGE_STATE)
        error = writer_usage(w, err, name, "is a state section, not one of data");
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
    w->keep = (struct keep){.base = w->base, .node = writer_kept, .opaque = w};
    keep_begin(&w->keep, &section);
    w->oldest = 0;
    struct writer *body = writer_begin_record(w, RECORD_DATA);
    writer_u32(body, w->table.count - 1);
    writer_u8(body, (uint8_t)kind);
    writer_u8(body, 0);
    writer_u8(body, 0);
    writer_u8(body, (uint8_t)strlen(name));
    writer_u32(body, chunk_bytes);
    writer_u64(body, size);
    writer_copy(body, name, strlen(name));
    return writer_put_record(w, NULL, 0, err);
}

int image_writer_end(struct image_writer *w, struct ferry_error *err)
{
    int error = writer_check(w, true, err);
    if (!error)
        error = writer_drain(w, err);
    if (!error && (error = keep_end(&w->keep, err)))
        w->broken = true;
    if (!error && w->page_count)
        error = writer_page(w, err);
    if (error)
        return error;
    struct table_entry *entry = table_last(&w->table);
    content_digest(&w->tree, entry->section.size, entry->section.digest);
    w->open = false;
    table_end_body(&w->table, writer_begin_record(w, RECORD_END));
    return writer_put_record(w, NULL, 0, err);
}

static int write_index(struct image_writer *w, struct ferry_error *err)
{
    struct reader entries = reader_init(w->index.data, w->index.size);
    size_t record = INDEX_ENTRIES * INDEX_ENTRY_BYTES;

    while (reader_left(&entries)) {
        size_t size = reader_left(&entries) < record ? reader_left(&entries) : record;
        struct writer *body = writer_begin_record(w, RECORD_INDEX);
        writer_u32(body, (uint32_t)(size / INDEX_ENTRY_BYTES));
        writer_copy(body, reader_take(&entries, size), size);
        int error = writer_put_record(w, NULL, 0, err);
        if (error)
            return error;
    }
    return 0;
}

static int write_signature(struct image_writer *w, const uint8_t root[SHA256_BYTES],
                           struct ferry_error *err)
{
    int error = signature_write(w->signer, root, writer_begin_record(w, RECORD_SIGNATURE), err);

    return error ? writer_broken(w, error) : writer_put_record(w, NULL, 0, err);
}

int image_writer_finish(struct image_writer *w, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    uint8_t identity[SHA256_BYTES];
    uint64_t index_offset = w->offset;

    int error = writer_check(w, false, err);
    if (!error)
        error = write_index(w, err);
    if (!error && table_root(&w->table, identity))
        error = writer_no_memory(w, err);
    if (error)
        return error;
    uint64_t root_offset = w->offset;
    table_root_body(&w->table, identity, writer_begin_record(w, RECORD_ROOT));
    error = writer_put_record(w, NULL, 0, err);
    if (error)
        return error;
    uint64_t footer_end = w->offset + FOOTER_RECORD_BYTES + (w->seal ? SEAL_TAG_BYTES : 0);
    table_footer_body(&w->table, index_offset, root_offset, footer_end, identity,
                      writer_begin_record(w, RECORD_FOOTER));
    error = writer_put_record(w, NULL, 0, err);
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

void image_writer_settle(struct image_writer *w)
{
    pool_wait_all(w->pool);
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

/*
 * The sequential reader: a table says which record may come in which phase and who takes it; what
 * sums the image up (pages, index, section table, footer) is made anew from what was met and must
 * equal the file's bytes.
 *
 *     HEADER CRYPT? BASE? MANIFEST (STATE | DATA (CHUNK | PAGE)* END)* INDEX* ROOT FOOTER
 * SIGNATURE*, and nothing more
 */
#include "imagefmt/reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/access.h"
#include "imagefmt/chunk.h"
#include "imagefmt/content.h"
#include "imagefmt/decode.h"
#include "imagefmt/format.h"
#include "imagefmt/input.h"
#include "imagefmt/scrub.h"
#include "imagefmt/sign.h"
#include "imagefmt/table.h"

static int refuse_section(struct image_reader *r, const char *name, const char *why,
                          struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, r->in.about, "section %s %s", name, why);
}

int reader_refuse(struct image_reader *r, const char *what, const char *why,
                  struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, r->in.about, "%s is damaged: %s", what, why);
}

int reader_no_memory(struct image_reader *r, struct ferry_error *err)
{
    return ferry_fail(err, -ENOMEM, r->in.about, "out of memory");
}

int reader_refuse_chunk(struct image_reader *r, uint64_t index, const char *why,
                        struct ferry_error *err)
{
    const struct image_section *section = &table_last(&r->table)->section;
    char where[160];

    return reader_refuse(
        r, image_place(section, index * section->chunk_bytes, where, sizeof(where)), why, err);
}

static bool body_equals(const struct reader *body, const struct writer *expected)
{
    struct reader copy = *body;
    size_t size = reader_left(&copy);

    return size == expected->size && !memcmp(reader_take(&copy, size), expected->data, size);
}

/* What comes behind HEAD and CRYP. */
static enum phase after_crypt(const struct image_reader *r)
{
    return r->flags & HEADER_CHILD ? IN_BASE : IN_MANIFEST;
}

static int on_header(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    const uint8_t *magic = reader_take(body, HEADER_MAGIC_BYTES);
    uint32_t version = reader_u32(body);
    uint32_t flags = reader_u32(body);

    if (body->error || memcmp(magic, HEADER_MAGIC, HEADER_MAGIC_BYTES))
        return ferry_refuse(err, -EBADMSG, r->in.about, "is not a ferry image");
    if (version > IMAGE_VERSION)
        return ferry_refuse(err, -ENOTSUP, r->in.about,
                            "version %" PRIu32 " is newer than this ferry (reads up to %u)",
                            version, IMAGE_VERSION);
    if (!version || reader_left(body))
        return reader_refuse(r, "the header", "no such version", err);
    if (flags & ~(HEADER_SEALED | HEADER_CHILD))
        return ferry_refuse(err, -ENOTSUP, r->in.about,
                            "needs features that this ferry does not have (flags 0x%" PRIx32 ")",
                            flags);
    r->summary.version = version;
    r->flags = flags;
    r->phase = flags & HEADER_SEALED ? IN_CRYPT : after_crypt(r);
    return 0;
}

static int on_crypt(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct seal_params params;

    const char *wrong = seal_params_read(&record->body, &params);
    if (wrong)
        return reader_refuse(r, "the record of its sealing", wrong, err);
    if (r->env && r->env->scrub && !r->env->secret) {
        r->summary.sealed = r->summary.scrubbed = true;
        r->phase = COMPLETE;
        return scrub_rest(&r->in, r->visitor->progress, r->opaque, err);
    }
    int error = seal_unlock(&params, r->flags, r->in.about, r->env, &r->seal, err);
    if (error)
        return error;
    r->in.seal = r->seal;
    r->summary.sealed = true;
    r->phase = after_crypt(r);
    return 0;
}

static int on_base(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    r->summary.child = true;
    reader_copy(&record->body, r->summary.base, SHA256_BYTES);
    if (record->body.error || reader_left(&record->body))
        return reader_refuse(r, "the name of its base", "it has an impossible length", err);
    r->phase = IN_MANIFEST;
    return image_find_base(r->in.fd, r->in.about, r->summary.base, r->env, &r->base, err);
}

static int on_manifest(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    size_t size = reader_left(body);
    const uint8_t *json = reader_take(body, size);

    if (size > LIMIT_MANIFEST_BYTES)
        return reader_refuse(r, "the manifest", "it is larger than a manifest may be", err);
    r->table.manifest_offset = record->offset;
    r->table.manifest_size = size;
    sha256(json, size, r->table.manifest_digest);
    r->phase = IN_SECTIONS;
    if (!r->visitor->manifest)
        return 0;
    return r->visitor->manifest(r->opaque, (const char *)json, size, err);
}

static int add_section(struct image_reader *r, const struct image_section *section, uint32_t number,
                       uint64_t offset, struct ferry_error *err)
{
    const char *reason;

    if (number != r->table.count)
        return refuse_section(r, section->name, "is not at its place", err);
    int error = table_add(&r->table, section, offset, &reason);
    if (error == -ENOMEM)
        return reader_no_memory(r, err);
    if (!error)
        return 0;
    /* The name has not been looked at yet: a bad one is not to be printed. */
    char about[96];
    snprintf(about, sizeof(about), "number %" PRIu32, number);
    bool named = section_name_valid(section->name);
    return refuse_section(r, named ? section->name : about, reason, err);
}

static int on_state(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    struct image_section section = {.kind = IMAGE_STATE};

    uint32_t number = reader_u32(body);
    section.version = reader_u16(body);
    uint8_t zero = reader_u8(body);
    if (!section_read_name(body, reader_u8(body), &section) || zero)
        return reader_refuse(r, "a state section", "its head makes no sense", err);
    section.size = reader_left(body);
    int error = add_section(r, &section, number, record->offset, err);
    if (error)
        return error;
    const uint8_t *data = reader_take(body, section.size);
    sha256(data, section.size, table_last(&r->table)->section.digest);
    const struct image_section *added = &table_last(&r->table)->section;
    return r->visitor->state ? r->visitor->state(r->opaque, added, data, err) : 0;
}

static int on_data(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    struct image_section section = {0};

    uint32_t number = reader_u32(body);
    section.kind = reader_u8(body);
    uint16_t zero = reader_u16(body);
    uint8_t name_bytes = reader_u8(body);
    section.chunk_bytes = reader_u32(body);
    section.size = reader_u64(body);
    if (!section_read_name(body, name_bytes, &section) || zero || reader_left(body) ||
        section.kind == IMAGE_STATE)
        return reader_refuse(r, "a data section", "its head makes no sense", err);
    int error = add_section(r, &section, number, record->offset, err);
    if (error)
        return error;
    r->tree = (struct content_tree){0};
    r->phase = IN_DATA;
    r->next_index = 0;
    r->page_last = false;
    decode_begin(&r->decode, section.chunk_bytes);
    return r->visitor->begin ? r->visitor->begin(r->opaque, &section, err) : 0;
}

static int on_page(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    writer_reset(&r->expected);
    writer_u32(&r->expected, r->table.count - 1);
    writer_u32(&r->expected, r->page_count);
    writer_copy(&r->expected, r->page.data, r->page.size);
    if (r->expected.error)
        return reader_no_memory(r, err);
    if (!r->page_count || !body_equals(&record->body, &r->expected))
        return reader_refuse(r, "the index", "a page does not match the chunks before it", err);
    writer_reset(&r->expected);
    index_entry(&r->expected, r->table.count - 1, r->page_count, r->page_first, record->offset);
    sha256_update(r->index_met, r->expected.data, r->expected.size);
    r->page_last = r->page_count < PAGE_CHUNKS;
    r->page_count = 0;
    writer_reset(&r->page);
    r->table.pages++;
    return 0;
}

static int on_end(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct table_entry *entry = table_last(&r->table);

    int error = reader_deliver_all(r, err);
    if (error)
        return error;
    content_digest(&r->tree, entry->section.size, entry->section.digest);
    writer_reset(&r->expected);
    table_end_body(&r->table, &r->expected);
    if (r->expected.error)
        return reader_no_memory(r, err);
    if (r->page_count || !body_equals(&record->body, &r->expected))
        return refuse_section(r, entry->section.name, "does not match what its end says of it",
                              err);
    r->summary.chunks += entry->section.chunks;
    r->summary.content_bytes += entry->section.content_bytes;
    r->summary.stored_bytes += entry->section.stored_bytes;
    r->phase = IN_SECTIONS;
    return r->visitor->end ? r->visitor->end(r->opaque, &entry->section, err) : 0;
}

static int on_index(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    struct reader *body = &record->body;
    uint32_t count = reader_u32(body);
    size_t size = reader_left(body);

    if (!count || count > INDEX_ENTRIES || size != count * INDEX_ENTRY_BYTES ||
        r->index_entries % INDEX_ENTRIES)
        return reader_refuse(r, "the index", "it has an impossible length", err);
    if (count > r->table.pages - r->index_entries)
        return reader_refuse(r, "the index", "it has more entries than the image has pages", err);
    if (!r->index_offset)
        r->index_offset = record->offset;
    r->index_entries += count;
    sha256_update(r->index_read, reader_take(body, size), size);
    r->phase = IN_INDEX;
    return 0;
}

static bool index_matches(struct image_reader *r)
{
    uint8_t met[SHA256_BYTES], read[SHA256_BYTES];

    sha256_final(take_ptr(&r->index_met), met);
    sha256_final(take_ptr(&r->index_read), read);
    return r->index_entries == r->table.pages && !memcmp(met, read, sizeof(met));
}

static int on_root(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    if (!index_matches(r))
        return reader_refuse(r, "the index", "it does not match the chunks of the image", err);
    if (!r->index_offset)
        r->index_offset = record->offset;
    r->root_offset = record->offset;
    writer_reset(&r->expected);
    if (table_root(&r->table, r->root))
        return reader_no_memory(r, err);
    table_root_body(&r->table, r->root, &r->expected);
    if (r->expected.error)
        return reader_no_memory(r, err);
    if (!body_equals(&record->body, &r->expected))
        return reader_refuse(r, "the section table", "it does not match the content of the image",
                             err);
    r->phase = IN_FOOTER;
    return 0;
}

static int on_footer(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    writer_reset(&r->expected);
    table_footer_body(&r->table, r->index_offset, r->root_offset, r->in.position, r->root,
                      &r->expected);
    if (r->expected.error)
        return reader_no_memory(r, err);
    if (!body_equals(&record->body, &r->expected))
        return reader_refuse(r, "the footer", "it does not match the image before it", err);
    r->phase = IN_SIGNATURES;
    return 0;
}

static int on_signature(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    const char *wrong = signature_read(&record->body, r->root, &r->summary);

    return wrong ? reader_refuse(r, "a signature", wrong, err) : 0;
}

static const struct rule {
    enum record_tag tag;
    unsigned phases; /* in which it may come */
    int (*take)(struct image_reader *r, struct record *record, struct ferry_error *err);
} rules[] = {
    {RECORD_HEADER, IN_HEADER, on_header},
    {RECORD_CRYPT, IN_CRYPT, on_crypt},
    {RECORD_BASE, IN_BASE, on_base},
    {RECORD_MANIFEST, IN_MANIFEST, on_manifest},
    {RECORD_STATE, IN_SECTIONS, on_state},
    {RECORD_DATA, IN_SECTIONS, on_data},
    {RECORD_CHUNK, IN_DATA, reader_chunk},
    {RECORD_PAGE, IN_DATA, on_page},
    {RECORD_END, IN_DATA, on_end},
    {RECORD_INDEX, IN_SECTIONS | IN_INDEX, on_index},
    {RECORD_ROOT, IN_SECTIONS | IN_INDEX, on_root},
    {RECORD_FOOTER, IN_FOOTER, on_footer},
    {RECORD_SIGNATURE, IN_SIGNATURES, on_signature},
};

static int take_record(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++)
        if (rules[i].tag == record->tag && rules[i].phases & r->phase)
            return rules[i].take(r, record, err);
    if (r->phase == IN_HEADER)
        return ferry_refuse(err, -EBADMSG, r->in.about, "is not a ferry image");
    return ferry_refuse(err, -EBADMSG, r->in.about,
                        "is damaged: a record at byte %" PRIu64 " is out of place", record->offset);
}

/* Behind the footer there are signatures or nothing: 1 at the end. */
static int next_signature(struct image_reader *r, struct record *record, struct ferry_error *err)
{
    uint64_t at = r->in.position;

    int end = input_at_end(&r->in, err);
    if (end)
        return end;
    int error = input_record(&r->in, record, err);
    if (error == -EBADMSG || (!error && record->tag != RECORD_SIGNATURE))
        return ferry_refuse(
            err, -EBADMSG, r->in.about,
            "has more bytes behind its end at byte %" PRIu64 ", which are no whole signature", at);
    return error;
}

static int read_image(struct image_reader *r, struct ferry_error *err)
{
    struct record record;

    while (r->phase != COMPLETE) {
        bool last = r->phase == IN_SIGNATURES;
        int error = last ? next_signature(r, &record, err) : input_record(&r->in, &record, err);
        if (error > 0)
            return 0;
        if (error)
            return reader_earlier_damage(r, error, err);
        error = take_record(r, &record, err);
        if (error)
            return error;
        if (r->visitor->progress)
            r->visitor->progress(r->opaque, r->in.position);
    }
    return 0;
}

static int reader_open(struct image_reader *r, int fd, const char *about, unsigned workers,
                       struct ferry_error *err)
{
    r->phase = IN_HEADER;
    r->page = writer_init(RECORD_LIMIT_BYTES);
    r->expected = writer_init(RECORD_LIMIT_BYTES);
    int error = input_open(&r->in, fd, about, err);
    if (!error)
        error = decode_open(&r->decode, workers, err);
    if (error)
        return error;
    r->index_met = sha256_new();
    r->index_read = sha256_new();
    return r->index_met && r->index_read ? 0 : reader_no_memory(r, err);
}

static void reader_close(struct image_reader *r)
{
    decode_close(&r->decode);
    input_close(&r->in);
    table_free(&r->table);
    seal_free(r->seal);
    image_close(r->base);
    sha256_free(r->index_met);
    sha256_free(r->index_read);
    writer_free(&r->page);
    writer_free(&r->expected);
}

int image_read_behind(const void *head, size_t head_bytes, int fd, const char *about,
                      const struct image_environment *env, unsigned workers,
                      const struct image_visitor *visitor, void *opaque,
                      struct image_summary *summary, struct ferry_error *err)
{
    static const struct image_visitor nobody;
    CLEANUP(reader_close)
    struct image_reader r = {.visitor = visitor ? visitor : &nobody, .env = env, .opaque = opaque};

    int error = reader_open(&r, fd, about, workers, err);
    if (!error)
        error = input_unread(&r.in, head, head_bytes, err);
    if (!error)
        error = read_image(&r, err);
    if (error || !summary)
        return error;
    *summary = r.summary;
    summary->bytes = r.in.position;
    memcpy(summary->root, r.root, SHA256_BYTES);
    return 0;
}

int image_read(int fd, const char *about, const struct image_environment *env, unsigned workers,
               const struct image_visitor *visitor, void *opaque, struct image_summary *summary,
               struct ferry_error *err)
{
    return image_read_behind(NULL, 0, fd, about, env, workers, visitor, opaque, summary, err);
}

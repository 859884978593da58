/*
 * Opening an image for random access: from the footer at the end to the section table, from there
 * to header and manifest.  All of it must agree with itself and with the root, byte by byte, before
 * any of it is used; index and pages come later (lookup.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/access.h"
#include "imagefmt/record.h"
#include "imagefmt/sign.h"

#define TABLE_SECTIONS_LIMIT (LIMIT_SECTIONS + LIMIT_DISKS + LIMIT_FILES + 1)

int image_refuse(const struct image *image, const char *what, const char *why,
                 struct ferry_error *err)
{
    return ferry_refuse(err, -EBADMSG, image->about, "%s is damaged: %s", what, why);
}

int image_refuse_chunk(const struct image *image, const struct image_section *section,
                       uint64_t index, const char *why, struct ferry_error *err)
{
    char where[160];

    image_place(section, index * section->chunk_bytes, where, sizeof(where));
    return image_refuse(image, where, why, err);
}

int image_no_memory(const struct image *image, struct ferry_error *err)
{
    return ferry_fail(err, -ENOMEM, image->about, "out of memory");
}

static int read_at(const struct image *image, uint64_t offset, void *data, size_t size,
                   struct ferry_error *err)
{
    int error = pread_all(image->fd, data, size, offset);

    if (error == -ENODATA)
        return ferry_refuse(err, -EBADMSG, image->about, "has become shorter");
    return error ? ferry_fail_sys(err, error, image->about, "cannot read the image") : 0;
}

/* The whole record into image->record, its length within bounds. */
static int load_record(struct image *image, uint64_t offset, uint64_t end, const char *what,
                       struct ferry_error *err)
{
    uint8_t head[RECORD_FRAME_BYTES];

    writer_reset(&image->record);
    if (offset > end || end - offset < RECORD_LEAST_BYTES)
        return image_refuse(image, what, "it does not lie where it belongs", err);
    int error = read_at(image, offset, head, sizeof(head), err);
    if (error)
        return error;
    uint64_t size;
    if (!record_size(head, &size) || size > end - offset)
        return image_refuse(image, what, "no record of possible length is where it belongs", err);
    uint8_t *all = writer_grow(&image->record, size);
    return all ? read_at(image, offset, all, size, err) : image_no_memory(image, err);
}

int image_record(struct image *image, uint64_t offset, uint64_t end, enum record_tag tag,
                 const char *what, struct reader *body, struct ferry_error *err)
{
    int error = load_record(image, offset, end, what, err);

    if (error)
        return error;
    struct record record;
    const char *wrong =
        record_check(image->record.data, image->record.size, offset, image->seal, &record);
    if (wrong)
        return image_refuse(image, what, wrong, err);
    if (record.tag != tag)
        return image_refuse(image, what, "another record is where it belongs", err);
    *body = record.body;
    return 0;
}

uint64_t image_record_bytes(const struct image *image, uint64_t body_bytes)
{
    return RECORD_LEAST_BYTES + body_bytes + (image->seal ? SEAL_TAG_BYTES : 0);
}

/* CRYP: from here on records are opened with the image's own keys. */
static int unlock(struct image *image, uint32_t flags, const struct image_environment *env,
                  struct ferry_error *err)
{
    struct seal_params params;
    struct reader body;

    int error = image_record(image, HEADER_RECORD_BYTES, image->summary.bytes, RECORD_CRYPT,
                             "the record of its sealing", &body, err);
    if (error)
        return error;
    const char *wrong = seal_params_read(&body, &params);
    if (wrong)
        return image_refuse(image, "the record of its sealing", wrong, err);
    image->summary.sealed = true;
    return seal_unlock(&params, flags, image->about, env, &image->seal, err);
}

static int check_header(struct image *image, const struct image_environment *env,
                        struct ferry_error *err)
{
    struct reader body;
    uint8_t magic[HEADER_MAGIC_BYTES];

    if (image->summary.bytes < HEADER_RECORD_BYTES + RECORD_LEAST_BYTES + FOOTER_RECORD_BYTES)
        return ferry_refuse(err, -EBADMSG, image->about, "is too short for a ferry image");
    int error =
        image_record(image, 0, image->summary.bytes, RECORD_HEADER, "the header", &body, err);
    if (error == -EBADMSG)
        return ferry_refuse(err, -EBADMSG, image->about, "is not a ferry image, or damaged");
    if (error)
        return error;
    reader_copy(&body, magic, sizeof(magic));
    uint32_t version = reader_u32(&body);
    uint32_t flags = reader_u32(&body);
    if (body.error || memcmp(magic, HEADER_MAGIC, sizeof(magic)))
        return ferry_refuse(err, -EBADMSG, image->about, "is not a ferry image");
    if (version > IMAGE_VERSION)
        return ferry_refuse(err, -ENOTSUP, image->about,
                            "version %" PRIu32 " is newer than this ferry (reads up to %u)",
                            version, IMAGE_VERSION);
    if (!version || flags & ~(HEADER_SEALED | HEADER_CHILD) || reader_left(&body))
        return image_refuse(image, "the header", "no such version or features", err);
    image->summary.version = version;
    image->summary.child = flags & HEADER_CHILD;
    return flags & HEADER_SEALED ? unlock(image, flags, env, err) : 0;
}

static uint64_t signature_bytes(const struct image *image)
{
    return image_record_bytes(image, SIGN_BODY_BYTES + (image->seal ? SEAL_SIGN_BYTES : 0));
}

/* Signatures, of one length each, may lie behind the footer.  They are checked once the root is
 * known. */
static int find_footer_end(struct image *image, uint64_t footer_bytes, struct ferry_error *err)
{
    uint64_t sign_bytes = signature_bytes(image);
    uint8_t head[RECORD_HEAD_BYTES];

    image->footer_end = image->summary.bytes;
    for (unsigned i = 0; i < LIMIT_SIGNERS; i++) {
        if (image->footer_end < sign_bytes + footer_bytes)
            return 0;
        int error = read_at(image, image->footer_end - sign_bytes, head, sizeof(head), err);
        if (error)
            return error;
        struct reader r = reader_init(head, sizeof(head));
        if (reader_u32(&r) != RECORD_MAGIC || reader_u32(&r) != sign_bytes - RECORD_FRAME_BYTES ||
            reader_u32(&r) != RECORD_SIGNATURE)
            return 0;
        image->footer_end -= sign_bytes;
    }
    return 0;
}

static int read_signatures(struct image *image, struct ferry_error *err)
{
    uint64_t sign_bytes = signature_bytes(image);
    struct reader body;
    int error = 0;

    for (uint64_t at = image->footer_end; !error && at < image->summary.bytes; at += sign_bytes) {
        error =
            image_record(image, at, at + sign_bytes, RECORD_SIGNATURE, "a signature", &body, err);
        const char *wrong =
            error ? NULL : signature_read(&body, image->summary.root, &image->summary);
        if (wrong)
            error = image_refuse(image, "a signature", wrong, err);
    }
    return error;
}

/* Footer: where the table is.  All of it is compared once the table is known. */
static int find_root(struct image *image, struct ferry_error *err)
{
    struct reader body;
    uint64_t footer_bytes = image_record_bytes(image, FOOTER_BODY_BYTES);

    if (image->summary.bytes < footer_bytes)
        return ferry_refuse(err, -EBADMSG, image->about, "is too short for a ferry image");
    int error = find_footer_end(image, footer_bytes, err);
    if (error)
        return error;
    uint64_t footer = image->footer_offset = image->footer_end - footer_bytes;
    error = image_record(image, footer, image->footer_end, RECORD_FOOTER,
                         "the footer (the image may be incomplete)", &body, err);
    if (error)
        return error;
    reader_u32(&body); /* version */
    image->index_offset = reader_u64(&body);
    reader_u64(&body); /* entries of the index */
    image->root_offset = reader_u64(&body);
    if (image->root_offset > footer || image->index_offset > image->root_offset)
        return image_refuse(image, "the footer", "it points out of the image", err);
    return 0;
}

static int table_damaged(const struct image *image, const char *why, struct ferry_error *err)
{
    return image_refuse(image, "the section table", why, err);
}

/* One section of the table.  Its numbers must be possible for its kind and place. */
static int add_section(struct image *image, struct reader *body, struct ferry_error *err)
{
    struct table *table = &image->table;
    struct image_section section = {0};
    const char *reason;

    section.kind = reader_u8(body);
    uint8_t name_bytes = reader_u8(body);
    section.version = reader_u16(body);
    section.chunk_bytes = reader_u32(body);
    section.size = reader_u64(body);
    if (!section_read_name(body, name_bytes, &section))
        return table_damaged(image, "a section has an impossible name", err);
    reader_copy(body, section.digest, SHA256_BYTES);
    uint64_t offset = reader_u64(body);
    section.chunks = reader_u64(body);
    section.content_bytes = reader_u64(body);
    section.stored_bytes = reader_u64(body);
    uint64_t first_page = reader_u64(body);
    uint64_t before = table->count ? table_last(table)->offset : table->manifest_offset;
    if (body->error || offset <= before || offset >= image->index_offset)
        return table_damaged(image, "a section lies out of its place", err);
    int error = table_add(table, &section, offset, &reason);
    if (error)
        return error == -ENOMEM ? image_no_memory(image, err) : table_damaged(image, reason, err);
    if (first_page != table->pages)
        return table_damaged(image, "its pages do not follow each other", err);
    table->pages += section.chunks / PAGE_CHUNKS + !!(section.chunks % PAGE_CHUNKS);
    uint64_t most = section.kind == IMAGE_STATE ? 0 : section_chunks(&section);
    if (section.chunks > most ||
        section.content_bytes > section.chunks * (uint64_t)section.chunk_bytes ||
        section.stored_bytes > section.chunks * STORED_LIMIT((uint64_t)section.chunk_bytes))
        return table_damaged(image, "a section has an impossible number of chunks", err);
    image->summary.chunks += section.chunks;
    image->summary.content_bytes += section.content_bytes;
    image->summary.stored_bytes += section.stored_bytes;
    return 0;
}

/* Where the records begin that are the same in kind in every image. */
static uint64_t first_offset(const struct image *image)
{
    return HEADER_RECORD_BYTES + (image->seal ? CRYPT_RECORD_BYTES : 0);
}

static uint64_t base_bytes(const struct image *image)
{
    return image->summary.child ? image_record_bytes(image, SHA256_BYTES) : 0;
}

static int read_base(struct image *image, struct ferry_error *err)
{
    struct reader body;

    if (!image->summary.child)
        return 0;
    int error = image_record(image, first_offset(image), image->summary.bytes, RECORD_BASE,
                             "the name of its base", &body, err);
    if (error)
        return error;
    reader_copy(&body, image->summary.base, SHA256_BYTES);
    return body.error || reader_left(&body)
               ? image_refuse(image, "the name of its base", "it has an impossible length", err)
               : 0;
}

static int read_table(struct image *image, struct ferry_error *err)
{
    struct table *table = &image->table;
    struct reader body;
    uint8_t root[SHA256_BYTES];
    uint64_t footer = image->footer_offset;

    int error = image_record(image, image->root_offset, footer, RECORD_ROOT, "the section table",
                             &body, err);
    if (error)
        return error;
    if (image->root_offset + image->record.size != footer)
        return table_damaged(image, "there is something between it and the footer", err);
    table->manifest_offset = reader_u64(&body);
    table->manifest_size = reader_u64(&body);
    reader_copy(&body, table->manifest_digest, SHA256_BYTES);
    uint32_t count = reader_u32(&body);
    if (table->manifest_offset != first_offset(image) + base_bytes(image) ||
        count > TABLE_SECTIONS_LIMIT)
        return table_damaged(image, "it begins with impossible numbers", err);
    while (!error && count--)
        error = add_section(image, &body, err);
    if (error)
        return error;
    reader_copy(&body, root, SHA256_BYTES);
    if (body.error || reader_left(&body))
        return table_damaged(image, "it has an impossible length", err);
    if (table_root(table, image->summary.root))
        return image_no_memory(image, err);
    return memcmp(root, image->summary.root, SHA256_BYTES)
               ? table_damaged(image, "it does not match its root", err)
               : 0;
}

/* The index is as long as its pages ask for, and the footer says of all what the table says. */
static int check_footer(struct image *image, struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer want = writer_init(RECORD_LIMIT_BYTES);
    uint64_t footer = image->footer_offset, pages = image->table.pages;
    uint64_t records = pages / INDEX_ENTRIES + !!(pages % INDEX_ENTRIES);
    uint64_t index_bytes = records * image_record_bytes(image, 4) + pages * INDEX_ENTRY_BYTES;
    struct reader body;

    if (image->root_offset - image->index_offset != index_bytes)
        return image_refuse(image, "the index", "it has not the length that its pages need", err);
    int error =
        image_record(image, footer, image->footer_end, RECORD_FOOTER, "the footer", &body, err);
    if (error)
        return error;
    table_footer_body(&image->table, image->index_offset, image->root_offset, image->footer_end,
                      image->summary.root, &want);
    if (want.error)
        return image_no_memory(image, err);
    size_t size = reader_left(&body);
    return size != want.size || memcmp(reader_take(&body, size), want.data, size)
               ? image_refuse(image, "the footer", "it does not match the section table", err)
               : 0;
}

static int read_manifest(struct image *image, struct ferry_error *err)
{
    const struct table *table = &image->table;
    uint64_t end = table->count ? table->entries[0].offset : image->index_offset;
    uint8_t digest[SHA256_BYTES];
    struct reader body;

    int error = image_record(image, table->manifest_offset, end, RECORD_MANIFEST, "the manifest",
                             &body, err);
    if (error)
        return error;
    size_t size = reader_left(&body);
    const uint8_t *text = reader_take(&body, size);
    sha256(text, size, digest);
    if (size != table->manifest_size || size > LIMIT_MANIFEST_BYTES ||
        memcmp(digest, table->manifest_digest, SHA256_BYTES))
        return image_refuse(image, "the manifest", "it is not the one of the section table", err);
    if (!(image->manifest = malloc(size + 1)))
        return image_no_memory(image, err);
    memcpy(image->manifest, text, size);
    image->manifest[size] = 0;
    return 0;
}

int image_open_alone(int fd, const char *about, const struct image_environment *env,
                     struct image **out, struct ferry_error *err)
{
    off_t bytes = lseek(fd, 0, SEEK_END);

    if (bytes < 0)
        return ferry_fail_sys(err, -errno, about, "cannot seek in the image");
    CLEANUP(image_cleanup) struct image *image = calloc(1, sizeof(*image));
    if (!image)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    image->fd = fd;
    image->own_fd = -1;
    image->about = about;
    image->record = writer_init(RECORD_LIMIT_BYTES);
    image->summary.bytes = (uint64_t)bytes;
    int error = check_header(image, env, err);
    if (!error)
        error = find_root(image, err);
    if (!error)
        error = read_table(image, err);
    if (!error)
        error = check_footer(image, err);
    if (!error)
        error = read_signatures(image, err);
    if (!error)
        error = read_manifest(image, err);
    if (!error)
        error = read_base(image, err);
    if (!error)
        *out = take_ptr(&image);
    return error;
}

int image_open(int fd, const char *about, const struct image_environment *env, struct image **out,
               struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;

    int error = image_open_alone(fd, about, env, &image, err);
    if (!error)
        error = image_attach_base(image, env, err);
    if (!error)
        *out = take_ptr(&image);
    return error;
}

void image_close(struct image *image)
{
    if (!image)
        return;
    image_close(image->base);
    for (unsigned i = 0; i < INDEX_CACHE; i++)
        free(image->index[i]);
    for (unsigned i = 0; i < PAGE_CACHE; i++)
        free(image->pages[i]);
    for (unsigned i = 0; i < CHUNK_CACHE; i++)
        free(image->chunks[i].content);
    decode_release(&image->slot);
    writer_free(&image->record);
    seal_free(image->seal);
    table_free(&image->table);
    free(image->manifest);
    free(image->own_about);
    if (image->own_fd >= 0)
        close(image->own_fd);
    free(image);
}

void image_cleanup(struct image **image)
{
    image_close(*image);
}

const struct image_summary *image_summary(const struct image *image)
{
    return &image->summary;
}

const char *image_manifest(const struct image *image, size_t *size)
{
    *size = image->table.manifest_size;
    return image->manifest;
}

uint32_t image_sections(const struct image *image)
{
    return image->table.count;
}

const struct image_section *image_section(const struct image *image, uint32_t number)
{
    return &image->table.entries[number].section;
}

int64_t image_find(const struct image *image, enum image_section_kind kind, const char *name)
{
    for (uint32_t i = 0; i < image->table.count; i++) {
        const struct image_section *section = image_section(image, i);
        if (section->kind == kind && !strcmp(section->name, name))
            return i;
    }
    return -1;
}

uint32_t image_chunk_bytes(const struct image *image, enum image_section_kind kind,
                           const char *name, uint32_t otherwise)
{
    int64_t found = image ? image_find(image, kind, name) : -1;

    return found < 0 ? otherwise : image_section(image, (uint32_t)found)->chunk_bytes;
}

uint64_t image_section_end(const struct image *image, uint32_t section)
{
    return section + 1 < image->table.count ? image->table.entries[section + 1].offset
                                            : image->index_offset;
}

int image_state(struct image *image, uint32_t number, uint8_t **data, struct ferry_error *err)
{
    const struct table_entry *entry = &image->table.entries[number];
    const struct image_section *section = &entry->section;
    uint8_t name[LIMIT_NAME_BYTES], digest[SHA256_BYTES];
    struct reader body;
    char what[96];

    snprintf(what, sizeof(what), "section %s", section->name);
    if (section->kind != IMAGE_STATE)
        return ferry_usage(err, image->about, "%s is not one of state", what);
    int error = image_record(image, entry->offset, image_section_end(image, number), RECORD_STATE,
                             what, &body, err);
    if (error)
        return error;
    bool same = reader_u32(&body) == number && reader_u16(&body) == section->version &&
                !reader_u8(&body) && reader_u8(&body) == strlen(section->name);
    reader_copy(&body, name, strlen(section->name));
    size_t size = reader_left(&body);
    const uint8_t *state = reader_take(&body, size);
    sha256(state, size, digest);
    if (!same || body.error || size != section->size ||
        memcmp(name, section->name, strlen(section->name)) ||
        memcmp(digest, section->digest, SHA256_BYTES))
        return image_refuse(image, what, "it is not the one of the section table", err);
    if (!(*data = malloc(size + 1)))
        return image_no_memory(image, err);
    memcpy(*data, state, size);
    return 0;
}

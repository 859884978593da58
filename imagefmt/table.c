/* The section table: rules, and the bytes that sum an image up; see table.h. */
#include "imagefmt/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/units.h"
#include "imagefmt/format.h"

void table_free(struct table *table)
{
    free(table->entries);
    *table = (struct table){0};
}

struct table_entry *table_last(struct table *table)
{
    return &table->entries[table->count - 1];
}

const char *image_kind_name(enum image_section_kind kind)
{
    static const char *const names[] = {
        [IMAGE_STATE] = "state", [IMAGE_RAM] = "ram", [IMAGE_DISK] = "disk", [IMAGE_FILE] = "file"};

    return names[kind];
}

char *image_place(const struct image_section *section, uint64_t offset, char *text, size_t size)
{
    char amount[32];

    if (section->kind == IMAGE_RAM)
        snprintf(text, size, "RAM at 0x%" PRIx64, offset);
    else
        snprintf(text, size, "%s %s at %s (byte %" PRIu64 ")", image_kind_name(section->kind),
                 section->name, format_size(offset, amount, sizeof(amount)), offset);
    return text;
}

uint64_t section_chunks(const struct image_section *section)
{
    return section->size / section->chunk_bytes + !!(section->size % section->chunk_bytes);
}

uint32_t section_chunk_bytes(const struct image_section *section, uint64_t index)
{
    if (index >= section_chunks(section))
        return 0;
    uint64_t left = section->size - index * section->chunk_bytes;
    return left < section->chunk_bytes ? (uint32_t)left : section->chunk_bytes;
}

bool section_name_valid(const char *name)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t size = strnlen(name, LIMIT_NAME_BYTES + 1);

    return size && size <= LIMIT_NAME_BYTES && strspn(name, letters) == size;
}

static bool name_taken(const struct table *table, const struct image_section *section)
{
    for (uint32_t i = 0; i < table->count; i++)
        if (table->entries[i].section.kind == section->kind &&
            !strcmp(table->entries[i].section.name, section->name))
            return true;
    return false;
}

static const char *wrong_with_state(const struct table *table, const struct image_section *section)
{
    if (section->chunk_bytes)
        return "is a state section with chunks";
    if (section->size > LIMIT_SECTION_BYTES)
        return "is larger than a state section may be";
    if (table->counts[IMAGE_STATE] == LIMIT_SECTIONS)
        return "is one state section too many";
    if (section->size > LIMIT_STATE_BYTES - table->state_bytes)
        return "brings more state than a machine may have";
    return NULL;
}

/* How many of a kind there may be, how large, and what to say of one that is too much. */
struct data_limit {
    uint32_t count;
    uint64_t bytes;
    const char *too_many, *too_large;
};

static const struct data_limit data_limits[] = {
    [IMAGE_RAM] = {1, LIMIT_MEMORY_BYTES, "is a second RAM", "is larger than RAM may be"},
    [IMAGE_DISK] = {LIMIT_DISKS, LIMIT_DISK_BYTES, "is one disk too many",
                    "is larger than a disk may be"},
    [IMAGE_FILE] = {LIMIT_FILES, LIMIT_FILE_BYTES, "is one file too many",
                    "is larger than a file may be"},
};

static const char *wrong_with_data(const struct table *table, const struct image_section *section)
{
    const struct data_limit *limit = &data_limits[section->kind];
    uint32_t chunk = section->chunk_bytes;

    if (section->version)
        return "is a data section with a version";
    if (chunk < LIMIT_CHUNK_MIN_BYTES || chunk > LIMIT_CHUNK_BYTES || (chunk & (chunk - 1)))
        return "has a chunk size that is not a power of two from 4 KiB to 4 MiB";
    if (section->size > limit->bytes)
        return limit->too_large;
    if (table->counts[section->kind] == limit->count)
        return limit->too_many;
    return NULL;
}

static const char *wrong_with(const struct table *table, const struct image_section *section)
{
    if (!section_name_valid(section->name))
        return "has an invalid name";
    if (name_taken(table, section))
        return "is there twice";
    switch (section->kind) {
    case IMAGE_STATE:
        return wrong_with_state(table, section);
    case IMAGE_RAM:
    case IMAGE_DISK:
    case IMAGE_FILE:
        return wrong_with_data(table, section);
    }
    return "is of an unknown kind";
}

bool section_read_name(struct reader *body, uint8_t size, struct image_section *section)
{
    const uint8_t *name = size <= LIMIT_NAME_BYTES ? reader_take(body, size) : NULL;

    if (!name || memchr(name, 0, size))
        return false;
    memcpy(section->name, name, size);
    return true;
}

int table_add(struct table *table, const struct image_section *section, uint64_t offset,
              const char **reason)
{
    if ((*reason = wrong_with(table, section)))
        return -EINVAL;
    if (table->count == table->capacity) {
        uint32_t capacity = table->capacity ? table->capacity * 2 : 32;
        struct table_entry *grown = realloc(table->entries, capacity * sizeof(*grown));
        *reason = "out of memory";
        if (!grown)
            return -ENOMEM;
        table->entries = grown;
        table->capacity = capacity;
    }
    table->entries[table->count++] =
        (struct table_entry){.section = *section, .offset = offset, .first_page = table->pages};
    table->counts[section->kind]++;
    if (section->kind == IMAGE_STATE)
        table->state_bytes += section->size;
    return 0;
}

/* What root and table say of a section, first of all.  The root must not depend on the chunk size:
 * it takes 0 for it. */
static void describe(struct writer *out, const struct table_entry *entry, uint32_t chunk_bytes)
{
    const struct image_section *section = &entry->section;
    size_t name_bytes = strlen(section->name);

    writer_u8(out, (uint8_t)section->kind);
    writer_u8(out, (uint8_t)name_bytes);
    writer_u16(out, section->version);
    writer_u32(out, chunk_bytes);
    writer_u64(out, section->size);
    writer_copy(out, section->name, name_bytes);
    writer_copy(out, entry->section.digest, SHA256_BYTES);
}

int table_root(const struct table *table, uint8_t root[SHA256_BYTES])
{
    CLEANUP(writer_free) struct writer text = writer_init(LIMIT_SECTION_BYTES);

    writer_copy(&text, table->manifest_digest, SHA256_BYTES);
    writer_u32(&text, table->count);
    for (uint32_t i = 0; i < table->count; i++)
        describe(&text, &table->entries[i], 0);
    if (!text.error)
        sha256(text.data, text.size, root);
    return text.error;
}

void table_root_body(const struct table *table, const uint8_t root[SHA256_BYTES],
                     struct writer *out)
{
    writer_u64(out, table->manifest_offset);
    writer_u64(out, table->manifest_size);
    writer_copy(out, table->manifest_digest, SHA256_BYTES);
    writer_u32(out, table->count);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct table_entry *entry = &table->entries[i];
        describe(out, entry, entry->section.chunk_bytes);
        writer_u64(out, entry->offset);
        writer_u64(out, entry->section.chunks);
        writer_u64(out, entry->section.content_bytes);
        writer_u64(out, entry->section.stored_bytes);
        writer_u64(out, entry->first_page);
    }
    writer_copy(out, root, SHA256_BYTES);
}

void table_footer_body(const struct table *table, uint64_t index_offset, uint64_t root_offset,
                       uint64_t image_bytes, const uint8_t root[SHA256_BYTES], struct writer *out)
{
    writer_u32(out, IMAGE_VERSION);
    writer_u64(out, index_offset);
    writer_u64(out, table->pages);
    writer_u64(out, root_offset);
    writer_u64(out, image_bytes);
    writer_copy(out, root, SHA256_BYTES);
}

void table_end_body(const struct table *table, struct writer *out)
{
    const struct table_entry *entry = &table->entries[table->count - 1];

    writer_u32(out, table->count - 1);
    writer_u64(out, entry->section.chunks);
    writer_u64(out, entry->section.content_bytes);
    writer_u64(out, entry->section.stored_bytes);
    writer_copy(out, entry->section.digest, SHA256_BYTES);
}

void page_line_write(struct writer *out, const struct page_line *line)
{
    writer_u64(out, line->index);
    writer_u64(out, line->offset);
    writer_u32(out, line->stored_bytes);
    writer_u8(out, line->codec);
    writer_u8(out, line->level);
    writer_u16(out, 0);
    writer_copy(out, line->digest, SHA256_BYTES);
}

void page_line_read(struct reader *in, struct page_line *line, bool *spare_is_zero)
{
    line->index = reader_u64(in);
    line->offset = reader_u64(in);
    line->stored_bytes = reader_u32(in);
    line->codec = reader_u8(in);
    line->level = reader_u8(in);
    *spare_is_zero = !reader_u16(in);
    reader_copy(in, line->digest, SHA256_BYTES);
}

void index_entry(struct writer *out, uint32_t section, uint32_t chunks, uint64_t first_chunk,
                 uint64_t offset)
{
    writer_u32(out, section);
    writer_u32(out, chunks);
    writer_u64(out, first_chunk);
    writer_u64(out, offset);
}

/*
 * From a chunk's number to its place in the file: index record, page, entry, each read when first
 * needed and kept in a small cache.  The table says how many pages each section has, so which
 * section page p belongs to and how many chunks it must have is known before it is read; an index
 * or page that says otherwise, runs backwards, overlaps, or points out of its section is refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "imagefmt/access.h"
#include "imagefmt/chunk.h"
#include "imagefmt/content.h"

#define INDEX_BODY_BYTES (4 + INDEX_ENTRIES * INDEX_ENTRY_BYTES) /* of all records but the last */

static uint64_t pages_of(const struct image_section *section)
{
    return section->chunks / PAGE_CHUNKS + !!(section->chunks % PAGE_CHUNKS);
}

/* The section that page number belongs to. */
static uint32_t owner_of(const struct image *image, uint64_t number)
{
    uint32_t i = image->table.count;

    while (i-- && (image->table.entries[i].first_page > number ||
                   !pages_of(&image->table.entries[i].section)))
        ;
    return i;
}

static const char *wrong_with_place(const struct image *image, uint64_t number,
                                    const struct page_place *place, const struct page_place *before)
{
    uint32_t owner = owner_of(image, number);
    const struct table_entry *entry = &image->table.entries[owner];
    uint64_t done = (number - entry->first_page) * PAGE_CHUNKS, left = entry->section.chunks - done;

    if (place->section != owner)
        return "a page belongs to another section";
    if (place->chunks != (left < PAGE_CHUNKS ? left : PAGE_CHUNKS))
        return "a page has another number of chunks";
    if (place->first_chunk >= section_chunks(&entry->section))
        return "a page begins behind the end of its section";
    if (place->offset <= entry->offset || place->offset >= image_section_end(image, owner))
        return "a page lies outside its section";
    if (before && before->section == owner &&
        (before->offset >= place->offset || before->first_chunk >= place->first_chunk))
        return "its pages are out of order";
    return NULL;
}

static int load_index(struct image *image, struct index_record *record, uint64_t number,
                      struct ferry_error *err)
{
    uint64_t first = number * INDEX_ENTRIES, left = image->table.pages - first;
    uint32_t count = left < INDEX_ENTRIES ? (uint32_t)left : INDEX_ENTRIES;
    struct reader body;

    record->used = 0;
    int error = image_record(
        image, image->index_offset + number * image_record_bytes(image, INDEX_BODY_BYTES),
        image->root_offset, RECORD_INDEX, "the index", &body, err);
    if (error)
        return error;
    if (reader_u32(&body) != count || reader_left(&body) != count * INDEX_ENTRY_BYTES)
        return image_refuse(image, "the index", "it has an impossible length", err);
    for (uint32_t i = 0; i < count; i++) {
        struct page_place *place = &record->places[i];
        place->section = reader_u32(&body);
        place->chunks = reader_u32(&body);
        place->first_chunk = reader_u64(&body);
        place->offset = reader_u64(&body);
        const char *wrong =
            wrong_with_place(image, first + i, place, i ? &record->places[i - 1] : NULL);
        if (wrong)
            return image_refuse(image, "the index", wrong, err);
    }
    record->number = number;
    record->count = count;
    return 0;
}

/* Where page number is, through the cache of index records. */
static int find_place(struct image *image, uint64_t number, struct page_place *place,
                      struct ferry_error *err)
{
    uint64_t wanted = number / INDEX_ENTRIES;
    struct index_record **oldest = &image->index[0];

    for (unsigned i = 0; i < INDEX_CACHE; i++) {
        struct index_record *record = image->index[i];
        if (record && record->used && record->number == wanted) {
            record->used = ++image->clock;
            *place = record->places[number % INDEX_ENTRIES];
            return 0;
        }
        if (*oldest && (!record || record->used < (*oldest)->used))
            oldest = &image->index[i];
    }
    if (!*oldest && !(*oldest = calloc(1, sizeof(**oldest))))
        return image_no_memory(image, err);
    int error = load_index(image, *oldest, wanted, err);
    if (error)
        return error;
    (*oldest)->used = ++image->clock;
    *place = (*oldest)->places[number % INDEX_ENTRIES];
    return 0;
}

static uint64_t span(const struct page_line *line)
{
    return UINT64_C(1) << line->level;
}

/* A node that is as in the base. */
static const char *wrong_with_kept(const struct image *image, const struct image_section *section,
                                   const struct page_line *line)
{
    uint64_t chunks = section_chunks(section);

    if (!image->summary.child)
        return "it speaks of a base that the image does not have";
    if (line->level >= KEPT_LEVELS || span(line) > chunks || line->index > chunks - span(line) ||
        line->index & (span(line) - 1))
        return "what is kept of the base lies across nodes, or behind the end";
    if (line->offset || line->stored_bytes || content_is_zero(line->digest))
        return "what is kept of the base has impossible numbers";
    return NULL;
}

/*
 * next: where the next chunk that is stored here can lie at the earliest.  One whose content was
 * stored before must lie in the image before this place.
 */
static const char *wrong_with_stored(const struct image *image, const struct page_place *place,
                                     const struct page_line *line, uint64_t *next)
{
    const struct image_section *section = &image->table.entries[place->section].section;
    uint64_t end = line->codec == CODEC_ZSTD ? place->offset : *next;
    uint64_t whole =
        chunk_record_bytes(image->seal) + chunk_stored_bytes(image->seal, line->stored_bytes);

    if (line->level)
        return "a chunk has an impossible level";
    if (!line->stored_bytes ||
        line->stored_bytes > STORED_LIMIT(section_chunk_bytes(section, line->index)))
        return "a chunk has an impossible size";
    if (line->offset <= image->table.manifest_offset || line->offset >= end ||
        end - line->offset < whole || (line->codec == CODEC_ZSTD && line->offset < *next))
        return "its chunks overlap or lie outside the image's";
    if (line->codec == CODEC_ZSTD)
        *next = line->offset + whole;
    return NULL;
}

static const char *wrong_with_line(const struct image *image, const struct page_place *place,
                                   const struct page_line *line, const struct page_line *before,
                                   uint64_t *next)
{
    const struct image_section *section = &image->table.entries[place->section].section;

    if (line->index >= section_chunks(section))
        return "a chunk lies behind the end of its section";
    if (before ? line->index < before->index + span(before) : line->index != place->first_chunk)
        return "its chunks are out of order";
    switch (line->codec) {
    case CODEC_ZSTD:
    case CODEC_SAME:
        return wrong_with_stored(image, place, line, next);
    case CODEC_KEPT:
        return wrong_with_kept(image, section, line);
    }
    return "a chunk has an unknown codec";
}

/* Behind which byte the chunks of a page can begin: the page before it, or the section's head. */
static int find_start(struct image *image, uint64_t number, const struct page_place *place,
                      uint64_t *start, struct ferry_error *err)
{
    const struct table_entry *entry = &image->table.entries[place->section];
    struct page_place before = {.offset = entry->offset};

    int error = number > entry->first_page ? find_place(image, number - 1, &before, err) : 0;
    *start = before.offset + RECORD_LEAST_BYTES;
    return error;
}

static int load_page(struct image *image, struct page *page, uint64_t number,
                     struct ferry_error *err)
{
    struct page_place place = {0};
    struct reader body;
    uint64_t next;

    page->used = 0;
    int error = find_place(image, number, &place, err);
    if (!error)
        error = find_start(image, number, &place, &next, err);
    if (!error)
        error = image_record(image, place.offset, image_section_end(image, place.section),
                             RECORD_PAGE, "the index", &body, err);
    if (error)
        return error;
    uint32_t section = reader_u32(&body);
    uint32_t count = reader_u32(&body);
    if (section != place.section || count != place.chunks ||
        reader_left(&body) != count * PAGE_ENTRY_BYTES)
        return image_refuse(image, "the index", "a page is not the one that belongs there", err);
    for (uint32_t i = 0; i < count; i++) {
        struct page_line *line = &page->lines[i];
        bool spare_is_zero;
        page_line_read(&body, line, &spare_is_zero);
        const char *wrong = wrong_with_line(image, &place, line, i ? line - 1 : NULL, &next);
        if (!wrong && !spare_is_zero)
            wrong = "reserved bytes are not zero";
        if (wrong)
            return image_refuse(image, "the index", wrong, err);
    }
    page->number = number;
    page->count = count;
    return 0;
}

static int find_page(struct image *image, uint64_t number, struct page **out,
                     struct ferry_error *err)
{
    struct page **oldest = &image->pages[0];

    for (unsigned i = 0; i < PAGE_CACHE; i++) {
        struct page *page = image->pages[i];
        if (page && page->used && page->number == number) {
            page->used = ++image->clock;
            *out = page;
            return 0;
        }
        if (*oldest && (!page || page->used < (*oldest)->used))
            oldest = &image->pages[i];
    }
    if (!*oldest && !(*oldest = calloc(1, sizeof(**oldest))))
        return image_no_memory(image, err);
    int error = load_page(image, *oldest, number, err);
    if (error)
        return error;
    (*oldest)->used = ++image->clock;
    *out = *oldest;
    return 0;
}

/* The last page of the section that begins at or before the chunk; its first page if none does. */
static int seek_page(struct image *image, uint32_t section, uint64_t index, uint64_t *number,
                     struct ferry_error *err)
{
    const struct table_entry *entry = &image->table.entries[section];
    uint64_t low = entry->first_page, high = low + pages_of(&entry->section);

    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        struct page_place place;
        int error = find_place(image, middle, &place, err);
        if (error)
            return error;
        if (place.first_chunk <= index)
            low = middle;
        else
            high = middle;
    }
    *number = low;
    return 0;
}

/* The first line of the page that ends behind index, or the page's count. */
static uint32_t seek_line(const struct page *page, uint64_t index)
{
    uint32_t low = 0, high = page->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct page_line *line = &page->lines[middle];
        if (line->index + (span(line) - 1) < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first line of the section that ends behind index: 1, or 0 if there is none. */
static int next_line(struct image *image, uint32_t number, uint64_t index, struct page_line *line,
                     struct ferry_error *err)
{
    const struct table_entry *entry = &image->table.entries[number];
    uint64_t page_number, end = entry->first_page + pages_of(&entry->section);
    struct page *page = NULL;

    if (!entry->section.chunks)
        return 0;
    int error = seek_page(image, number, index, &page_number, err);
    if (!error)
        error = find_page(image, page_number, &page, err);
    if (error)
        return error;
    uint32_t at = seek_line(page, index);
    if (at == page->count) {
        if (page_number + 1 == end)
            return 0;
        error = find_page(image, page_number + 1, &page, err);
        if (error)
            return error;
        at = 0;
        if (page->lines[at].index < index)
            return image_refuse(image, "the index", "its pages overlap", err);
    }
    *line = page->lines[at];
    return 1;
}

/* The first chunk of the base within what is kept of it, from index on and before end: 1, or 0. */
static int next_kept(struct image *image, uint32_t number, uint64_t index, uint64_t end,
                     const struct page_line *line, struct image_chunk *chunk,
                     struct ferry_error *err)
{
    const struct image_section *section = &image->table.entries[number].section;
    uint64_t line_end = line->index + span(line);
    struct image *base = NULL;

    int error = image_base(image, &base, err);
    if (error)
        return error;
    int64_t below = base ? image_base_section(base, section) : -1;
    if (below < 0)
        return image_refuse_chunk(image, section, line->index,
                                  "the base has no such section, or one with other chunks", err);
    return image_chunk_within(base, (uint32_t)below, index > line->index ? index : line->index,
                              end < line_end ? end : line_end, chunk, err);
}

/*
 * Each image of a chain is asked for the span of one line of the image above at most: so the lines
 * of all of them are looked at once in a walk, and not once for each of those above.
 */
int image_chunk_within(struct image *image, uint32_t number, uint64_t index, uint64_t end,
                       struct image_chunk *chunk, struct ferry_error *err)
{
    struct page_line line = {0};
    int found;

    while (index < end && (found = next_line(image, number, index, &line, err)) != 0) {
        if (found < 0)
            return found;
        if (line.index >= end)
            return 0;
        if (line.codec != CODEC_KEPT) {
            *chunk = (struct image_chunk){
                .index = line.index,
                .offset = line.offset,
                .stored_bytes = line.stored_bytes,
                .same = line.codec == CODEC_SAME,
                .image = image,
                .section = number,
            };
            memcpy(chunk->digest, line.digest, SHA256_BYTES);
            return 1;
        }
        found = next_kept(image, number, index, end, &line, chunk, err);
        if (found)
            return found;
        index = line.index + span(&line);
    }
    return 0;
}

int image_next_chunk(struct image *image, uint32_t number, uint64_t index,
                     struct image_chunk *chunk, struct ferry_error *err)
{
    return image_chunk_within(image, number, index, UINT64_MAX, chunk, err);
}

int image_node(struct image *image, uint32_t number, uint64_t index, unsigned level,
               uint8_t node[SHA256_BYTES], struct ferry_error *err)
{
    unsigned own = content_level(image->table.entries[number].section.chunk_bytes);
    uint64_t end = index + (UINT64_C(1) << level);
    struct content_tree tree = {0};
    struct image_chunk chunk = {0};
    int found = 1;

    for (uint64_t at = index; found > 0; at = chunk.index + 1) {
        found = image_chunk_within(image, number, at, end, &chunk, err);
        if (found > 0)
            content_add(&tree, chunk.index - index, own, chunk.digest);
    }
    content_top(&tree, own + level, node);
    return found < 0 ? found : 0;
}

int image_check_pages(struct image *image, uint32_t number, struct ferry_error *err)
{
    const struct image_section *section = &image->table.entries[number].section;
    struct content_tree tree = {0};
    struct image_chunk chunk = {0};
    uint8_t digest[SHA256_BYTES];
    int found = 1;

    if (section->kind == IMAGE_STATE)
        return ferry_usage(err, image->about, "section %s has no pages", section->name);
    for (uint64_t index = 0; found > 0; index = chunk.index + 1) {
        found = image_next_chunk(image, number, index, &chunk, err);
        if (found > 0)
            content_add(&tree, chunk.index, content_level(section->chunk_bytes), chunk.digest);
    }
    if (found < 0)
        return found;
    content_digest(&tree, section->size, digest);
    return memcmp(digest, section->digest, SHA256_BYTES)
               ? image_refuse(image, "the index", "its chunks do not add up to their section", err)
               : 0;
}

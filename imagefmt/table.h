/*
 * The section table: what writer and reader both learn of an image on the way, the rules that its
 * sections obey, and the bodies of the records that sum it up.  Both sides build it; the reader
 * compares its own with the file's.  Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_TABLE_H
#define FERRY_IMAGEFMT_TABLE_H

#include "common/bytes.h"
#include "imagefmt/image.h"

struct table_entry {
    struct image_section section;
    uint64_t offset;     /* of its STAT or DATA record */
    uint64_t first_page; /* number of its first page in the index */
};

struct table {
    uint64_t manifest_offset;
    uint64_t manifest_size;
    uint8_t manifest_digest[SHA256_BYTES];
    struct table_entry *entries;
    uint32_t count;
    uint32_t capacity;
    uint32_t counts[IMAGE_FILE + 1]; /* of sections, by kind */
    uint64_t state_bytes;
    uint64_t pages; /* of all data sections */
};

void table_free(struct table *table);
/*
 * Append a section after checking it against the limits and the ones before.  Returns 0, -ENOMEM,
 * or -EINVAL with *reason set to what is wrong with it ("has an invalid name").
 */
int table_add(struct table *table, const struct image_section *section, uint64_t offset,
              const char **reason);
struct table_entry *table_last(struct table *table);

bool section_name_valid(const char *name);
/* The next size bytes of a record as the name of section (zeroed before), not yet known to be
 * valid. */
bool section_read_name(struct reader *body, uint8_t size, struct image_section *section);
uint64_t section_chunks(const struct image_section *section); /* stored or not; of a data section */
/* Length of chunk `index` of a data section, 0 if it lies behind its end. */
uint32_t section_chunk_bytes(const struct image_section *section, uint64_t index);

/* The identity of the content: over the manifest and every section's description and digest.
 * -ENOMEM is the only error. */
int table_root(const struct table *table, uint8_t root[SHA256_BYTES]);
/* Bodies, appended to out (see FORMAT.md). */
void table_root_body(const struct table *table, const uint8_t root[SHA256_BYTES],
                     struct writer *out);
void table_footer_body(const struct table *table, uint64_t index_offset, uint64_t root_offset,
                       uint64_t image_bytes, const uint8_t root[SHA256_BYTES], struct writer *out);
/* A data section's closing numbers and digest. */
void table_end_body(const struct table *table, struct writer *out);
/* One entry of a page (see FORMAT.md). */
struct page_line {
    uint64_t index, offset;
    uint32_t stored_bytes;
    uint8_t codec, level;
    uint8_t digest[SHA256_BYTES];
};

void page_line_write(struct writer *out, const struct page_line *line);
void page_line_read(struct reader *in, struct page_line *line, bool *spare_is_zero);
/* One entry of the index: section number, chunks in the page, its first chunk, its offset. */
void index_entry(struct writer *out, uint32_t section, uint32_t chunks, uint64_t first_chunk,
                 uint64_t offset);

#endif

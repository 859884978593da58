/*
 * What only a hand can make: images with right sums whose numbers, names, order or frames no ferry
 * writes.  Each must be refused for what is wrong with it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <zstd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/content.h"
#include "imagefmt/format.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

/* The bytes must be refused, with a message that contains what (NULL: any). */
static void refused(const uint8_t *image, size_t size, const char *what)
{
    struct ferry_error err = {0};
    int error = sample_read_bytes(image, size, &err);

    if (!error || err.kind != FERRY_REFUSED || (what && !strstr(err.message, what)))
        fail_msg("error %d, kind %d: '%s', wanted '%s'", error, (int)err.kind, err.message,
                 what ? what : "any");
}

static void start(struct forge *f)
{
    *f = forge_new();
    forge_header(f, IMAGE_VERSION, 0);
    forge_manifest(f, "{}");
}

static void done(struct forge *f, const char *what)
{
    refused(f->out.data, f->out.size, what);
    forge_free(f);
}

static void test_header(void **state)
{
    struct forge f = forge_new();

    (void)state;
    forge_header(&f, IMAGE_VERSION + 1, 0);
    done(&f, "version 2 is newer than this ferry (reads up to 1)");
    f = forge_new();
    forge_header(&f, UINT32_MAX, 0);
    done(&f, "version 4294967295 is newer");
    f = forge_new();
    forge_header(&f, 0, 0);
    done(&f, "no such version");
    f = forge_new();
    forge_header(&f, IMAGE_VERSION, 8);
    done(&f, "flags 0x8");
    f = forge_new();
    forge_manifest(&f, "{}");
    done(&f, "is not a ferry image");
    refused((const uint8_t *)"\x7f"
                             "ELF, surely not an image",
            24, "is not a ferry image");
    refused((const uint8_t *)"", 0, "ends early");
}

static void test_manifest_size(void **state)
{
    CLEANUP_FREE char *text = malloc(LIMIT_MANIFEST_BYTES + 2);
    struct forge f = forge_new();

    (void)state;
    memset(text, ' ', LIMIT_MANIFEST_BYTES + 1);
    text[LIMIT_MANIFEST_BYTES + 1] = 0;
    forge_header(&f, IMAGE_VERSION, 0);
    forge_manifest(&f, text);
    done(&f, "manifest is damaged: it is larger");
    f = forge_new();
    forge_header(&f, IMAGE_VERSION, 0);
    writer_u32(&f.out, RECORD_MAGIC);
    writer_u32(&f.out, 100 << 20); /* 100 MiB of manifest, by its length */
    done(&f, "impossible length");
}

static void test_state_sections(void **state)
{
    CLEANUP_FREE uint8_t *data = calloc(1, LIMIT_SECTION_BYTES + 1);
    char name[LIMIT_NAME_BYTES + 2] = {0};
    struct forge f;

    (void)state;
    start(&f);
    forge_state(&f, 1, "vcpu0", data, 8);
    done(&f, "section vcpu0 is not at its place");
    start(&f);
    forge_state(&f, 0, "vcpu0", data, 8);
    forge_state(&f, 1, "vcpu0", data, 8);
    done(&f, "section vcpu0 is there twice");
    start(&f);
    forge_state(&f, 0, "vcpu0", data, LIMIT_SECTION_BYTES + 1);
    done(&f, "larger than a state section may be");
    start(&f);
    forge_state(&f, 0, "", data, 8);
    done(&f, "section number 0 has an invalid name");
    start(&f);
    forge_state(&f, 0, "../x", data, 8);
    done(&f, "section number 0 has an invalid name");
    memset(name, 'n', sizeof(name) - 1);
    start(&f);
    forge_state(&f, 0, name, data, 8);
    done(&f, "its head makes no sense");
    start(&f);
    for (unsigned i = 0; i <= LIMIT_SECTIONS; i++) {
        snprintf(name, sizeof(name), "s%u", i);
        forge_state(&f, i, name, data, 1);
    }
    done(&f, "one state section too many");
    start(&f);
    for (unsigned i = 0; i < 17; i++) {
        snprintf(name, sizeof(name), "s%u", i);
        forge_state(&f, i, name, data, LIMIT_SECTION_BYTES);
    }
    done(&f, "more state than a machine may have");
}

static void test_data_sections(void **state)
{
    char name[16];
    struct forge f;

    (void)state;
    static const struct {
        uint8_t kind;
        uint32_t chunk;
        uint64_t size;
        const char *what;
    } bad[] = {
        {IMAGE_RAM, 65536, UINT64_C(1) << 63, "section x is larger than RAM may be"},
        {IMAGE_DISK, 65536, UINT64_C(1) << 63, "section x is larger than a disk may be"},
        {IMAGE_DISK, 65536, UINT64_MAX, "section x is larger than a disk may be"},
        {IMAGE_DISK, 65536, 64 * TIB + 1, "section x is larger than a disk may be"},
        {IMAGE_RAM, 0, 4096, "chunk size"},
        {IMAGE_RAM, 2048, 4096, "chunk size"},
        {IMAGE_RAM, 65537, 4096, "chunk size"},
        {IMAGE_RAM, 8 << 20, 4096, "chunk size"},
        {IMAGE_RAM, 1u << 31, 4096, "chunk size"},
        {0, 65536, 4096, "unknown kind"},
        {IMAGE_FILE, 65536, 2 * GIB + 1, "section x is larger than a file may be"},
        {5, 65536, 4096, "unknown kind"},
        {255, 65536, 4096, "unknown kind"},
        {IMAGE_STATE, 65536, 4096, "makes no sense"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        start(&f);
        forge_data(&f, 0, bad[i].kind, "x", bad[i].chunk, bad[i].size);
        done(&f, bad[i].what);
    }
    start(&f);
    for (unsigned i = 0; i <= LIMIT_DISKS; i++) {
        uint8_t digest[SHA256_BYTES];
        snprintf(name, sizeof(name), "vd%u", i);
        forge_data(&f, i, IMAGE_DISK, name, 4096, 4096);
        forge_begin(&f, "DEND");
        writer_u32(&f.out, i);
        for (int zero = 0; zero < 3; zero++)
            writer_u64(&f.out, 0);
        content_digest(&(struct content_tree){0}, 4096, digest);
        writer_copy(&f.out, digest, sizeof(digest));
        forge_end(&f);
    }
    done(&f, "section vd16 is one disk too many");
}

/* A zstd frame of content, in stored; returns its size. */
static uint32_t frame(uint8_t *stored, size_t room, const void *content, size_t size)
{
    return (uint32_t)ZSTD_compress(stored, room, content, size, 1);
}

static void test_chunk_heads(void **state)
{
    uint8_t content[4096] = "x", stored[8192], digest[SHA256_BYTES];
    uint32_t size = frame(stored, sizeof(stored), content, sizeof(content));
    static const struct {
        uint32_t number;
        uint64_t index;
        uint32_t content_bytes;
        const char *what;
    } bad[] = {
        {1, 0, 4096, "RAM at 0x0 is damaged: it belongs to another section"},
        {0, 3, 4096, "RAM at 0x3000 is damaged: it lies behind the end"},
        {0, UINT64_C(1) << 63, 4096, "it lies behind the end"},
        {0, UINT64_MAX, 4096, "it lies behind the end"},
        {0, 0, 4095, "impossible size"},
        {0, 0, 0, "impossible size"},
        {0, 2, 4096, "impossible size"}, /* the last one is short */
    };

    (void)state;
    content_node(content, sizeof(content), 0, digest);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct forge f;
        start(&f);
        forge_data(&f, 0, IMAGE_RAM, "ram", 4096, 8292);
        forge_chunk(&f, bad[i].number, bad[i].index, bad[i].content_bytes, stored, size, digest);
        done(&f, bad[i].what);
    }
    struct forge f;
    start(&f);
    forge_data(&f, 0, IMAGE_RAM, "ram", 4096, 8192);
    forge_chunk(&f, 0, 1, 4096, stored, size, digest);
    forge_chunk(&f, 0, 1, 4096, stored, size, digest);
    done(&f, "RAM at 0x1000 is damaged: it is out of order");
    start(&f);
    forge_data(&f, 0, IMAGE_RAM, "ram", 4096, 8192);
    forge_chunk(&f, 0, 0, 4096, stored, 0, digest);
    done(&f, "stored bytes have an impossible size");
}

/* One chunk of 4096 bytes with these stored bytes and nothing after. */
static void stored_refused(const void *stored, uint32_t size, const uint8_t *digest,
                           const char *what)
{
    struct forge f;

    start(&f);
    forge_data(&f, 0, IMAGE_DISK, "vda", 4096, 8192);
    forge_chunk(&f, 0, 1, 4096, stored, size, digest);
    done(&f, what);
}

static void test_chunk_content(void **state)
{
    CLEANUP_FREE uint8_t *content = calloc(1, MIB);
    uint8_t stored[8192], digest[SHA256_BYTES];

    (void)state;
    content[0] = 1;
    content_node(content, 4096, 0, digest);
    uint32_t size = frame(stored, sizeof(stored), content, 4096);
    stored_refused(stored, size, NULL, "the content does not match its identity");
    stored_refused(stored, size - 1, digest, "it is not one zstd frame");
    memcpy(stored + size, stored, size);
    stored_refused(stored, 2 * size, digest, "it is not one zstd frame");
    stored_refused("no zstd frame", 13, digest, "it is not one zstd frame");
    /* an honest frame of 1 MiB where 4 KiB are declared */
    size = frame(stored, sizeof(stored), content, MIB);
    stored_refused(stored, size, digest, "declares another size");
    size = frame(stored, sizeof(stored), content, 4095);
    stored_refused(stored, size, digest, "declares another size");
    content[0] = 0;
    content_node(content, 4096, 0, digest);
    size = frame(stored, sizeof(stored), content, 4096);
    stored_refused(stored, size, digest, "zeroes are stored");
}

/* RFC 8878, 3.1.1: frames made by hand.  Magic, descriptor 0xe0: 8 bytes of content size, single
 * segment; then one RLE block of 128 KiB less one, marked as the last. */
static void test_lying_frames(void **state)
{
    static const uint64_t declared[] = {4096, UINT64_C(1) << 40, UINT64_C(1) << 63, UINT64_MAX,
                                        UINT64_MAX - 1};

    (void)state;
    for (size_t i = 0; i < sizeof(declared) / sizeof(*declared); i++) {
        CLEANUP(writer_free) struct writer w = writer_init(64);
        writer_u32(&w, ZSTD_MAGICNUMBER);
        writer_u8(&w, 0xe0);
        writer_u64(&w, declared[i]);
        uint32_t block = 1 | 1 << 1 | 131071u << 3; /* last, RLE, size */
        writer_u8(&w, (uint8_t)block);
        writer_u16(&w, (uint16_t)(block >> 8));
        writer_u8(&w, 'x');
        stored_refused(w.data, (uint32_t)w.size, NULL,
                       i ? "declares another size" : "does not inflate to the declared size");
    }
}

static void forge_page(struct forge *f, uint32_t number, uint64_t index, size_t offset,
                       uint32_t size, uint32_t codec, const uint8_t digest[SHA256_BYTES])
{
    forge_begin(f, "PAGE");
    writer_u32(&f->out, number);
    writer_u32(&f->out, 1);
    writer_u64(&f->out, index);
    writer_u64(&f->out, offset);
    writer_u32(&f->out, size);
    writer_u32(&f->out, codec);
    writer_copy(&f->out, digest, SHA256_BYTES);
    forge_end(f);
}

/* A right section of one chunk; without its page if so asked. */
static void forge_disk(struct forge *f, uint32_t number, const char *name, bool with_page)
{
    uint8_t content[4096] = "x", stored[8192], digest[SHA256_BYTES], section[SHA256_BYTES];
    struct content_tree tree = {0};
    uint32_t size = frame(stored, sizeof(stored), content, sizeof(content));

    content_node(content, sizeof(content), 0, digest);
    content_add(&tree, 0, 0, digest);
    content_digest(&tree, 4096, section);
    forge_data(f, number, IMAGE_DISK, name, 4096, 4096);
    size_t offset = f->out.size;
    forge_chunk(f, number, 0, 4096, stored, size, digest);
    if (with_page)
        forge_page(f, number, 0, offset, size, 1, digest);
    forge_begin(f, "DEND");
    writer_u32(&f->out, number);
    writer_u64(&f->out, 1);
    writer_u64(&f->out, 4096);
    writer_u64(&f->out, size);
    writer_copy(&f->out, section, SHA256_BYTES);
    forge_end(f);
}

/* References to equal chunks: only to a stored one, before, within reach, and equal in all. */
static void test_references(void **state)
{
    CLEANUP_FREE uint8_t *filler = calloc(1, LIMIT_SECTION_BYTES);
    uint8_t content[8192] = "x", stored[8192], digest[SHA256_BYTES], other[SHA256_BYTES] = {9};
    uint32_t size = frame(stored, sizeof(stored), content, 4096);
    struct forge f;
    enum { OUT_OF_REACH, NO_EQUAL };
    static const char *const what[] = {"refers to a chunk out of reach",
                                       "refers to what is no equal chunk"};

    (void)state;
    content_node(content, 4096, 0, digest);
    for (unsigned i = 0; i < 12; i++) {
        start(&f);
        forge_data(&f, 0, IMAGE_DISK, "vda", 4096, 8 * 4096 + 100);
        size_t target = f.out.size;
        forge_chunk(&f, 0, 0, 4096, stored, size, digest);
        size_t same = f.out.size;
        forge_same(&f, 0, 1, 4096, size, target, digest); /* as it should be */
        const struct {
            uint64_t index, target;
            uint32_t content_bytes, stored_bytes;
            const uint8_t *digest;
            const char *what;
        } bad[12] = {
            {2, f.out.size, 4096, size, digest, what[NO_EQUAL]}, /* itself */
            {2, f.out.size + 8, 4096, size, digest, what[OUT_OF_REACH]},
            {2, UINT64_MAX, 4096, size, digest, what[OUT_OF_REACH]},
            {2, UINT64_C(1) << 63, 4096, size, digest, what[OUT_OF_REACH]},
            {2, same, 4096, size, digest, what[NO_EQUAL]}, /* a reference */
            {2, 0, 4096, size, digest, what[NO_EQUAL]},
            {2, 44, 4096, size, digest, what[NO_EQUAL]},
            {2, target + 1, 4096, size, digest, what[NO_EQUAL]},
            {2, target, 4096, size - 1, digest, what[NO_EQUAL]},
            {2, target, 4096, size, other, what[NO_EQUAL]},
            {8, target, 100, size, digest, what[NO_EQUAL]}, /* another length of content */
            {2, target, 4096, 0, digest, "impossible size"},
        };
        forge_same(&f, 0, bad[i].index, bad[i].content_bytes, bad[i].stored_bytes, bad[i].target,
                   bad[i].digest);
        done(&f, bad[i].what);
    }
    start(&f);
    forge_disk(&f, 0, "vda", true);
    size_t target = 0;
    struct forge_record record;
    for (; forge_record_at(f.out.data, f.out.size, target, &record) && strcmp(record.tag, "CHNK");
         target += record.size)
        ;
    for (unsigned i = 0; i < 9; i++) {
        char name[8];
        snprintf(name, sizeof(name), "s%u", i);
        forge_state(&f, 1 + i, name, filler, LIMIT_SECTION_BYTES - 100);
    }
    forge_data(&f, 10, IMAGE_DISK, "vdb", 4096, 4096);
    forge_same(&f, 10, 0, 4096, size, target, digest);
    done(&f, what[OUT_OF_REACH]);
}

/* Every page but a section's last is full: its place must be computable. */
static void test_page_rules(void **state)
{
    uint8_t content[4096] = "x", stored[8192], digest[SHA256_BYTES];
    uint32_t size = frame(stored, sizeof(stored), content, sizeof(content));
    struct forge f;

    (void)state;
    content_node(content, sizeof(content), 0, digest);
    start(&f);
    forge_data(&f, 0, IMAGE_DISK, "vda", 4096, 8 * MIB);
    size_t offset = f.out.size;
    forge_chunk(&f, 0, 0, 4096, stored, size, digest);
    forge_page(&f, 0, 0, offset, size, 1, digest);
    forge_chunk(&f, 0, 1, 4096, stored, size, digest);
    done(&f, "its index page is missing");

    start(&f);
    forge_data(&f, 0, IMAGE_DISK, "vda", 4096, 8 * MIB);
    for (unsigned i = 0; i <= PAGE_CHUNKS; i++)
        forge_chunk(&f, 0, i, 4096, stored, size, digest);
    done(&f, "its index page is missing");

    start(&f);
    forge_disk(&f, 0, "vda", true);
    done(&f, "ends early"); /* right so far */
    start(&f);
    forge_disk(&f, 0, "vda", false);
    done(&f, "section vda does not match");
}

static void forge_index(struct forge *f, uint32_t entries)
{
    forge_begin(f, "INDX");
    writer_u32(&f->out, entries);
    for (uint32_t i = 0; i < 3 * entries; i++)
        writer_u64(&f->out, 0);
    forge_end(f);
}

static void test_index_rules(void **state)
{
    static const struct {
        uint32_t first, second;
        const char *what;
    } cases[] = {
        {0, 0, "the index is damaged: it has an impossible length"},
        {INDEX_ENTRIES + 1, 0, "the index is damaged: it has an impossible length"},
        {1, 1, "the index is damaged: it has an impossible length"}, /* the first is not full */
        {3, 0, "more entries than the image has pages"},
        {INDEX_ENTRIES, INDEX_ENTRIES, "more entries than the image has pages"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct forge f;
        start(&f);
        forge_disk(&f, 0, "vda", true);
        forge_disk(&f, 1, "vdb", true);
        forge_index(&f, cases[i].first);
        forge_index(&f, cases[i].second);
        done(&f, cases[i].what);
    }
}

/* A record that lies elsewhere than it says, with a right sum. */
static void test_moved_record(void **state)
{
    struct forge f = forge_new();

    (void)state;
    forge_header(&f, IMAGE_VERSION, 0);
    forge_manifest(&f, "{}");
    size_t start_of_state = f.out.size;
    forge_state(&f, 0, "vcpu0", "state", 5);
    uint8_t *record = f.out.data + start_of_state;
    size_t size = f.out.size - start_of_state;
    record[12] ^= 1;
    uint64_t sum = htole64(xxh3(record, size - RECORD_SUM_BYTES));
    memcpy(record + size - RECORD_SUM_BYTES, &sum, sizeof(sum));
    done(&f, "section vcpu0 is damaged: it belongs elsewhere");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),         cmocka_unit_test(test_manifest_size),
        cmocka_unit_test(test_state_sections), cmocka_unit_test(test_data_sections),
        cmocka_unit_test(test_chunk_heads),    cmocka_unit_test(test_references),
        cmocka_unit_test(test_chunk_content),  cmocka_unit_test(test_lying_frames),
        cmocka_unit_test(test_page_rules),     cmocka_unit_test(test_index_rules),
        cmocka_unit_test(test_moved_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The reference image: one that has every feature, a signed child with state, RAM, disks, a file,
 * chunks of its own, equal ones and kept nodes, open and sealed.  It reads right in all ways, and
 * whatever is changed of it is refused: each bit, each length, each order of its records, in little
 * memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/chain.h"
#include "imagefmt/format.h"
#include "imagefmt/sign.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

/* Sanitizers are slow: a sample of the bits is looked at under them; and hungry. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif
#ifdef SANITIZED
enum { BIT_STEP = 53, CUT_STEP = 7, ORDER_STEP = 11, MEASURE_MEMORY = false };
#else
enum { BIT_STEP = 3, CUT_STEP = 1, ORDER_STEP = 1, MEASURE_MEMORY = true };
#endif

#define CHUNK       UINT64_C(4096)
#define DISK_CHUNKS 11

static const struct image_secret key = {
    .kind = SECRET_KEY_FILE, .size = 32, .bytes = "this is a key file of 32 bytes.."};

struct reference {
    char folder[64], base_path[96], key_path[96];
    const char *search[1];
    struct image_environment env;
    struct sample sample;
    uint8_t *data;
    size_t size, signature; /* where the signature begins */
};

/* Content in whole chunks of one letter each, '.' for zero. */
static void paint(struct sample_section *section, const char *letters)
{
    for (size_t i = 0; i < section->size; i++) {
        char letter = letters[i / CHUNK];
        section->content[i] = letter == '.' ? 0 : (uint8_t)letter;
    }
}

static void fill(struct sample *sample)
{
    *sample = (struct sample){.manifest = "{\"format\": \"ferry machine\"}"};
    sample_add(sample, IMAGE_STATE, "vcpu0", 40, 0, 5);
    sample_add(sample, IMAGE_FILE, "kernel", 5000, CHUNK, 1);
    sample_add(sample, IMAGE_RAM, "ram", 3 * CHUNK, CHUNK, 1);
    sample_add(sample, IMAGE_DISK, "vda", (DISK_CHUNKS - 1) * CHUNK + 512, CHUNK, 1);
    sample_add(sample, IMAGE_STATE, "vda", 7, 0, 3);
    paint(&sample->sections[1], "kk");
    paint(&sample->sections[2], ".r.");
    paint(&sample->sections[3], "abcd.efggh.");
}

static void write_base(const struct reference *r, const struct image_secret *secret)
{
    const struct image_writer_options options = {.workers = 1, .secret = secret};
    CLEANUP_FD int fd = open(r->base_path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    assert_int_equal(sample_write(&r->sample, fd, &options, NULL, NULL), 0);
}

static void make_signer(const struct reference *r, struct signing_key **signer)
{
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    FILE *pem = fopen(r->key_path, "we");

    assert_int_equal(PEM_write_PrivateKey(pem, pkey, NULL, NULL, 0, NULL, NULL), 1);
    fclose(pem);
    EVP_PKEY_free(pkey);
    assert_int_equal(signing_key_read(r->key_path, signer, NULL), 0);
}

static void count_records(const struct reference *r)
{
    static const char *const tags[] = {"BASE", "MANI", "STAT", "DATA", "CHNK", "PAGE",
                                       "DEND", "INDX", "ROOT", "FOOT", "SIGN"};
    struct forge_record record;
    unsigned found = 0;

    for (size_t at = 0; forge_record_at(r->data, r->size, at, &record);
         at += record.size + record.stored)
        for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++)
            found |= !strcmp(record.tag, tags[i]) ? 1u << i : 0;
    assert_int_equal(found, (1u << sizeof(tags) / sizeof(*tags)) - 1);
}

static void setup(struct reference *r, bool sealed)
{
    CLEANUP(image_cleanup) struct image *base = NULL;
    CLEANUP(signing_key_cleanup) struct signing_key *signer = NULL;

    memset(r, 0, sizeof(*r));
    snprintf(r->folder, sizeof(r->folder), "/tmp/ferry-reference.XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    snprintf(r->base_path, sizeof(r->base_path), "%s/base.ferry", r->folder);
    snprintf(r->key_path, sizeof(r->key_path), "%s/signer.pem", r->folder);
    r->search[0] = r->folder;
    r->env = (struct image_environment){
        .search = r->search, .search_count = 1, .secret = sealed ? &key : NULL};
    fill(&r->sample);
    write_base(r, r->env.secret);
    assert_int_equal(image_open_path(r->base_path, &r->env, &base, NULL), 0);
    make_signer(r, &signer);
    paint(&r->sample.sections[3], "abcd.XYXgX."); /* kept, new, equal, and no longer there */
    const struct image_writer_options options = {
        .workers = 1, .base = base, .secret = r->env.secret, .signer = signer};
    r->data = sample_image(&r->sample, &options, &r->size);
    assert_non_null(r->data);
    r->signature = r->size - (sealed ? 152 : 128);
    r->sample.env = &r->env;
    count_records(r);
}

static void teardown(struct reference *r)
{
    unlink(r->base_path);
    unlink(r->key_path);
    assert_int_equal(rmdir(r->folder), 0);
    sample_free(&r->sample);
    free(r->data);
}

/* The peak of this process's memory, in bytes; 0: not known. */
static uint64_t peak_bytes(void)
{
    char text[8192];
    CLEANUP_FD int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof(text) - 1);

    text[got > 0 ? got : 0] = 0;
    const char *at = strstr(text, "VmHWM:");
    return at ? strtoull(at + 6, NULL, 10) * 1024 : 0;
}

static void refused_in_order(const struct reference *r, const uint8_t *data, size_t size,
                             const char *what, size_t at)
{
    struct ferry_error err = {0};
    int error = sample_read_with(data, size, &r->env, &err);

    if (!error || err.kind != FERRY_REFUSED || !*err.message)
        fail_msg("%s %zu: error %d, kind %d: '%s'", what, at, error, (int)err.kind, err.message);
}

/* At random, too; or it is nothing that is looked at, and the content is right. */
static void refused_or_right(const struct reference *r, const uint8_t *data, size_t size,
                             const char *what, size_t at)
{
    struct ferry_error err = {0};
    CLEANUP_FD int fd = sample_fd(data, size);
    int error = sample_access(&r->sample, fd, &err);

    if (error && err.kind != FERRY_REFUSED)
        fail_msg("%s %zu, at random: %d, kind %d: '%s'", what, at, error, (int)err.kind,
                 err.message);
}

static void reads_right(bool sealed)
{
    struct reference r;
    struct image_summary summary;
    struct ferry_error err = {0};

    setup(&r, sealed);
    CLEANUP_FD int fd = sample_fd(r.data, r.size);
    if (sample_compare(&r.sample, fd, 2, &summary, &err) || sample_access(&r.sample, fd, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_true(summary.child);
    assert_int_equal(summary.sealed, sealed);
    assert_int_equal(summary.signers, 1);
    teardown(&r);
}

static void test_reads_right(void **state)
{
    (void)state;
    reads_right(false);
    reads_right(true);
}

static void every_bit(bool sealed)
{
    struct reference r;

    setup(&r, sealed);
    uint64_t before = peak_bytes();
    for (size_t bit = 0; bit < 8 * r.size; bit += BIT_STEP) {
        r.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refused_in_order(&r, r.data, r.size, "bit", bit);
        if (bit % 7 == 0)
            refused_or_right(&r, r.data, r.size, "bit", bit);
        r.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(!MEASURE_MEMORY || peak_bytes() - before < 64 * MIB);
    teardown(&r);
}

static void test_every_bit(void **state)
{
    (void)state;
    every_bit(false);
    every_bit(true);
}

/* Sums made right again: the rest of the image disagrees, or GCM's tag does.  A zstd frame has more
 * than one form for one content. */
static void every_bit_repaired(bool sealed)
{
    struct reference r;
    struct forge_record record;

    setup(&r, sealed);
    CLEANUP_FREE uint8_t *copy = malloc(r.size);
    assert_non_null(copy);
    for (size_t at = 0; forge_record_at(r.data, r.size, at, &record);
         at += record.size + record.stored)
        for (size_t bit = 64; bit < 8 * (record.size + record.stored); bit += BIT_STEP) {
            memcpy(copy, r.data, r.size);
            copy[at + bit / 8] ^= (uint8_t)(1u << bit % 8);
            forge_repair(copy, &record);
            if (!memcmp(copy, r.data, r.size))
                continue; /* it was a sum or an offset */
            if (bit / 8 < record.size)
                refused_in_order(&r, copy, r.size, record.tag, bit);
            refused_or_right(&r, copy, r.size, record.tag, bit);
        }
    teardown(&r);
}

static void test_every_bit_repaired(void **state)
{
    (void)state;
    every_bit_repaired(false);
    every_bit_repaired(true);
}

/* What is left when a whole signature is cut off is an image that was never signed. */
static void every_truncation(bool sealed)
{
    struct reference r;

    setup(&r, sealed);
    for (size_t left = 0; left < r.size; left += CUT_STEP) {
        struct ferry_error err = {0};
        CLEANUP_FD int fd = sample_fd(r.data, left);
        if (left == r.signature)
            continue;
        refused_in_order(&r, r.data, left, "length", left);
        int error = sample_access(&r.sample, fd, &err);
        if (!error || err.kind != FERRY_REFUSED)
            fail_msg("length %zu, at random: %d '%s'", left, error, err.message);
    }
    assert_int_equal(sample_read_with(r.data, r.signature, &r.env, NULL), 0);
    teardown(&r);
}

static void test_every_truncation(void **state)
{
    (void)state;
    every_truncation(false);
    every_truncation(true);
}

/* Records in another order, their offsets and sums right. */
static void arranged(const struct reference *r, const struct forge_record *records,
                     const unsigned *order, unsigned count, uint8_t *copy)
{
    size_t at = 0;

    for (unsigned i = 0; i < count; i++) {
        const struct forge_record *record = &records[order[i]];
        memcpy(copy + at, r->data + record->start, record->size + record->stored);
        at += record->size + record->stored;
    }
    forge_repair_all(copy, at);
    refused_in_order(r, copy, at, "order", order[0] + 1000 * (size_t)count);
    refused_or_right(r, copy, at, "order", order[0] + 1000 * (size_t)count);
}

static void every_order(bool sealed)
{
    enum { MOST = 80 };
    struct forge_record records[MOST];
    unsigned order[MOST + 1], count = 0;
    struct reference r;

    setup(&r, sealed);
    CLEANUP_FREE uint8_t *copy = malloc(2 * r.size);
    assert_non_null(copy);
    for (size_t at = 0; count < MOST && forge_record_at(r.data, r.size, at, &records[count]);
         count++)
        at += records[count].size + records[count].stored;
    assert_in_range(count, 20, MOST - 1);
    for (unsigned i = 0; i < count; i++) {
        for (unsigned j = i + 1; j < count; j += ORDER_STEP) { /* swapped */
            for (unsigned k = 0; k < count; k++)
                order[k] = k == i ? j : k == j ? i : k;
            arranged(&r, records, order, count, copy);
        }
        for (unsigned k = 0; k <= count; k++) /* repeated */
            order[k] = k <= i ? k : k - 1;
        arranged(&r, records, order, count + 1, copy);
        for (unsigned k = 0; k + 1 < count; k++) /* left out; the signature may be */
            order[k] = k < i ? k : k + 1;
        if (i + 1 < count)
            arranged(&r, records, order, count - 1, copy);
    }
    teardown(&r);
}

static void test_every_order(void **state)
{
    (void)state;
    every_order(false);
    every_order(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_right),        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_every_bit_repaired), cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

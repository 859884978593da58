/*
 * Sealed images: what comes back with the right secret, and what is refused without it, damaged,
 * or put together from parts of other sealed images.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/chain.h"
#include "imagefmt/format.h"
#include "imagefmt/seal.h"
#include "imagefmt/sign.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

static const struct image_secret key = {
    .kind = SECRET_KEY_FILE, .size = 32, .bytes = "this is a key file of 32 bytes.."};
static const struct image_secret other_key = {
    .kind = SECRET_KEY_FILE, .size = 32, .bytes = "this is a key file of 32 bytes,,"};
static const struct image_environment with_key = {.secret = &key};

/* A sealed image in memory. */
struct sealed {
    uint8_t *data;
    size_t size;
};

static struct sealed seal_sample(const struct sample *sample, const struct image_secret *secret)
{
    const struct image_writer_options options = {.workers = 2, .secret = secret};
    struct sealed image;

    image.data = sample_image(sample, &options, &image.size);
    assert_non_null(image.data);
    return image;
}

static struct sealed seal_small(const struct image_secret *secret)
{
    struct sample sample = {0};

    sample_small(&sample);
    struct sealed image = seal_sample(&sample, secret);
    sample_free(&sample);
    return image;
}

/* The n-th record with this tag. */
static struct forge_record find(const struct sealed *image, const char *tag, unsigned n)
{
    struct forge_record record;

    for (size_t at = 0; forge_record_at(image->data, image->size, at, &record);
         at += record.size + record.stored)
        if (!strcmp(record.tag, tag) && !n--)
            return record;
    fail_msg("no record %s", tag);
    return record;
}

static void refused(const struct sealed *image, const struct image_environment *env, int code)
{
    struct ferry_error err = {0};

    int error = sample_read_with(image->data, image->size, env, &err);
    assert_int_equal(err.kind, FERRY_REFUSED);
    if (code)
        assert_int_equal(error, code);
    err = (struct ferry_error){0};
    error = sample_access_with(image->data, image->size, env, &err);
    assert_int_equal(err.kind, FERRY_REFUSED);
    if (code)
        assert_int_equal(error, code);
}

static void comes_back(const struct image_secret *secret)
{
    const struct image_environment env = {.secret = secret};
    struct image_summary summary;
    struct ferry_error err;
    struct sample sample = {0};

    sample_fill(&sample, 5);
    sample.env = &env;
    struct sealed image = seal_sample(&sample, secret);
    CLEANUP_FD int fd = sample_fd(image.data, image.size);
    if (sample_compare(&sample, fd, 3, &summary, &err))
        fail_msg("%s: %s", err.about, err.message);
    assert_true(summary.sealed);
    if (sample_access(&sample, fd, &err))
        fail_msg("%s: %s", err.about, err.message);
    for (unsigned i = 0; i < sample.count; i++) { /* nothing of the content is left to see */
        const struct sample_section *section = &sample.sections[i];
        if (section->size >= 64)
            assert_null(memmem(image.data, image.size, section->content + section->size / 2, 24));
        assert_null(memmem(image.data, image.size, section->name, strlen(section->name) + 1));
    }
    assert_null(memmem(image.data, image.size, sample.manifest, 16));
    free(image.data);
    sample_free(&sample);
}

static void test_comes_back(void **state)
{
    struct image_secret passphrase = {0};

    (void)state;
    comes_back(&key);
    assert_int_equal(image_secret_passphrase(&passphrase, "open sesame", 11, NULL), 0);
    comes_back(&passphrase);
    image_secret_wipe(&passphrase);
    assert_int_equal(passphrase.size, 0);
}

static void test_root_is_that_of_the_content(void **state)
{
    struct sample sample = {0};
    uint8_t sealed[SHA256_BYTES], open[SHA256_BYTES];
    const struct image_writer_options options = {.secret = &key};
    CLEANUP_FD int one = sample_fd(NULL, 0);
    CLEANUP_FD int two = sample_fd(NULL, 0);

    (void)state;
    sample_small(&sample);
    assert_int_equal(sample_write(&sample, one, &options, sealed, NULL), 0);
    assert_int_equal(sample_write(&sample, two, NULL, open, NULL), 0);
    assert_memory_equal(sealed, open, SHA256_BYTES);
    sample_free(&sample);
}

static void test_needs_the_secret(void **state)
{
    struct sealed image = seal_small(&key);
    struct image_secret passphrase = {0};

    (void)state;
    assert_int_equal(image_secret_passphrase(&passphrase, "wrong", 5, NULL), 0);
    refused(&image, NULL, -ENOKEY);
    refused(&image, &(struct image_environment){.secret = &other_key}, -EKEYREJECTED);
    refused(&image, &(struct image_environment){.secret = &passphrase}, -EKEYREJECTED);
    free(image.data);
}

static int hand_out(void *opaque, const char *about, enum image_secret_kind kind,
                    const struct image_secret **secret, struct ferry_error *err)
{
    unsigned *asked = opaque;

    (void)about;
    (void)err;
    assert_int_equal(kind, SECRET_KEY_FILE);
    *secret = &key;
    ++*asked;
    return 0;
}

static void test_asks_once_an_open(void **state)
{
    struct sealed image = seal_small(&key);
    unsigned asked = 0;
    const struct image_environment env = {.ask = hand_out, .opaque = &asked};

    (void)state;
    assert_int_equal(sample_read_with(image.data, image.size, &env, NULL), 0);
    assert_int_equal(sample_access_with(image.data, image.size, &env, NULL), 0);
    assert_int_equal(asked, 2);
    free(image.data);
}

/* Random access does not read DATA and DEND, whose numbers the section table has, too. */
static bool read_at_random(const struct sealed *image, size_t at)
{
    struct forge_record record = {0};

    for (size_t start = 0; start <= at; start += record.size + record.stored)
        assert_int_equal(forge_record_at(image->data, image->size, start, &record), 1);
    return strcmp(record.tag, "DATA") && strcmp(record.tag, "DEND");
}

static void test_every_flipped_bit_is_refused(void **state)
{
    struct sealed image = seal_small(&key);

    (void)state;
    for (size_t at = 0; at < image.size; at++) {
        bool seen = read_at_random(&image, at);
        struct ferry_error err = {0}, at_random = {0};
        image.data[at] ^= (uint8_t)(1u << at % 8);
        sample_read_with(image.data, image.size, &with_key, &err);
        if (err.kind != FERRY_REFUSED)
            fail_msg("a flip at %zu", at);
        sample_access_with(image.data, image.size, &with_key, &at_random);
        if (seen && at_random.kind != FERRY_REFUSED)
            fail_msg("a flip at %zu, at random", at);
        image.data[at] ^= (uint8_t)(1u << at % 8);
    }
    assert_int_equal(sample_read_with(image.data, image.size, &with_key, NULL), 0);
    free(image.data);
}

/* Sums are against accident; whoever can repair them still has to get past the tags. */
static void test_tags_catch_what_sums_do_not(void **state)
{
    struct sealed image = seal_small(&key);
    CLEANUP_FREE uint8_t *copy = malloc(image.size);
    unsigned tried = 0;

    (void)state;
    assert_non_null(copy);
    for (size_t at = 0; at < image.size; at++) {
        struct ferry_error err = {0};
        memcpy(copy, image.data, image.size);
        copy[at] ^= (uint8_t)(1u << at % 8);
        forge_repair_all(copy, image.size);
        if (!memcmp(copy, image.data, image.size))
            continue; /* it was a sum or an offset */
        tried++;
        sample_read_with(copy, image.size, &with_key, &err);
        if (err.kind != FERRY_REFUSED)
            fail_msg("a flip at %zu behind right sums", at);
    }
    assert_true(tried > image.size / 2);
    free(image.data);
}

static void test_truncation_is_refused(void **state)
{
    struct sealed image = seal_small(&key);

    (void)state;
    for (size_t size = 0; size < image.size; size += 1 + size % 5) {
        struct sealed cut = {image.data, size};
        refused(&cut, &with_key, 0);
    }
    free(image.data);
}

/* Bodies of equal length change places, sums and offsets repaired. */
static void swap_bodies(const struct sealed *a, const struct forge_record *one,
                        const struct sealed *b, const struct forge_record *other)
{
    uint8_t *left = a->data + one->start, *right = b->data + other->start;

    assert_int_equal(one->size, other->size);
    for (size_t i = RECORD_HEAD_BYTES; i < one->size; i++) {
        uint8_t byte = left[i];
        left[i] = right[i];
        right[i] = byte;
    }
    forge_repair_all(a->data, a->size);
    forge_repair_all(b->data, b->size);
}

/* Four chunks of incompressible content, so that their frames have one length. */
static struct sealed seal_random(void)
{
    struct sample sample = {.manifest = "{}", .count = 1};
    struct sample_section *ram = &sample.sections[0];
    uint64_t seed = 77;

    *ram = (struct sample_section){
        .kind = IMAGE_RAM, .name = "ram", .chunk_bytes = 4096, .size = 16384};
    ram->content = malloc(ram->size);
    assert_non_null(ram->content);
    for (size_t i = 0; i < ram->size; i++)
        ram->content[i] = (uint8_t)sample_random(&seed);
    struct sealed image = seal_sample(&sample, &key);
    sample_free(&sample);
    return image;
}

static void test_nothing_can_be_moved(void **state)
{
    static const char *const tags[] = {"SEAL", "CHNK"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct sealed image = seal_random();
        struct forge_record one = find(&image, tags[i], 0), other = find(&image, tags[i], 2);
        swap_bodies(&image, &one, &image, &other);
        refused(&image, &with_key, 0);
        free(image.data);
    }
    struct sealed image = seal_random(); /* a chunk with its head */
    struct forge_record one = find(&image, "CHNK", 1), other = find(&image, "CHNK", 3);
    swap_bodies(&image, &one, &image, &other);
    one = find(&image, "SEAL", 1);
    other = find(&image, "SEAL", 3);
    swap_bodies(&image, &one, &image, &other);
    refused(&image, &with_key, 0);
    free(image.data);
}

/* Two images of equal content, sealed with one key file: no record of one fits the other. */
static void test_images_do_not_mix(void **state)
{
    static const char *const tags[] = {"CRYP", "MANI", "CHNK", "SEAL", "PAGE",
                                       "DEND", "INDX", "ROOT", "FOOT"};

    (void)state;
    for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++) {
        struct sealed a = seal_random(), b = seal_random();
        assert_int_equal(a.size, b.size);
        struct forge_record record = find(&a, tags[i], 0);
        swap_bodies(&a, &record, &b, &record);
        struct ferry_error err = {0};
        sample_read_with(a.data, a.size, &with_key, &err);
        assert_int_equal(err.kind, FERRY_REFUSED);
        err = (struct ferry_error){0};
        sample_read_with(b.data, b.size, &with_key, &err);
        assert_int_equal(err.kind, FERRY_REFUSED);
        free(a.data);
        free(b.data);
    }
}

static void put_u32(struct sealed *image, size_t at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        image->data[at + i] = (uint8_t)(value >> 8 * i);
    forge_repair_all(image->data, image->size);
}

/* Refused before anything is derived: neither memory nor time are the image's to spend. */
static void test_hostile_derivation(void **state)
{
    static const uint32_t hostile[][4] = {
        {1, 63, 8, 3},  {1, 15, 8, UINT32_MAX}, {1, 15, UINT32_MAX, 1}, {1, 64, 8, 1},
        {1, 17, 8, 1},  {1, 0, 8, 1},           {1, 15, 0, 1},          {1, 15, 8, 0},
        {1, 15, 8, 17}, {0, 0, 0, 0},           {3, 0, 0, 0},           {2, 15, 8, 3},
        {1, 21, 1, 1},  {1, UINT32_MAX, 1, 1}};
    struct image_secret passphrase = {0};
    struct ferry_error err;

    (void)state;
    assert_int_equal(image_secret_passphrase(&passphrase, "x", 1, NULL), 0);
    const struct image_environment env = {.secret = &passphrase};
    struct sealed image = seal_small(&key);
    size_t body = find(&image, "CRYP", 0).start + RECORD_HEAD_BYTES;
    for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
        for (unsigned j = 0; j < 4; j++)
            put_u32(&image, body + 4 * (size_t)j, hostile[i][j]);
        assert_int_equal(sample_read_with(image.data, image.size, &env, &err), -EBADMSG);
        assert_non_null(strstr(err.message, "the record of its sealing"));
        assert_int_equal(sample_access_with(image.data, image.size, &env, &err), -EBADMSG);
    }
    free(image.data);
}

/* An image cannot be made to pass for one that is not sealed, or with other flags. */
static void test_flags_are_bound(void **state)
{
    struct sealed image = seal_small(&key);

    (void)state;
    for (uint32_t flags = 0; flags < 9; flags++) {
        put_u32(&image, RECORD_HEAD_BYTES + 12, flags);
        struct ferry_error err = {0};
        sample_read_with(image.data, image.size, &with_key, &err);
        assert_int_equal(err.kind, flags == HEADER_SEALED ? 0 : FERRY_REFUSED);
    }
    free(image.data);
}

static void write_file(const char *path, const struct sealed *image)
{
    CLEANUP_FD int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    assert_int_equal(write_all(fd, image->data, image->size), 0);
}

static void sign_copy(const struct sealed *image, const char *path, const char *key_path,
                      struct sealed *out)
{
    CLEANUP(signing_key_cleanup) struct signing_key *signer = NULL;
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    FILE *pem = fopen(key_path, "we");
    uint8_t root[SHA256_BYTES];
    bool again;

    assert_int_equal(PEM_write_PrivateKey(pem, pkey, NULL, NULL, 0, NULL, NULL), 1);
    fclose(pem);
    EVP_PKEY_free(pkey);
    assert_int_equal(signing_key_read(key_path, &signer, NULL), 0);
    write_file(path, image);
    assert_int_equal(image_sign(path, &with_key, signer, &again, root, NULL), 0);
    assert_int_equal(file_read(path, 4 * MIB, &out->data, &out->size, NULL), 0);
    assert_int_equal(sample_read_with(out->data, out->size, &with_key, NULL), 0);
    assert_int_equal(sample_access_with(out->data, out->size, &with_key, NULL), 0);
}

/*
 * Two copies of an image, each signed by another key: the signatures lie at one place, under one
 * key.  With one nonce, too, the two ciphertexts would differ just where and as their texts do.
 */
static void test_signatures_share_no_nonce(void **state)
{
    char path[] = "/tmp/ferry-sealed-XXXXXX", key_path[] = "/tmp/ferry-signer-XXXXXX";
    struct sealed image = seal_small(&key), copies[2];

    (void)state;
    assert_int_equal(close(mkstemp(path)), 0);
    assert_int_equal(close(mkstemp(key_path)), 0);
    for (unsigned i = 0; i < 2; i++)
        sign_copy(&image, path, key_path, &copies[i]);
    assert_int_equal(copies[0].size, copies[1].size);
    /* The number of the algorithm is the same in both. */
    assert_memory_not_equal(copies[0].data + image.size + RECORD_HEAD_BYTES,
                            copies[1].data + image.size + RECORD_HEAD_BYTES, 4);
    /* Not a bit of it, its nonce neither, can be another one. */
    for (size_t at = image.size + RECORD_HEAD_BYTES; at < copies[0].size - 8; at++) {
        copies[0].data[at] ^= 1;
        forge_repair_all(copies[0].data, copies[0].size);
        refused(&copies[0], &with_key, 0);
        copies[0].data[at] ^= 1;
    }
    for (unsigned i = 0; i < 2; i++)
        free(copies[i].data);
    free(image.data);
    unlink(path);
    unlink(key_path);
}

static void secret_of(size_t size, const char *path)
{
    CLEANUP_FD int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    static const uint8_t bytes[LIMIT_SECRET_BYTES + 1] = {1};

    assert_int_equal(write(fd, bytes, size), size);
}

static void test_secrets_of_files(void **state)
{
    char path[] = "/tmp/ferry-secret-XXXXXX";
    struct image_secret secret = {0};
    CLEANUP_FD int fd = mkstemp(path);

    (void)state;
    static const struct {
        size_t size;
        int want;
    } sizes[] = {{0, -EINVAL},
                 {31, -EINVAL},
                 {32, 0},
                 {LIMIT_SECRET_BYTES, 0},
                 {LIMIT_SECRET_BYTES + 1, -EINVAL}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        secret_of(sizes[i].size, path);
        assert_int_equal(image_secret_key_file(&secret, path, NULL), sizes[i].want);
    }
    assert_int_equal(image_secret_passphrase_file(&secret, path, NULL), -EINVAL); /* a zero byte */
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(image_secret_passphrase_file(&secret, path, NULL), -EINVAL);
    assert_int_equal(write(fd, "open sesame\nand more\n", 21), 21);
    assert_int_equal(image_secret_passphrase_file(&secret, path, NULL), 0);
    assert_int_equal(secret.size, 11);
    assert_memory_equal(secret.bytes, "open sesame\0", 12);
    assert_int_equal(image_secret_key_file(&secret, "/nowhere", NULL), -ENOENT);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_root_is_that_of_the_content),
        cmocka_unit_test(test_needs_the_secret),
        cmocka_unit_test(test_asks_once_an_open),
        cmocka_unit_test(test_every_flipped_bit_is_refused),
        cmocka_unit_test(test_tags_catch_what_sums_do_not),
        cmocka_unit_test(test_truncation_is_refused),
        cmocka_unit_test(test_nothing_can_be_moved),
        cmocka_unit_test(test_images_do_not_mix),
        cmocka_unit_test(test_hostile_derivation),
        cmocka_unit_test(test_flags_are_bound),
        cmocka_unit_test(test_signatures_share_no_nonce),
        cmocka_unit_test(test_secrets_of_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

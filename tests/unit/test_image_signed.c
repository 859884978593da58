/* Signatures: by writer and by image_sign, how many, whose, and what is no signature. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/chain.h"
#include "imagefmt/sign.h"
#include "tests/support/image_forge.h"
#include "tests/support/image_sample.h"

/* A new key, through the PEM file that openssl would write. */
static struct signing_key *new_key(void)
{
    char path[] = "/tmp/ferry-key-XXXXXX";
    int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    struct signing_key *key = NULL;

    assert_non_null(file);
    assert_int_equal(PEM_write_PrivateKey(file, pkey, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    EVP_PKEY_free(pkey);
    assert_int_equal(signing_key_read(path, &key, NULL), 0);
    unlink(path);
    return key;
}

static uint8_t *signed_image(const struct signing_key *key, size_t *size)
{
    const struct image_writer_options options = {.workers = 1, .signer = key};
    struct sample sample = {0};

    sample_small(&sample);
    uint8_t *image = sample_image(&sample, &options, size);
    sample_free(&sample);
    assert_non_null(image);
    return image;
}

static void refused(const uint8_t *image, size_t size, const char *why)
{
    struct ferry_error err = {0};

    assert_int_equal(sample_read_bytes(image, size, &err), -EBADMSG);
    if (!strstr(err.message, why))
        fail_msg("says: %s", err.message);
    err = (struct ferry_error){0};
    assert_int_equal(sample_access_bytes(image, size, &err), -EBADMSG);
    assert_int_equal(err.kind, FERRY_REFUSED);
}

static void test_writer_signs(void **state)
{
    CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
    uint8_t public_key[SIGNER_KEY_BYTES];
    struct image_summary summary = {0};
    size_t size;
    CLEANUP_FREE uint8_t *image = signed_image(key, &size);
    CLEANUP_FD int fd = sample_fd(image, size);

    (void)state;
    signing_key_public(key, public_key);
    assert_int_equal(image_read(fd, "image", NULL, 1, NULL, NULL, &summary, NULL), 0);
    assert_int_equal(summary.signers, 1);
    assert_memory_equal(summary.signer[0], public_key, SIGNER_KEY_BYTES);
    assert_int_equal(sample_access_bytes(image, size, NULL), 0);
}

/* Whatever of it is changed, its sum made right again or not. */
static void test_no_signature(void **state)
{
    CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
    size_t size;
    CLEANUP_FREE uint8_t *image = signed_image(key, &size);
    CLEANUP_FREE uint8_t *copy = malloc(2 * size);

    (void)state;
    assert_non_null(copy);
    for (size_t at = size - 128 + 20; at < size - 8; at++) {
        memcpy(copy, image, size);
        copy[at] ^= (uint8_t)(1u << at % 8);
        assert_int_equal(sample_read_bytes(copy, size, NULL), -EBADMSG);
        forge_repair_all(copy, size);
        refused(copy, size, "a signature is damaged");
    }
    for (size_t cut = 1; cut < 128; cut++)
        refused(image, size - cut, "no whole signature");
    assert_int_equal(sample_read_bytes(image, size - 128, NULL), 0);
    memcpy(copy, image, size);
    memcpy(copy + size, image + size - 128, 128);
    forge_repair_all(copy, size + 128);
    refused(copy, size + 128, "has signed before");
}

/* One image's signature is none of another's. */
static void test_signature_of_another_root(void **state)
{
    CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
    size_t size, other_size;
    CLEANUP_FREE uint8_t *image = signed_image(key, &size);
    struct sample sample = {.manifest = "{}"};
    const struct image_writer_options options = {.signer = key};
    CLEANUP_FREE uint8_t *other = sample_image(&sample, &options, &other_size);

    (void)state;
    memcpy(other + other_size - 128 + 20, image + size - 128 + 20, 100);
    forge_repair_all(other, other_size);
    refused(other, other_size, "does not match the root");
}

static void test_sixteen_and_no_more(void **state)
{
    char path[] = "/tmp/ferry-signed-XXXXXX";
    size_t size;
    CLEANUP_FREE uint8_t *image = signed_image(NULL, &size);
    CLEANUP_FD int fd = mkstemp(path);
    uint8_t root[SHA256_BYTES], *seventeen;
    struct ferry_error err;
    bool again;

    (void)state;
    assert_int_equal(write_all(fd, image, size), 0);
    for (unsigned i = 0; i < LIMIT_SIGNERS; i++) {
        CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
        assert_int_equal(image_sign(path, NULL, key, &again, root, NULL), 0);
        assert_false(again);
        assert_int_equal(image_sign(path, NULL, key, &again, root, NULL), 0);
        assert_true(again);
    }
    CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
    assert_int_equal(image_sign(path, NULL, key, &again, root, &err), -ENOSPC);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_int_equal(file_read(path, 4 * MIB, &seventeen, &size, NULL), 0);
    unlink(path);
    assert_int_equal(sample_read_bytes(seventeen, size, NULL), 0);
    assert_int_equal(sample_access_bytes(seventeen, size, NULL), 0);
    size_t one;
    CLEANUP_FREE uint8_t *more = signed_image(key, &one);
    CLEANUP_FREE uint8_t *grown = realloc(seventeen, size + 128);
    assert_non_null(grown);
    memcpy(grown + size, more + one - 128, 128);
    forge_repair_all(grown, size + 128);
    refused(grown, size + 128, "one too many");
}

/* A record of another length is no signature, whatever it says. */
static void test_length(void **state)
{
    CLEANUP(signing_key_cleanup) struct signing_key *key = new_key();
    size_t size;
    CLEANUP_FREE uint8_t *image = signed_image(key, &size);

    (void)state;
    for (size_t body = 0; body < 140; body++) {
        struct forge f = forge_new();
        writer_copy(&f.out, image, size - 128);
        forge_begin(&f, "SIGN");
        for (size_t i = 0; i < body; i++)
            writer_u8(&f.out, i < 100 ? image[size - 108 + i] : 0);
        forge_end(&f);
        if (body == 100)
            assert_memory_equal(f.out.data, image, size);
        else
            refused(f.out.data, f.out.size, "impossible length");
        forge_free(&f);
    }
}

static void test_keys(void **state)
{
    char path[] = "/tmp/ferry-key-XXXXXX";
    struct signing_key *key = NULL;
    uint8_t public_key[SIGNER_KEY_BYTES];
    struct ferry_error err;

    (void)state;
    assert_int_equal(close(mkstemp(path)), 0);
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    FILE *pem = fopen(path, "we");
    char secret[] = "secret";
    assert_int_equal(PEM_write_PrivateKey(pem, pkey, EVP_aes_256_cbc(), (unsigned char *)secret,
                                          (int)strlen(secret), NULL, NULL),
                     1);
    fclose(pem);
    EVP_PKEY_free(pkey);
    assert_int_equal(signing_key_read(path, &key, &err), -EINVAL);
    assert_int_equal(err.kind, FERRY_USAGE);
    assert_non_null(strstr(err.message, "without a passphrase"));
    assert_int_equal(signer_read(path, public_key, &err), -EINVAL);
    unlink(path);
    assert_int_equal(signing_key_read(path, &key, &err), -ENOENT);
    assert_int_equal(signer_read(path, public_key, &err), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writer_signs),
        cmocka_unit_test(test_no_signature),
        cmocka_unit_test(test_signature_of_another_root),
        cmocka_unit_test(test_sixteen_and_no_more),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

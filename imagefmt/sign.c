/*
 * Signing.  What is signed is the root, which depends on all content and on nothing else, so that a
 * signature outlives another chunk size, another level of compression, and sealing.
 */
#include "imagefmt/sign.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/access.h"
#include "imagefmt/record.h"

#define ALGORITHM_ED25519 1
#define CONTEXT           "ferry image root 1\n"
#define MESSAGE_BYTES     (sizeof(CONTEXT) - 1 + SHA256_BYTES)

struct signing_key {
    EVP_PKEY *pkey;
    uint8_t public_key[SIGNER_KEY_BYTES];
};

/* ---- Keys ---- */

/* A key with a passphrase is not asked for: there is nobody to ask here. */
static int no_passphrase(char *text, int size, int writing, void *opaque)
{
    (void)text;
    (void)size;
    (void)writing;
    (void)opaque;
    return 0;
}

static bool public_of(EVP_PKEY *pkey, uint8_t public_key[SIGNER_KEY_BYTES])
{
    size_t size = SIGNER_KEY_BYTES;

    return EVP_PKEY_is_a(pkey, "ED25519") &&
           EVP_PKEY_get_raw_public_key(pkey, public_key, &size) == 1 && size == SIGNER_KEY_BYTES;
}

static int read_pem(const char *path, bool private, EVP_PKEY **out,
                    uint8_t public_key[SIGNER_KEY_BYTES], struct ferry_error *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return ferry_fail_sys(err, -errno, path, "cannot read the key");
    *out = private ? PEM_read_PrivateKey(file, NULL, no_passphrase, NULL)
                   : PEM_read_PUBKEY(file, NULL, no_passphrase, NULL);
    fclose(file);
    if (*out && public_of(*out, public_key))
        return 0;
    EVP_PKEY_free(*out);
    return ferry_usage(err, path, "is not the PEM of an Ed25519 %s key%s",
                       private ? "private" : "public", private ? " without a passphrase" : "");
}

int signing_key_read(const char *path, struct signing_key **out, struct ferry_error *err)
{
    CLEANUP_FREE struct signing_key *key = calloc(1, sizeof(*key));

    if (!key)
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    int error = read_pem(path, true, &key->pkey, key->public_key, err);
    if (!error)
        *out = take_ptr(&key);
    return error;
}

void signing_key_cleanup(struct signing_key **key)
{
    if (!*key)
        return;
    EVP_PKEY_free((*key)->pkey);
    free(take_ptr(key));
}

void signing_key_public(const struct signing_key *key, uint8_t public_key[SIGNER_KEY_BYTES])
{
    memcpy(public_key, key->public_key, SIGNER_KEY_BYTES);
}

int signer_read(const char *path, uint8_t public_key[SIGNER_KEY_BYTES], struct ferry_error *err)
{
    EVP_PKEY *pkey = NULL;

    int error = read_pem(path, false, &pkey, public_key, err);
    if (!error)
        EVP_PKEY_free(pkey);
    return error;
}

char *signer_fingerprint(const uint8_t public_key[SIGNER_KEY_BYTES],
                         char text[2 * SHA256_BYTES + 1])
{
    uint8_t digest[SHA256_BYTES];

    sha256(public_key, SIGNER_KEY_BYTES, digest);
    return hex_encode(digest, SHA256_BYTES, text);
}

/* ---- Signatures ---- */

static void make_message(const uint8_t root[SHA256_BYTES], uint8_t message[MESSAGE_BYTES])
{
    memcpy(message, CONTEXT, sizeof(CONTEXT) - 1);
    memcpy(message + sizeof(CONTEXT) - 1, root, SHA256_BYTES);
}

int signature_write(const struct signing_key *key, const uint8_t root[SHA256_BYTES],
                    struct writer *body, struct ferry_error *err)
{
    uint8_t message[MESSAGE_BYTES], signature[SIGNATURE_BYTES];
    size_t size = sizeof(signature);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    make_message(root, message);
    bool ok = ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key->pkey) == 1 &&
              EVP_DigestSign(ctx, signature, &size, message, sizeof(message)) == 1;
    EVP_MD_CTX_free(ctx);
    if (!ok || size != sizeof(signature))
        return ferry_fail(err, -EIO, "signature", "libcrypto failed");
    writer_u32(body, ALGORITHM_ED25519);
    writer_copy(body, key->public_key, SIGNER_KEY_BYTES);
    writer_copy(body, signature, sizeof(signature));
    return 0;
}

static bool verifies(const uint8_t public_key[SIGNER_KEY_BYTES], const uint8_t *signature,
                     const uint8_t root[SHA256_BYTES])
{
    uint8_t message[MESSAGE_BYTES];
    EVP_PKEY *pkey =
        EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, SIGNER_KEY_BYTES);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();

    make_message(root, message);
    bool ok = pkey && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestVerify(ctx, signature, SIGNATURE_BYTES, message, sizeof(message)) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    return ok;
}

static bool has_signed(const struct image_summary *summary, const uint8_t *public_key)
{
    for (unsigned i = 0; i < summary->signers; i++)
        if (!memcmp(summary->signer[i], public_key, SIGNER_KEY_BYTES))
            return true;
    return false;
}

const char *signature_read(struct reader *body, const uint8_t root[SHA256_BYTES],
                           struct image_summary *summary)
{
    uint8_t public_key[SIGNER_KEY_BYTES], signature[SIGNATURE_BYTES];

    uint32_t algorithm = reader_u32(body);
    reader_copy(body, public_key, sizeof(public_key));
    reader_copy(body, signature, sizeof(signature));
    if (body->error || reader_left(body))
        return "it has an impossible length";
    if (algorithm != ALGORITHM_ED25519)
        return "its algorithm is unknown";
    if (summary->signers == LIMIT_SIGNERS)
        return "it is one too many";
    if (has_signed(summary, public_key))
        return "its signer has signed before";
    if (!verifies(public_key, signature, root))
        return "it does not match the root";
    memcpy(summary->signer[summary->signers++], public_key, SIGNER_KEY_BYTES);
    return NULL;
}

/* ---- Signing a file ---- */

/* All of it to the new file, sharing blocks where the file system can. */
static int copy_all(int from, int to, uint64_t size, const char *path, struct ferry_error *err)
{
    off_t at = 0;

    while ((uint64_t)at < size) {
        ssize_t got = copy_file_range(from, &at, to, NULL, size - (uint64_t)at, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ferry_fail_sys(err, -errno, path, "cannot copy the image");
        if (!got)
            return ferry_refuse(err, -EBADMSG, path, "has become shorter");
    }
    return 0;
}

static int append(const struct image *image, int fd, const struct signing_key *key,
                  struct ferry_error *err)
{
    CLEANUP(writer_free) struct writer record = writer_init(RECORD_LIMIT_BYTES);

    record_begin(&record, RECORD_SIGNATURE, image->summary.bytes);
    int error = signature_write(key, image->summary.root, &record, err);
    if (error)
        return error;
    record_end(&record, image->seal);
    if (record.error)
        return image_no_memory(image, err);
    error = write_all(fd, record.data, record.size);
    return error ? ferry_fail_sys(err, error, image->about, "cannot write the signature") : 0;
}

int image_sign(const char *path, const struct image_environment *env, const struct signing_key *key,
               bool *again, uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    int error = image_open_path(path, env, &image, err);
    if (error)
        return error;
    memcpy(root, image->summary.root, SHA256_BYTES);
    *again = has_signed(&image->summary, key->public_key);
    if (*again)
        return 0;
    if (image->summary.signers == LIMIT_SIGNERS)
        return ferry_refuse(err, -ENOSPC, path, "has %d signatures already", LIMIT_SIGNERS);
    error = atomic_file_open(&file, path, err);
    if (!error)
        error = copy_all(image->fd, file.fd, image->summary.bytes, path, err);
    if (!error)
        error = append(image, file.fd, key, err);
    return error ? error : atomic_file_commit(&file, err);
}

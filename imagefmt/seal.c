/*
 * Keys and ciphers, all of libcrypto.  A nonce never comes twice with one key: each image has keys
 * of its own; a record's nonce holds its offset, and a chunk's, under another key, its section and
 * index, which are known before its place in the file is, so that the workers can seal.
 */
#include "imagefmt/seal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "common/cleanup.h"
#include "imagefmt/format.h"

#define SCRYPT_LOG2N       15 /* 32 MiB, about 0.2 s */
#define SCRYPT_R           8
#define SCRYPT_P           3
#define SCRYPT_LOG2N_LIMIT 20
#define SCRYPT_R_LIMIT     32
#define MASTER_BYTES       32

void seal_params_write(struct writer *body, const struct seal_params *params)
{
    writer_u32(body, params->source);
    writer_u32(body, params->log2n);
    writer_u32(body, params->r);
    writer_u32(body, params->p);
    writer_copy(body, params->salt, SEAL_SALT_BYTES);
    writer_copy(body, params->check, SEAL_CHECK_BYTES);
}

const char *seal_params_read(struct reader *body, struct seal_params *params)
{
    params->source = reader_u32(body);
    params->log2n = reader_u32(body);
    params->r = reader_u32(body);
    params->p = reader_u32(body);
    reader_copy(body, params->salt, SEAL_SALT_BYTES);
    reader_copy(body, params->check, SEAL_CHECK_BYTES);
    if (body->error || reader_left(body))
        return "it has an impossible length";
    if (params->source == SECRET_KEY_FILE)
        return params->log2n || params->r || params->p ? "a key file needs no scrypt" : NULL;
    if (params->source != SECRET_PASSPHRASE)
        return "its key comes from an unknown source";
    if (!params->log2n || params->log2n > SCRYPT_LOG2N_LIMIT || !params->r ||
        params->r > SCRYPT_R_LIMIT || !params->p || params->p > LIMIT_SCRYPT_PARALLEL ||
        (UINT64_C(128) * params->r << params->log2n) > LIMIT_SCRYPT_BYTES)
        return "its scrypt would take more memory or time than is allowed";
    return NULL;
}

/* ---- Keys ---- */

static int crypto_failed(const char *about, struct ferry_error *err)
{
    return ferry_fail(err, -EIO, about, "libcrypto failed");
}

/* HKDF-SHA256 to both keys and the check value; HEAD's flags are bound by it. */
static bool derive(uint8_t *master, size_t size, uint32_t flags, const uint8_t *salt_given,
                   struct image_key *key, uint8_t check[SEAL_CHECK_BYTES])
{
    uint8_t info[17] = "ferry image 1", out[2 * SEAL_KEY_BYTES + SEAL_CHECK_BYTES];
    uint8_t salt[SEAL_SALT_BYTES]; /* OSSL_PARAM wants what may be written to */
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, master, size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, SEAL_SALT_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof(info)),
        OSSL_PARAM_construct_end(),
    };

    memcpy(salt, salt_given, sizeof(salt));
    flags = htole32(flags);
    memcpy(info + 13, &flags, sizeof(flags));
    bool ok = ctx && EVP_KDF_derive(ctx, out, sizeof(out), params) > 0;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    if (ok) {
        memcpy(key->records, out, SEAL_KEY_BYTES);
        memcpy(key->chunks, out + SEAL_KEY_BYTES, SEAL_KEY_BYTES);
        memcpy(check, out + 2 * (size_t)SEAL_KEY_BYTES, SEAL_CHECK_BYTES);
    }
    OPENSSL_cleanse(out, sizeof(out));
    return ok;
}

/* The seal that secret and params give, and the check value that goes with it. */
static int derive_seal(const struct image_secret *secret, const struct seal_params *params,
                       uint32_t flags, uint8_t check[SEAL_CHECK_BYTES], struct seal **out,
                       struct ferry_error *err)
{
    uint8_t master[LIMIT_SECRET_BYTES];
    size_t size = secret->size;
    bool ok = true;
    struct seal *seal = calloc(1, sizeof(*seal));

    if (!seal || !(seal->cipher = cipher_new())) {
        free(seal);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    memcpy(master, secret->bytes, size);
    if (secret->kind == SECRET_PASSPHRASE) {
        size = MASTER_BYTES;
        ok = EVP_PBE_scrypt((const char *)secret->bytes, secret->size, params->salt,
                            SEAL_SALT_BYTES, UINT64_C(1) << params->log2n, params->r, params->p,
                            LIMIT_SCRYPT_BYTES + 2 * MIB, master, size) == 1;
    }
    ok = ok && derive(master, size, flags, params->salt, &seal->key, check);
    OPENSSL_cleanse(master, sizeof(master));
    *out = seal;
    if (ok)
        return 0;
    seal_free(take_ptr(out));
    return crypto_failed("seal", err);
}

int seal_make(const struct image_secret *secret, uint32_t flags, struct seal_params *params,
              struct seal **out, struct ferry_error *err)
{
    bool passphrase = secret->kind == SECRET_PASSPHRASE;

    *params = (struct seal_params){.source = secret->kind,
                                   .log2n = passphrase ? SCRYPT_LOG2N : 0,
                                   .r = passphrase ? SCRYPT_R : 0,
                                   .p = passphrase ? SCRYPT_P : 0};
    if (RAND_bytes(params->salt, SEAL_SALT_BYTES) != 1)
        return crypto_failed("random numbers", err);
    return derive_seal(secret, params, flags, params->check, out, err);
}

static int find_secret(const struct seal_params *params, const char *about,
                       const struct image_environment *env, const struct image_secret **secret,
                       struct ferry_error *err)
{
    bool passphrase = params->source == SECRET_PASSPHRASE;

    *secret = env ? env->secret : NULL;
    if (!*secret && env && env->ask) {
        int error =
            env->ask(env->opaque, about, (enum image_secret_kind)params->source, secret, err);
        if (error)
            return error;
    }
    if (!*secret)
        return ferry_refuse(err, -ENOKEY, about, "is sealed: its %s is needed",
                            passphrase ? "passphrase" : "key file");
    if ((*secret)->kind != params->source)
        return ferry_refuse(err, -EKEYREJECTED, about, "is sealed with %s, not with %s",
                            passphrase ? "a passphrase" : "a key file",
                            passphrase ? "a key file" : "a passphrase");
    return 0;
}

int seal_unlock(const struct seal_params *params, uint32_t flags, const char *about,
                const struct image_environment *env, struct seal **out, struct ferry_error *err)
{
    const struct image_secret *secret;
    uint8_t check[SEAL_CHECK_BYTES];

    int error = find_secret(params, about, env, &secret, err);
    if (!error)
        error = derive_seal(secret, params, flags, check, out, err);
    if (error || !CRYPTO_memcmp(check, params->check, sizeof(check)))
        return error;
    seal_free(take_ptr(out));
    return ferry_refuse(err, -EKEYREJECTED, about, "is not sealed with this %s",
                        params->source == SECRET_PASSPHRASE ? "passphrase" : "key file");
}

void seal_free(struct seal *seal)
{
    if (!seal)
        return;
    cipher_free(seal->cipher);
    OPENSSL_cleanse(seal, sizeof(*seal));
    free(seal);
}

/* ---- AES-256-GCM ---- */

struct cipher *cipher_new(void)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    if (ctx && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, NULL, NULL) == 1)
        return (struct cipher *)ctx;
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

void cipher_free(struct cipher *cipher)
{
    EVP_CIPHER_CTX_free((EVP_CIPHER_CTX *)cipher);
}

/* data in place; the tag lies behind it.  Bodies are far below GCM's and OpenSSL's limits. */
static bool crypt_in_place(struct cipher *cipher, bool seal, const uint8_t *key,
                           const uint8_t *nonce, const uint8_t *bound, size_t bound_size,
                           uint8_t *data, size_t size)
{
    EVP_CIPHER_CTX *ctx = (EVP_CIPHER_CTX *)cipher;
    uint8_t *tag = data + size;
    int done, rest;

    if (EVP_CipherInit_ex(ctx, NULL, NULL, key, nonce, seal) != 1 ||
        EVP_CipherUpdate(ctx, NULL, &done, bound, (int)bound_size) != 1)
        return false;
    if (!seal && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_BYTES, tag) != 1)
        return false;
    if ((size && EVP_CipherUpdate(ctx, data, &done, data, (int)size) != 1) ||
        EVP_CipherFinal_ex(ctx, data + size, &rest) != 1)
        return false;
    return !seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_BYTES, tag) == 1;
}

/* Tag and offset of a record follow each other, and are just as long as a nonce. */
#define RECORD_NONCE_AT RECORD_FRAME_BYTES
_Static_assert(RECORD_NONCE_AT + SEAL_NONCE_BYTES == RECORD_HEAD_BYTES, "the nonce of a record");

static bool is_signature(const uint8_t *head)
{
    return !memcmp(head + RECORD_NONCE_AT, "SIGN", 4);
}

size_t seal_record_adds(const uint8_t *head)
{
    return SEAL_TAG_BYTES + (is_signature(head) ? SEAL_SIGN_BYTES : 0);
}

/*
 * Copies of an image have its keys, and each may be signed by somebody else: signatures lie at one
 * place then.  So their nonce ends with random bytes instead of the offset.
 */
static void record_nonce(const uint8_t *head, const uint8_t *random,
                         uint8_t nonce[SEAL_NONCE_BYTES])
{
    memcpy(nonce, head + RECORD_NONCE_AT, SEAL_NONCE_BYTES);
    if (is_signature(head))
        memcpy(nonce + SEAL_NONCE_BYTES - SEAL_SIGN_BYTES, random, SEAL_SIGN_BYTES);
}

bool seal_record(const struct seal *seal, const uint8_t *head, uint8_t *data, size_t size)
{
    uint8_t nonce[SEAL_NONCE_BYTES], *random = data + size + SEAL_TAG_BYTES;

    if (is_signature(head) && RAND_bytes(random, SEAL_SIGN_BYTES) != 1)
        return false;
    record_nonce(head, random, nonce);
    return crypt_in_place(seal->cipher, true, seal->key.records, nonce, head, RECORD_HEAD_BYTES,
                          data, size);
}

bool unseal_record(const struct seal *seal, const uint8_t *head, uint8_t *data, size_t size)
{
    size_t adds = seal_record_adds(head);
    uint8_t nonce[SEAL_NONCE_BYTES];

    if (size < adds)
        return false;
    record_nonce(head, data + size - SEAL_SIGN_BYTES, nonce);
    return crypt_in_place(seal->cipher, false, seal->key.records, nonce, head, RECORD_HEAD_BYTES,
                          data, size - adds);
}

static bool crypt_chunk(struct cipher *cipher, bool seal, const struct image_key *key,
                        uint32_t section, uint64_t index, uint8_t *data, size_t size)
{
    static const uint8_t bound[4] = {'S', 'E', 'A', 'L'};
    uint8_t nonce[SEAL_NONCE_BYTES];

    section = htole32(section);
    index = htole64(index);
    memcpy(nonce, &section, sizeof(section));
    memcpy(nonce + sizeof(section), &index, sizeof(index));
    return crypt_in_place(cipher, seal, key->chunks, nonce, bound, sizeof(bound), data, size);
}

bool seal_chunk(struct cipher *cipher, const struct image_key *key, uint32_t section,
                uint64_t index, uint8_t *data, size_t size)
{
    return crypt_chunk(cipher, true, key, section, index, data, size);
}

bool unseal_chunk(struct cipher *cipher, const struct image_key *key, uint32_t section,
                  uint64_t index, uint8_t *data, size_t size)
{
    return size >= SEAL_TAG_BYTES &&
           crypt_chunk(cipher, false, key, section, index, data, size - SEAL_TAG_BYTES);
}

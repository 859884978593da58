/* XXH3-64 from libxxhash, SHA-256 and its relatives from OpenSSL. */
/*
 * One-shot sums of a few KiB are taken by the million: OpenSSL's plain functions need neither the
 * memory nor the microsecond of an EVP context each, but count as old-fashioned since 3.0.
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "common/hash.h"

#include <errno.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <xxh_x86dispatch.h> /* the same functions, by what the CPU has: four times as fast */

uint64_t xxh3(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

/* struct digest and struct sha256 are OpenSSL's digest context under other names: nothing else to
 * keep. */
static EVP_MD_CTX *new_context(const EVP_MD *md)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    if (context && !EVP_DigestInit_ex(context, md, NULL)) {
        EVP_MD_CTX_free(context);
        context = NULL;
    }
    return context;
}

size_t digest_bytes(enum digest_kind kind)
{
    return kind == DIGEST_SHA1 ? SHA_DIGEST_LENGTH : kind == DIGEST_SHA256 ? SHA256_BYTES : 64;
}

const char *digest_name(enum digest_kind kind)
{
    return kind == DIGEST_SHA1 ? "SHA1" : kind == DIGEST_SHA256 ? "SHA256" : "SHA512";
}

struct digest *digest_new(enum digest_kind kind)
{
    return (struct digest *)new_context(kind == DIGEST_SHA1     ? EVP_sha1()
                                        : kind == DIGEST_SHA256 ? EVP_sha256()
                                                                : EVP_sha512());
}

void digest_update(struct digest *d, const void *data, size_t size)
{
    EVP_DigestUpdate((EVP_MD_CTX *)d, data, size);
}

void digest_final(struct digest *d, uint8_t *out)
{
    EVP_DigestFinal_ex((EVP_MD_CTX *)d, out, NULL);
    digest_free(d);
}

void digest_free(struct digest *d)
{
    EVP_MD_CTX_free((EVP_MD_CTX *)d);
}

struct sha256 *sha256_new(void)
{
    return (struct sha256 *)new_context(EVP_sha256());
}

void sha256_update(struct sha256 *s, const void *data, size_t size)
{
    EVP_DigestUpdate((EVP_MD_CTX *)s, data, size);
}

void sha256_final(struct sha256 *s, uint8_t out[SHA256_BYTES])
{
    EVP_DigestFinal_ex((EVP_MD_CTX *)s, out, NULL);
    sha256_free(s);
}

void sha256_free(struct sha256 *s)
{
    EVP_MD_CTX_free((EVP_MD_CTX *)s);
}

void sha256(const void *data, size_t size, uint8_t out[SHA256_BYTES])
{
    SHA256_CTX context;

    SHA256_Init(&context);
    SHA256_Update(&context, data, size);
    SHA256_Final(out, &context);
}

char *hex_encode(const void *data, size_t size, char *text)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *bytes = data;

    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * size] = 0;
    return text;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *text, void *data, size_t size)
{
    uint8_t *bytes = data;

    if (strlen(text) != 2 * size)
        return -EINVAL;
    for (size_t i = 0; i < size; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

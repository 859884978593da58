/* The two sums of DESIGN 6: XXH3-64 against accident, SHA-256 as identity. */
#ifndef FERRY_COMMON_HASH_H
#define FERRY_COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32

uint64_t xxh3(const void *data, size_t size); /* XXH3-64, seed 0 (xxHash 0.8) */

struct sha256;                   /* an incremental sum */
struct sha256 *sha256_new(void); /* NULL: out of memory */
void sha256_update(struct sha256 *s, const void *data, size_t size);
void sha256_final(struct sha256 *s, uint8_t out[SHA256_BYTES]); /* frees s */
void sha256_free(struct sha256 *s); /* an unfinished one; NULL is fine */
void sha256(const void *data, size_t size, uint8_t out[SHA256_BYTES]);

/* The sums that other formats' manifests state; incremental, as above. */
enum digest_kind {
    DIGEST_SHA1,
    DIGEST_SHA256,
    DIGEST_SHA512,
    DIGEST_KINDS,
};
#define DIGEST_MAX_BYTES 64

struct digest;
size_t digest_bytes(enum digest_kind kind);
const char *digest_name(enum digest_kind kind);   /* "SHA256" */
struct digest *digest_new(enum digest_kind kind); /* NULL: out of memory */
void digest_update(struct digest *d, const void *data, size_t size);
void digest_final(struct digest *d, uint8_t *out); /* digest_bytes of its kind; frees d */
void digest_free(struct digest *d);                /* an unfinished one; NULL is fine */

/* Lower-case hexadecimal; text holds 2 * size + 1 bytes.  Returns text. */
char *hex_encode(const void *data, size_t size, char *text);
/* Exactly 2 * size digits; -EINVAL otherwise. */
int hex_decode(const char *text, void *data, size_t size);

#endif

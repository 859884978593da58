/*
 * Sealing (FORMAT.md, Sealed images): the keys of an image from a secret, and AES-256-GCM over
 * records and chunks.  Private to imagefmt/.
 */
#ifndef FERRY_IMAGEFMT_SEAL_H
#define FERRY_IMAGEFMT_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "imagefmt/chain.h"

#define SEAL_TAG_BYTES   16u /* what sealing adds to a body */
#define SEAL_SALT_BYTES  32
#define SEAL_CHECK_BYTES 16
#define SEAL_NONCE_BYTES 12
#define SEAL_SIGN_BYTES  8 /* and what it adds to that of a signature: the end of its nonce */
#define SEAL_KEY_BYTES   32

/* The body of CRYP. */
struct seal_params {
    uint32_t source; /* enum image_secret_kind */
    uint32_t log2n, r, p;
    uint8_t salt[SEAL_SALT_BYTES];
    uint8_t check[SEAL_CHECK_BYTES];
};

void seal_params_write(struct writer *body, const struct seal_params *params);
/* NULL, or what is wrong with them; an allowed derivation takes at most LIMIT_SCRYPT_BYTES. */
const char *seal_params_read(struct reader *body, struct seal_params *params);

/* The keys of one image: never those of another one, as the salt is random. */
struct image_key {
    uint8_t records[SEAL_KEY_BYTES];
    uint8_t chunks[SEAL_KEY_BYTES];
};

/* AES-256-GCM for one thread at a time. */
struct cipher;

struct cipher *cipher_new(void);         /* NULL: out of memory */
void cipher_free(struct cipher *cipher); /* NULL is fine */

/* Keys and a cipher: what a reader or writer of a sealed image seals its records with. */
struct seal {
    struct image_key key;
    struct cipher *cipher;
};

/* A new seal for a new image whose HEAD has these flags; params are for its CRYP. */
int seal_make(const struct image_secret *secret, uint32_t flags, struct seal_params *params,
              struct seal **out, struct ferry_error *err);
/*
 * The seal of an image that has these params, by the environment's secret.  Refused: no secret
 * (-ENOKEY), one of the other kind or a wrong one (-EKEYREJECTED).
 */
int seal_unlock(const struct seal_params *params, uint32_t flags, const char *about,
                const struct image_environment *env, struct seal **out, struct ferry_error *err);
void seal_free(struct seal *seal); /* wipes the keys; NULL is fine */

/* What sealing adds to the body of the record with this head (its first 20 bytes). */
size_t seal_record_adds(const uint8_t *head);
/*
 * data[0..size) in place, with seal_record_adds(head) bytes of room behind.  A record: head is its
 * first 20 bytes, whose tag and offset are the nonce, but for signatures.  Returns false only if
 * libcrypto fails.
 */
bool seal_record(const struct seal *seal, const uint8_t *head, uint8_t *data, size_t size);
/* The reverse; size counts what was added.  False: it is not what was sealed there. */
bool unseal_record(const struct seal *seal, const uint8_t *head, uint8_t *data, size_t size);
/* A chunk: the frame of chunk index of a section, inside a SEAL record. */
bool seal_chunk(struct cipher *cipher, const struct image_key *key, uint32_t section,
                uint64_t index, uint8_t *data, size_t size);
bool unseal_chunk(struct cipher *cipher, const struct image_key *key, uint32_t section,
                  uint64_t index, uint8_t *data, size_t size);

#endif

/* Signatures over the root (FORMAT.md, SIGN): Ed25519, RFC 8032. */
#ifndef FERRY_IMAGEFMT_SIGN_H
#define FERRY_IMAGEFMT_SIGN_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/hash.h"
#include "imagefmt/image.h"

#define SIGNER_KEY_BYTES 32
#define SIGNATURE_BYTES  64

struct signing_key; /* an Ed25519 private key */

/* PEM as `openssl genpkey -algorithm ed25519` writes it, without a passphrase.  FERRY_USAGE. */
int signing_key_read(const char *path, struct signing_key **out, struct ferry_error *err);
void signing_key_cleanup(struct signing_key **key); /* CLEANUP(signing_key_cleanup) */
void signing_key_public(const struct signing_key *key, uint8_t public_key[SIGNER_KEY_BYTES]);
/* PEM of a public key (`openssl pkey -pubout`).  FERRY_USAGE. */
int signer_read(const char *path, uint8_t public_key[SIGNER_KEY_BYTES], struct ferry_error *err);
/* What people compare: the SHA-256 of the public key in hexadecimal.  Returns text. */
char *signer_fingerprint(const uint8_t public_key[SIGNER_KEY_BYTES],
                         char text[2 * SHA256_BYTES + 1]);

/*
 * The image at path, signed by key, under its name in place of the one without the signature:
 * complete or not at all.  Its table and root are checked first.  *again: it had this signature,
 * nothing was done.  Refused: damaged, or signed by LIMIT_SIGNERS already.
 */
int image_sign(const char *path, const struct image_environment *env, const struct signing_key *key,
               bool *again, uint8_t root[SHA256_BYTES], struct ferry_error *err);

/* Private to imagefmt/.  The body of a SIGN record by this key. */
int signature_write(const struct signing_key *key, const uint8_t root[SHA256_BYTES],
                    struct writer *body, struct ferry_error *err);
/* Check the body of one and note its signer: NULL, or what is wrong with it. */
const char *signature_read(struct reader *body, const uint8_t root[SHA256_BYTES],
                           struct image_summary *summary);

#endif

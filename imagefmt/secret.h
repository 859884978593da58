/*
 * What an image is sealed with: a passphrase, or the bytes of a key file.  It lives in memory only
 * and is wiped when it is no longer needed; it never goes into a message or a log.
 */
#ifndef FERRY_IMAGEFMT_SECRET_H
#define FERRY_IMAGEFMT_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/limits.h"

enum image_secret_kind { SECRET_NONE = 0, SECRET_PASSPHRASE = 1, SECRET_KEY_FILE = 2 };

struct image_secret {
    enum image_secret_kind kind;
    size_t size;
    uint8_t bytes[LIMIT_SECRET_BYTES];
};

/* A passphrase of 1 to LIMIT_PASSPHRASE_BYTES bytes.  FERRY_USAGE otherwise. */
int image_secret_passphrase(struct image_secret *secret, const char *text, size_t size,
                            struct ferry_error *err);
/* The first line of a file, without its newline. */
int image_secret_passphrase_file(struct image_secret *secret, const char *path,
                                 struct ferry_error *err);
/* A whole file of 32 to LIMIT_SECRET_BYTES bytes; they should be random. */
int image_secret_key_file(struct image_secret *secret, const char *path, struct ferry_error *err);
/* Nothing is left of it.  Also the cleanup function: CLEANUP(image_secret_wipe). */
void image_secret_wipe(struct image_secret *secret);

#endif

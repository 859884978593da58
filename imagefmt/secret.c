/* Secrets from files.  They are read without stdio, so that no buffer keeps a copy. */
#include "imagefmt/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "common/cleanup.h"

int image_secret_passphrase(struct image_secret *secret, const char *text, size_t size,
                            struct ferry_error *err)
{
    if (!size || size > LIMIT_PASSPHRASE_BYTES || memchr(text, 0, size))
        return ferry_usage(err, "passphrase", "must be text of 1 to %d bytes",
                           LIMIT_PASSPHRASE_BYTES);
    secret->kind = SECRET_PASSPHRASE;
    secret->size = size;
    memcpy(secret->bytes, text, size);
    return 0;
}

/* Up to LIMIT_SECRET_BYTES of the file into secret; *more: there would have been more.  A pipe is
 * as good as a file. */
static int read_file(struct image_secret *secret, const char *path, bool *more,
                     struct ferry_error *err)
{
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    uint8_t extra;
    ssize_t got = fd < 0 ? -1 : 1;

    secret->size = 0;
    while (got > 0 && secret->size < LIMIT_SECRET_BYTES) {
        got = read(fd, secret->bytes + secret->size, LIMIT_SECRET_BYTES - secret->size);
        secret->size += got > 0 ? (size_t)got : 0;
        got = got < 0 && errno == EINTR ? 1 : got;
    }
    if (got > 0)
        got = read(fd, &extra, 1);
    if (got < 0)
        return ferry_fail_sys(err, -errno, path, "cannot read the secret");
    *more = got > 0;
    return 0;
}

int image_secret_passphrase_file(struct image_secret *secret, const char *path,
                                 struct ferry_error *err)
{
    bool more;

    int error = read_file(secret, path, &more, err);
    if (error)
        return error;
    const uint8_t *end = memchr(secret->bytes, '\n', secret->size);
    size_t size = end ? (size_t)(end - secret->bytes) : secret->size;
    if (!size || size > LIMIT_PASSPHRASE_BYTES || memchr(secret->bytes, 0, size))
        return ferry_usage(err, path, "its first line is no passphrase of 1 to %d bytes",
                           LIMIT_PASSPHRASE_BYTES);
    OPENSSL_cleanse(secret->bytes + size, sizeof(secret->bytes) - size);
    secret->size = size;
    secret->kind = SECRET_PASSPHRASE;
    return 0;
}

int image_secret_key_file(struct image_secret *secret, const char *path, struct ferry_error *err)
{
    bool more;

    int error = read_file(secret, path, &more, err);
    if (error)
        return error;
    if (secret->size < LIMIT_SECRET_LEAST_BYTES || more)
        return ferry_usage(err, path,
                           "a key file has %d to %d bytes; 'head -c 32 /dev/urandom' "
                           "makes one",
                           LIMIT_SECRET_LEAST_BYTES, LIMIT_SECRET_BYTES);
    secret->kind = SECRET_KEY_FILE;
    return 0;
}

void image_secret_wipe(struct image_secret *secret)
{
    OPENSSL_cleanse(secret, sizeof(*secret));
}

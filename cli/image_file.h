/* An image named on the command line: a file, or '-' for stdin. */
#ifndef FERRY_CLI_IMAGE_FILE_H
#define FERRY_CLI_IMAGE_FILE_H

#include "cli/options.h"
#include "imagefmt/chain.h"

/* What every command that reads an image takes: a member of its parsed struct, and its lines of the
 * table of options. */
struct image_file_options {
    struct option_strings search;
    const char *passphrase_file, *key_file;
};

#define IMAGE_FILE_OPTIONS(S, M)                                                       \
    OPTION("search-path", "DIR", OPTION_STRINGS, S, M.search,                          \
           "look for the images this one builds on in DIR, too; may be\ngiven again"), \
        IMAGE_SECRET_OPTIONS(S, M)

/* The secret alone: also what every command takes that writes sealed images. */
#define IMAGE_SECRET_OPTIONS(S, M)                                                  \
    OPTION("passphrase-file", "FILE", OPTION_STRING, S, M.passphrase_file,          \
           "the passphrase of a sealed image is the first line of FILE\n(default: " \
           "the terminal is asked for it)"),                                        \
        OPTION("key-file", "FILE", OPTION_STRING, S, M.key_file,                    \
               "an image is sealed with the bytes of FILE, not a passphrase")

/*
 * Of commands that write images, beside IMAGE_SECRET_OPTIONS (or IMAGE_FILE_OPTIONS, if they read
 * images too) with an image_file_options of theirs:
 *
 *     bool encrypt;
 *     OPTION_ENCRYPT(struct x, encrypt)
 *     CLEANUP(image_secret_wipe) struct image_secret secret = {0};
 *     image_file_seal(&o->image, o->encrypt, o->dest, &secret, err)
 *     ... image_writer_options.secret (snapshot_options.secret) = secret.kind ? &secret : NULL
 */
#define OPTION_ENCRYPT(S, M)                                                                \
    OPTION("encrypt", NULL, OPTION_FLAG, S, M,                                              \
           "seal the image: with --passphrase-file, --key-file, or a\npassphrase that the " \
           "terminal is asked for, twice")

/* Is there one among the options?  Commands that only write take that for --encrypt. */
bool image_file_has_secret(const struct image_file_options *options);
/* The secret that a new image is to be sealed with; encrypt is false: none. */
int image_file_seal(const struct image_file_options *options, bool encrypt, const char *about,
                    struct image_secret *secret, struct ferry_error *err);

/* What an image may draw on, by these options; not to be copied once it is open. */
struct image_file_environment {
    struct image_environment env; /* hand this on */
    struct image_secret secret;
};

/* Reads the secret, if its file is named; a passphrase that is not is asked for when it is needed.
 */
int image_file_environment_open(const struct image_file_options *options,
                                struct image_file_environment *environment,
                                struct ferry_error *err);
/* Wipes the secret.  Also the cleanup function. */
void image_file_environment_close(struct image_file_environment *environment);
/* The image and what it needs, by these options. */
int image_file_open_chain(const char *file, const struct image_file_options *options,
                          struct image **out, struct ferry_error *err);
/* Returns a descriptor to read from (a new one, also for stdin); a terminal is FERRY_USAGE. */
int image_file_open(const char *command, const char *file, struct ferry_error *err);
/* What messages call it. */
const char *image_file_about(const char *file);

#endif

/* An image named on the command line: a file, or '-' for stdin. */
#ifndef FERRY_CLI_IMAGE_FILE_H
#define FERRY_CLI_IMAGE_FILE_H

#include "cli/options.h"
#include "imagefmt/chain.h"

/* What every command that reads an image takes: a member of its parsed struct, and its lines of the
 * table of options. */
struct image_file_options {
    struct option_strings search;
};

#define IMAGE_FILE_OPTIONS(S, M)                              \
    OPTION("search-path", "DIR", OPTION_STRINGS, S, M.search, \
           "look for the images this one builds on in DIR, too; may be\ngiven again")

/* The image and what it needs, by these options. */
int image_file_open_chain(const char *file, const struct image_file_options *options,
                          struct image **out, struct ferry_error *err);
/* Returns a descriptor to read from (a new one, also for stdin); a terminal is FERRY_USAGE. */
int image_file_open(const char *command, const char *file, struct ferry_error *err);
/* What messages call it. */
const char *image_file_about(const char *file);

#endif

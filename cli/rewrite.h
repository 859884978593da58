/* What flatten and rebase share: an image written once more. */
#ifndef FERRY_CLI_REWRITE_H
#define FERRY_CLI_REWRITE_H

#include "cli/image_file.h"
#include "cli/progress.h"

struct rewrite_cli {
    const char *source, *dest;
    const char *base; /* NULL: a whole image */
    struct image_file_options image;
    bool encrypt;
    uint64_t level;
    bool json;
    struct progress_options progress;
};

#define REWRITE_OPTIONS                                                            \
    OPTION_RANGE("level", "N", struct rewrite_cli, level, 1, 19,                   \
                 "zstd level, 1 (fast) to 19 (small)"),                            \
        OPTION_ENCRYPT(struct rewrite_cli, encrypt),                               \
        IMAGE_FILE_OPTIONS(struct rewrite_cli, image),                             \
        OPTION("json", NULL, OPTION_FLAG, struct rewrite_cli, json, "print JSON"), \
        PROGRESS_OPTIONS(struct rewrite_cli, progress)

/* command: its name, for messages. */
int rewrite_run(const char *command, const struct rewrite_cli *o, struct ferry_error *err);

#endif

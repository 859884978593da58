/* ferry verify: is an image whole? */
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/units.h"
#include "imagefmt/image.h"

struct verify_options {
    const char *file;
    bool json;
};

static int run(void *parsed, struct ferry_error *err)
{
    const struct verify_options *o = parsed;
    const struct image_visitor nothing = {0};
    struct image_summary summary;
    char root[2 * SHA256_BYTES + 1], bytes[32];

    CLEANUP_FD int fd = image_file_open("verify", o->file, err);
    if (fd < 0)
        return fd;
    int error = image_read(fd, image_file_about(o->file), 0, &nothing, NULL, &summary, err);
    if (error)
        return error;
    hex_encode(summary.root, SHA256_BYTES, root);
    if (o->json)
        return output_json(json_pack("{s:b, s:i, s:I, s:I, s:I, s:s}", "ok", 1, "version",
                                     (int)summary.version, "bytes", (json_int_t)summary.bytes,
                                     "content_bytes", (json_int_t)summary.content_bytes, "chunks",
                                     (json_int_t)summary.chunks, "root", root),
                           err);
    output_text("%s: whole, %s, root %s", image_file_about(o->file),
                format_size(summary.bytes, bytes, sizeof(bytes)), root);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct verify_options, json, "print JSON"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct verify_options, file, "the image; '-' for stdin"),
    {.name = NULL},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "Check every sum of an image",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct verify_options),
    .run = run,
};

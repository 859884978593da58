/* ferry flatten: a child and all that it builds on, as one whole image. */
#include "cli/commands.h"
#include "cli/rewrite.h"

static int run(void *parsed, struct ferry_error *err)
{
    return rewrite_run("flatten", parsed, err);
}

static const struct option_spec options[] = {
    REWRITE_OPTIONS,
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("IMAGE", struct rewrite_cli, source, "the image"),
    OPERAND("DEST", struct rewrite_cli, dest, "the whole image to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_flatten = {
    .name = "flatten",
    .summary = "Make a whole image of one that builds on others",
    .details = "Its root stays the same.  DEST appears under its name only when it is complete.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct rewrite_cli),
    .run = run,
};

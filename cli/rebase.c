/* ferry rebase: an image as a child of another one. */
#include "cli/commands.h"
#include "cli/rewrite.h"

static int run(void *parsed, struct ferry_error *err)
{
    const struct rewrite_cli *o = parsed;

    if (!o->base)
        return ferry_usage(err, "rebase", "--base is missing: the image to build on");
    return rewrite_run("rebase", o, err);
}

static const struct option_spec options[] = {
    OPTION("base", "FILE", OPTION_STRING, struct rewrite_cli, base, "the image to build on"),
    REWRITE_OPTIONS,
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("IMAGE", struct rewrite_cli, source, "the image"),
    OPERAND("DEST", struct rewrite_cli, dest, "the child to write, perhaps IMAGE; '-' for stdout"),
    {.name = NULL},
};

const struct command command_rebase = {
    .name = "rebase",
    .summary = "Make an image build on another one",
    .details =
        "What is in the base is not stored again.  The root stays the same.  DEST appears under\n"
        "its name only when it is complete.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct rewrite_cli),
    .run = run,
};

/* ferry resume */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

struct resume_options {
    const char *name;
};

static int run(void *parsed, struct ferry_error *err)
{
    const struct resume_options *o = parsed;

    return client_ask(o->name, "resume", NULL, -1, NULL, err);
}

static const struct operand_spec operands[] = {
    OPERAND("NAME", struct resume_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_resume = {
    .name = "resume",
    .summary = "Let a paused guest go on",
    .operands = operands,
    .parsed_size = sizeof(struct resume_options),
    .run = run,
};

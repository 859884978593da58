/* ferry pause */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

struct pause_options {
    const char *name;
};

static int run(void *parsed, struct ferry_error *err)
{
    const struct pause_options *o = parsed;

    return client_ask(o->name, "pause", NULL, -1, NULL, err);
}

static const struct operand_spec operands[] = {
    OPERAND("NAME", struct pause_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_pause = {
    .name = "pause",
    .summary = "Stop a guest's CPUs until resume",
    .operands = operands,
    .parsed_size = sizeof(struct pause_options),
    .run = run,
};

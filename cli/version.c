/* ferry version */
#include "cli/commands.h"
#include "cli/output.h"

struct version_options {
    bool json;
};

static int run(void *parsed, struct ferry_error *err)
{
    const struct version_options *o = parsed;

    if (o->json)
        return output_json(json_pack("{s:s}", "version", FERRY_VERSION), err);
    output_text("ferry %s", FERRY_VERSION);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct version_options, json, "print JSON"),
    {.name = NULL},
};

const struct command command_version = {
    .name = "version",
    .summary = "Print the version of ferry",
    .options = options,
    .parsed_size = sizeof(struct version_options),
    .run = run,
};

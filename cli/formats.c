/* ferry formats: the table of disk formats. */
#include "cli/commands.h"
#include "cli/output.h"
#include "imagefmt/foreign/disk.h"

struct formats_options {
    bool json;
};

static int print_json(struct ferry_error *err)
{
    json_t *list = json_array();

    for (const struct disk_format *const *f = disk_formats; *f; f++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:b, s:b, s:b, s:s}", "name", (*f)->name,
                                        "extension", (*f)->extension, "reads", (*f)->open != NULL,
                                        "writes", (*f)->create != NULL, "streams",
                                        (*f)->create && (*f)->streams, "limits", (*f)->limits));
    return output_json(list, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct formats_options *o = parsed;

    if (o->json)
        return print_json(err);
    output_text("%-8s %-8s %-5s %-5s %-6s %s", "FORMAT", "FILE", "READ", "WRITE", "STREAM",
                "LIMITS");
    for (const struct disk_format *const *f = disk_formats; *f; f++)
        output_text("%-8s %-8s %-5s %-5s %-6s %s", (*f)->name, (*f)->extension,
                    (*f)->open ? "yes" : "no", (*f)->create ? "yes" : "no",
                    (*f)->create && (*f)->streams ? "yes" : "no", (*f)->limits);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct formats_options, json, "print JSON"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {{.name = NULL}};

const struct command command_formats = {
    .name = "formats",
    .summary = "List the formats of disks that ferry reads and writes",
    .details = "STREAM: 'ferry convert' can write it to a pipe.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct formats_options),
    .run = run,
};

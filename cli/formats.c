/* ferry formats: the tables of formats. */
#include "cli/commands.h"
#include "cli/output.h"
#include "imagefmt/foreign/bundle.h"

struct formats_options {
    bool json;
};

static json_t *disks_to_json(void)
{
    json_t *list = json_array();

    for (const struct disk_format *const *f = disk_formats; *f; f++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:b, s:b, s:b, s:b, s:s}", "name", (*f)->name, "extension",
                            (*f)->extension, "reads", (*f)->open != NULL, "streams_in",
                            (*f)->open_stream != NULL, "writes", (*f)->create != NULL, "streams",
                            (*f)->create && (*f)->streams, "limits", (*f)->limits));
    return list;
}

static json_t *machines_to_json(void)
{
    json_t *list = json_array();

    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:s}", "name", (*f)->name,
                            "extension", (*f)->extension ? (*f)->extension : "", "folder",
                            (int)(*f)->folder, "reads", (*f)->open != NULL, "streams_in",
                            (*f)->open && (*f)->streams_in, "writes", (*f)->write != NULL,
                            "streams", (*f)->write && (*f)->streams_out, "limits", (*f)->limits));
    return list;
}

/* "yes", "pipe" if a pipe will do, too, or "no". */
static const char *how(bool at_all, bool streams)
{
    return !at_all ? "no" : streams ? "pipe" : "yes";
}

static void print_row(const char *name, const char *extension, const char *reads,
                      const char *writes, const char *limits)
{
    output_text("%-10s %-8s %-5s %-5s %s", name, extension, reads, writes, limits);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct formats_options *o = parsed;

    if (o->json)
        return output_json(
            json_pack("{s:o, s:o}", "disks", disks_to_json(), "machines", machines_to_json()), err);
    print_row("DISK", "FILE", "READ", "WRITE", "LIMITS");
    for (const struct disk_format *const *f = disk_formats; *f; f++)
        print_row((*f)->name, (*f)->extension, how((*f)->open, (*f)->open_stream),
                  how((*f)->create, (*f)->streams), (*f)->limits);
    output_text("%s", "");
    print_row("MACHINE", "FILE", "READ", "WRITE", "LIMITS");
    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        print_row((*f)->name, (*f)->folder ? "folder" : (*f)->extension,
                  how((*f)->open, (*f)->streams_in), how((*f)->write, (*f)->streams_out),
                  (*f)->limits);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct formats_options, json, "print JSON"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {{.name = NULL}};

const struct command command_formats = {
    .name = "formats",
    .summary = "List the formats that ferry reads and writes",
    .details =
        "Disks: ferry convert.  Machines: ferry export, ferry import.  'pipe' is what can also "
        "come\nfrom one, or go to one.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct formats_options),
    .run = run,
};

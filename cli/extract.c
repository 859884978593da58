/* ferry extract: a section of an image as a plain file or stream. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"
#include "imagefmt/extract.h"

struct extract_cli {
    const char *image;
    const char *section;
    const char *dest;
    bool salvage;
    bool json;
    struct image_file_options file;
};

/* "vda", "disk:vda", "state:vda" */
static void parse_section(const char *text, struct extract_options *options)
{
    static const struct {
        const char *prefix;
        enum image_section_kind kind;
    } kinds[] = {
        {"state:", IMAGE_STATE}, {"ram:", IMAGE_RAM}, {"disk:", IMAGE_DISK}, {"file:", IMAGE_FILE}};

    options->name = text;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (!strncmp(text, kinds[i].prefix, strlen(kinds[i].prefix))) {
            options->kind = kinds[i].kind;
            options->name = text + strlen(kinds[i].prefix);
        }
}

/* A device or pipe that has the name would be replaced by the new file, not filled. */
static int check_dest(const char *dest, struct ferry_error *err)
{
    struct stat st;

    if (!stat(dest, &st) && !S_ISREG(st.st_mode))
        return ferry_usage(err, dest, "is not a plain file; give '-' and a pipe for anything else");
    return 0;
}

static int to_file(int fd, const struct extract_cli *o, const struct image_environment *env,
                   struct extract_options *options, struct extract_result *result,
                   struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    int error = check_dest(o->dest, err);
    if (!error)
        error = atomic_file_open(&file, o->dest, err);
    options->sparse = true;
    if (!error)
        error = image_extract(fd, image_file_about(o->image), env, file.fd, options, result, err);
    return error ? error : atomic_file_commit(&file, err);
}

static int to_stdout(int fd, const struct extract_cli *o, const struct image_environment *env,
                     const struct extract_options *options, struct extract_result *result,
                     struct ferry_error *err)
{
    if (o->json)
        return ferry_usage(err, "extract", "--json and the content cannot both go to stdout");
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, "extract", "give a file or a pipe, not a terminal");
    return image_extract(fd, image_file_about(o->image), env, STDOUT_FILENO, options, result, err);
}

static int print_json(const struct extract_result *r, struct ferry_error *err)
{
    char digest[2 * SHA256_BYTES + 1], damage[768];
    json_t *value = json_pack(
        "{s:s, s:I, s:I, s:b}", "name", r->section.name, "bytes", (json_int_t)r->section.size,
        "whole_bytes", (json_int_t)r->whole_bytes, "whole", r->whole_bytes == r->section.size);

    if (r->whole_bytes == r->section.size)
        json_object_set_new(value, "digest",
                            json_string(hex_encode(r->section.digest, SHA256_BYTES, digest)));
    if (r->damage.code)
        json_object_set_new(value, "damage",
                            json_string(ferry_error_text(&r->damage, damage, sizeof(damage))));
    return output_json(value, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct extract_cli *o = parsed;
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    struct extract_options options = {.salvage = o->salvage};
    struct extract_result result = {0};
    char size[32], whole[32], text[768];

    CLEANUP_FD int fd = image_file_open("extract", o->image, err);
    if (fd < 0)
        return fd;
    parse_section(o->section, &options);
    bool out = !strcmp(o->dest, "-");
    int error = image_file_environment_open(&o->file, &environment, err);
    if (!error)
        error = out ? to_stdout(fd, o, &environment.env, &options, &result, err)
                    : to_file(fd, o, &environment.env, &options, &result, err);
    if (error)
        return error;
    if (result.damage.code)
        output_note("%s", ferry_error_text(&result.damage, text, sizeof(text)));
    if (result.damage.code)
        output_note("%s: %s of %s were salvaged", result.section.name,
                    format_size(result.whole_bytes, whole, sizeof(whole)),
                    format_size(result.section.size, size, sizeof(size)));
    if (o->json)
        return print_json(&result, err);
    if (!out)
        output_text("%s: %s of %s", o->dest, format_size(result.whole_bytes, whole, sizeof(whole)),
                    result.section.name);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("salvage", NULL, OPTION_FLAG, struct extract_cli, salvage,
           "take what comes before the damage, if there is some"),
    OPTION("json", NULL, OPTION_FLAG, struct extract_cli, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct extract_cli, file),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("IMAGE", struct extract_cli, image, "the image; '-' for stdin"),
    OPERAND(
        "SECTION", struct extract_cli, section,
        "'ram', a disk, as 'vda', or a file, as 'kernel';\n'state:NAME' for the state of a device"),
    OPERAND("DEST", struct extract_cli, dest, "the file to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_extract = {
    .name = "extract",
    .summary = "Take a disk or the memory out of an image",
    .details = "Zeroes become holes of DEST, which appears under its name only when it is whole.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct extract_cli),
    .run = run,
};

/* ferry inspect: what an image holds; or a disk in a foreign format (inspect_disk.c). */
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/inspect_disk.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/units.h"
#include "snapshot/inspect.h"

struct inspect_options {
    const char *file;
    bool json;
    struct image_file_options image;
};

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value ? value : "";
}

static uint64_t number(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void print_section(const json_t *section, bool child)
{
    char size[32], content[32], stored[32];
    bool is_state = !strcmp(text(section, "kind"), "state");

    format_size(number(section, "bytes"), size, sizeof(size));
    format_size(number(section, "content_bytes"), content, sizeof(content));
    format_size(number(section, "stored_bytes"), stored, sizeof(stored));
    if (is_state)
        output_text("  %-12s %10s  version %d%s%s", text(section, "name"), size,
                    (int)number(section, "version"),
                    json_object_get(section, "problem") ? "; " : "", text(section, "problem"));
    else
        output_text("  %-12s %10s  %s of %s in %llu %s, stored in %s", text(section, "name"), size,
                    content, child ? "new content" : "content",
                    (unsigned long long)number(section, "chunks"),
                    child ? "chunks and ranges of the base" : "chunks", stored);
}

static void print(const char *file, const json_t *image)
{
    const json_t *machine = json_object_get(json_object_get(image, "manifest"), "machine");
    const json_t *sections = json_object_get(image, "sections");
    const json_t *signers = json_object_get(image, "signers");
    const json_t *risks = json_object_get(image, "risks");
    bool child = json_object_get(image, "base");
    char bytes[32], content[32], memory[32];

    output_text("%s: %s, version %d, %s for %s of content", image_file_about(file),
                text(image, "format"), (int)number(image, "version"),
                format_size(number(image, "bytes"), bytes, sizeof(bytes)),
                format_size(number(image, "content_bytes"), content, sizeof(content)));
    output_text("root %s", text(image, "root"));
    if (child)
        output_text("builds on %s", text(image, "base"));
    if (json_is_true(json_object_get(image, "sealed")))
        output_text("sealed");
    for (size_t i = 0; i < json_array_size(signers); i++)
        output_text("signed by %s", json_string_value(json_array_get(signers, i)));
    for (size_t i = 0; i < json_array_size(risks); i++)
        output_text("risk: %s", json_string_value(json_array_get(risks, i)));
    if (machine)
        output_text("machine %s: %d CPUs (%s), %s of memory, %d disks, epoch %llu, id %s",
                    text(machine, "name"), (int)number(machine, "cpus"), text(machine, "cpu_model"),
                    format_size(number(machine, "memory_bytes"), memory, sizeof(memory)),
                    (int)json_array_size(json_object_get(machine, "disks")),
                    (unsigned long long)number(machine, "epoch"), text(machine, "vm_id"));
    output_text("sections:");
    for (size_t i = 0; i < json_array_size(sections); i++)
        print_section(json_array_get(sections, i), child);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct inspect_options *o = parsed;
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    json_t *image = NULL;

    CLEANUP_FD int fd = image_file_open("inspect", o->file, err);
    if (fd < 0)
        return fd;
    if (inspect_is_disk(fd))
        return inspect_disk(fd, image_file_about(o->file), o->json, err);
    int error = image_file_environment_open(&o->image, &environment, err);
    if (!error)
        error = snapshot_inspect(fd, image_file_about(o->file), &environment.env, &image, err);
    if (error)
        return error;
    if (o->json)
        return output_json(image, err);
    print(o->file, image);
    json_decref(image);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct inspect_options, json,
           "print all of it as JSON, the state of every device too"),
    IMAGE_FILE_OPTIONS(struct inspect_options, image),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct inspect_options, file, "the image; '-' for stdin"),
    {.name = NULL},
};

const struct command command_inspect = {
    .name = "inspect",
    .summary = "Tell what an image holds",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct inspect_options),
    .run = run,
};

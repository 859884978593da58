/* ferry diff: what differs between two images. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/units.h"
#include "imagefmt/diff.h"

struct diff_options {
    const char *a, *b;
    bool json;
    struct image_file_options image;
};

struct diff {
    struct image *a, *b;
    json_t *sections; /* those that differ */
    json_t *ranges;   /* of the section being compared */
    uint64_t bytes;
};

static int no_memory(struct ferry_error *err)
{
    return ferry_fail(err, -ENOMEM, NULL, "out of memory");
}

static int add_range(void *opaque, uint64_t offset, uint64_t size, struct ferry_error *err)
{
    struct diff *d = opaque;

    d->bytes += size;
    return json_array_append_new(d->ranges,
                                 json_pack("[I, I]", (json_int_t)offset, (json_int_t)size))
               ? no_memory(err)
               : 0;
}

/* A section that differs, or that only one image has. */
static int add_section(struct diff *d, const struct image_section *section, const char *how,
                       json_t *ranges, struct ferry_error *err)
{
    json_t *value = json_pack("{s:s, s:s, s:s}", "kind", image_kind_name(section->kind), "name",
                              section->name, "difference", how);

    if (ranges) {
        json_object_set(value, "ranges", ranges);
        json_object_set_new(value, "bytes", json_integer((json_int_t)d->bytes));
    }
    return json_array_append_new(d->sections, value) ? no_memory(err) : 0;
}

static int compare_data(struct diff *d, uint32_t a, uint32_t b, struct ferry_error *err)
{
    const struct image_section *one = image_section(d->a, a), *other = image_section(d->b, b);

    d->bytes = 0;
    if (!(d->ranges = json_array()))
        return no_memory(err);
    int error = image_diff(d->a, a, d->b, b, add_range, d, err);
    if (!error)
        error = add_section(d, one, one->size == other->size ? "content" : "size", d->ranges, err);
    json_decref(d->ranges);
    return error;
}

static int compare_section(struct diff *d, uint32_t a, struct ferry_error *err)
{
    const struct image_section *one = image_section(d->a, a);
    int64_t b = image_find(d->b, one->kind, one->name);

    if (b < 0)
        return add_section(d, one, "only in the first", NULL, err);
    const struct image_section *other = image_section(d->b, (uint32_t)b);
    bool same = !memcmp(one->digest, other->digest, SHA256_BYTES) && one->size == other->size;
    if (same)
        return one->version == other->version ? 0 : add_section(d, one, "version", NULL, err);
    return one->kind == IMAGE_STATE ? add_section(d, one, "content", NULL, err)
                                    : compare_data(d, a, (uint32_t)b, err);
}

static int compare(struct diff *d, struct ferry_error *err)
{
    int error = 0;

    for (uint32_t i = 0; !error && i < image_sections(d->a); i++)
        error = compare_section(d, i, err);
    for (uint32_t i = 0; !error && i < image_sections(d->b); i++) {
        const struct image_section *section = image_section(d->b, i);
        if (image_find(d->a, section->kind, section->name) < 0)
            error = add_section(d, section, "only in the second", NULL, err);
    }
    return error;
}

static bool manifests_differ(const struct diff *d)
{
    size_t a_size, b_size;
    const char *a = image_manifest(d->a, &a_size), *b = image_manifest(d->b, &b_size);

    return a_size != b_size || memcmp(a, b, a_size);
}

static void print_section(const json_t *section)
{
    const char *kind = json_string_value(json_object_get(section, "kind"));
    const json_t *bytes = json_object_get(section, "bytes");
    const json_t *ranges = json_object_get(section, "ranges");
    char text[32];

    output_text("%s %s: %s%s%s", kind, json_string_value(json_object_get(section, "name")),
                json_string_value(json_object_get(section, "difference")), bytes ? ", " : "",
                bytes ? format_size((uint64_t)json_integer_value(bytes), text, sizeof(text)) : "");
    for (size_t i = 0; i < json_array_size(ranges); i++) {
        const json_t *range = json_array_get(ranges, i);
        uint64_t offset = (uint64_t)json_integer_value(json_array_get(range, 0));
        uint64_t size = (uint64_t)json_integer_value(json_array_get(range, 1));
        output_text(strcmp(kind, "ram") ? "  at byte %llu: %s" : "  at 0x%llx: %s",
                    (unsigned long long)offset, format_size(size, text, sizeof(text)));
    }
}

/* Status 1 says that they differ, as of diff and cmp; the person has been told already. */
static int print(const struct diff *d, bool json, struct ferry_error *err)
{
    bool manifest = manifests_differ(d);
    bool equal = !manifest && !json_array_size(d->sections);
    int error = 0;

    if (json)
        error = output_json(json_pack("{s:b, s:b, s:O}", "equal", equal, "manifest_differs",
                                      manifest, "sections", d->sections),
                            err);
    else {
        if (manifest)
            output_text("manifest: content");
        for (size_t i = 0; i < json_array_size(d->sections); i++)
            print_section(json_array_get(d->sections, i));
    }
    if (error || equal)
        return error;
    *err = (struct ferry_error){.kind = FERRY_FAILED, .code = -EILSEQ};
    return -EILSEQ;
}

static int open_image(const char *file, const struct image_environment *env, int *fd,
                      struct image **image, struct ferry_error *err)
{
    *fd = image_file_open("diff", file, err);
    return *fd < 0 ? *fd : image_open(*fd, image_file_about(file), env, image, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct diff_options *o = parsed;
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    CLEANUP_FD int a_fd = -1;
    CLEANUP_FD int b_fd = -1;
    CLEANUP(image_cleanup) struct image *a = NULL;
    CLEANUP(image_cleanup) struct image *b = NULL;

    int error = image_file_environment_open(&o->image, &environment, err);
    if (!error)
        error = open_image(o->a, &environment.env, &a_fd, &a, err);
    if (!error)
        error = open_image(o->b, &environment.env, &b_fd, &b, err);
    if (error)
        return error;
    struct diff d = {.a = a, .b = b, .sections = json_array()};
    error = d.sections ? compare(&d, err) : no_memory(err);
    if (!error)
        error = print(&d, o->json, err);
    json_decref(d.sections);
    return error;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct diff_options, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct diff_options, image),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("A", struct diff_options, a, "an image"),
    OPERAND("B", struct diff_options, b, "another one"),
    {.name = NULL},
};

const struct command command_diff = {
    .name = "diff",
    .summary = "Tell what differs between two images",
    .details = "Compares what the images' indexes say of each chunk, without reading the content.\n"
               "Status 0: they are equal, 1: they differ.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct diff_options),
    .run = run,
};

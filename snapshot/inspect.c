/* An image as JSON: a visitor that collects what it is shown. */
#include "snapshot/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "imagefmt/image.h"
#include "snapshot/manifest.h"
#include "vmm/machine.h"

struct inspect {
    const char *about;
    json_t *manifest;
    json_t *sections;
};

static int no_memory(const struct inspect *i, struct ferry_error *err)
{
    return ferry_fail(err, -ENOMEM, i->about, "out of memory");
}

static json_int_t number(uint64_t value)
{
    return (json_int_t)value;
}

static int collect_manifest(void *opaque, const char *text, size_t size, struct ferry_error *err)
{
    struct inspect *i = opaque;

    return manifest_parse(text, size, i->about, &i->manifest, err);
}

/* The state in words, or what keeps it from being shown. */
static int add_state(const struct image_section *section, const uint8_t *data, json_t *object)
{
    const struct machine_section saved = {
        .name = section->name,
        .version = section->version,
        .data = data,
        .size = section->size,
    };
    struct ferry_error problem = {0};
    char text[768];
    json_t *state = NULL;

    if (!machine_section_to_json(&saved, &state, &problem))
        return json_object_set_new(object, "state", state);
    ferry_error_text(&problem, text, sizeof(text));
    return json_object_set_new(object, "problem",
                               json_string(problem.code ? text : "no such device is known"));
}

static int collect_state(void *opaque, const struct image_section *section, const uint8_t *data,
                         struct ferry_error *err)
{
    struct inspect *i = opaque;
    char digest[2 * SHA256_BYTES + 1];
    json_t *object = json_pack("{s:s, s:s, s:i, s:I, s:s}", "name", section->name, "kind", "state",
                               "version", (int)section->version, "bytes", number(section->size),
                               "digest", hex_encode(section->digest, SHA256_BYTES, digest));

    if (!object || add_state(section, data, object)) {
        json_decref(object);
        return no_memory(i, err);
    }
    return json_array_append_new(i->sections, object) ? no_memory(i, err) : 0;
}

static int collect_data(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct inspect *i = opaque;
    char digest[2 * SHA256_BYTES + 1];
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "name", section->name, "kind",
        section->kind == IMAGE_RAM ? "ram" : "disk", "bytes", number(section->size), "chunk_bytes",
        number(section->chunk_bytes), "chunks", number(section->chunks), "content_bytes",
        number(section->content_bytes), "stored_bytes", number(section->stored_bytes), "digest",
        hex_encode(section->digest, SHA256_BYTES, digest));

    return json_array_append_new(i->sections, object) ? no_memory(i, err) : 0;
}

static json_t *describe(const struct inspect *i, const struct image_summary *summary)
{
    char root[2 * SHA256_BYTES + 1];

    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:O, s:O}", "format", "ferry image",
                     "version", number(summary->version), "bytes", number(summary->bytes),
                     "content_bytes", number(summary->content_bytes), "stored_bytes",
                     number(summary->stored_bytes), "chunks", number(summary->chunks), "root",
                     hex_encode(summary->root, SHA256_BYTES, root), "manifest", i->manifest,
                     "sections", i->sections);
}

int snapshot_inspect(int fd, const char *about, json_t **out, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .manifest = collect_manifest,
        .state = collect_state,
        .end = collect_data,
    };
    struct inspect i = {.about = about, .sections = json_array()};
    struct image_summary summary = {0};

    int error =
        i.sections ? image_read(fd, about, 0, &visitor, &i, &summary, err) : no_memory(&i, err);
    if (!error && !(*out = describe(&i, &summary)))
        error = no_memory(&i, err);
    json_decref(i.manifest);
    json_decref(i.sections);
    return error;
}

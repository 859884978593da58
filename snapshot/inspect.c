/*
 * An image as JSON.  From a pipe a visitor collects what it is shown; of a file only the section
 * table and the state are read.
 */
#include "snapshot/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/image.h"
#include "imagefmt/sign.h"
#include "snapshot/manifest.h"
#include "vmm/machine.h"

struct inspect {
    const char *about;
    json_t *manifest;
    json_t *sections;
    bool has_ram;
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
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:s}", "name", section->name, "kind",
                  image_kind_name(section->kind), "bytes", number(section->size), "chunk_bytes",
                  number(section->chunk_bytes), "chunks", number(section->chunks), "content_bytes",
                  number(section->content_bytes), "stored_bytes", number(section->stored_bytes),
                  "digest", hex_encode(section->digest, SHA256_BYTES, digest));

    i->has_ram = i->has_ram || section->kind == IMAGE_RAM;
    return json_array_append_new(i->sections, object) ? no_memory(i, err) : 0;
}

static json_t *describe(const struct inspect *i, const struct image_summary *summary, bool checked)
{
    char root[2 * SHA256_BYTES + 1], text[2 * SHA256_BYTES + 1];
    json_t *signers = json_array(), *risks = json_array();

    for (unsigned n = 0; n < summary->signers; n++)
        json_array_append_new(signers, json_string(signer_fingerprint(summary->signer[n], text)));
    if (!summary->sealed && i->has_ram)
        json_array_append_new(risks, json_string("holds memory content unencrypted"));
    if (!summary->sealed)
        json_array_append_new(risks, json_string("not sealed: whoever has the file can read it"));
    if (!summary->signers)
        json_array_append_new(risks, json_string("unsigned: nobody vouches for where it is from"));
    json_t *out =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:b, s:b, s:o, s:o, s:O, s:O}", "format",
                  "ferry image", "version", number(summary->version), "bytes",
                  number(summary->bytes), "content_bytes", number(summary->content_bytes),
                  "stored_bytes", number(summary->stored_bytes), "chunks", number(summary->chunks),
                  "root", hex_encode(summary->root, SHA256_BYTES, root), "checked", checked,
                  "sealed", summary->sealed, "signers", signers, "risks", risks, "manifest",
                  i->manifest, "sections", i->sections);

    if (summary->child)
        json_object_set_new(out, "base",
                            json_string(hex_encode(summary->base, SHA256_BYTES, root)));
    return out;
}

static int collect_section(struct inspect *i, struct image *image, uint32_t n,
                           struct ferry_error *err)
{
    struct image_section section = *image_section(image, n);
    CLEANUP_FREE uint8_t *data = NULL;

    if (section.kind == IMAGE_STATE) {
        int error = image_state(image, n, &data, err);
        return error ? error : collect_state(i, &section, data, err);
    }
    return collect_data(i, &section, err);
}

/* Table and state only: milliseconds, whatever the image's size. */
static int inspect_at_random(struct inspect *i, int fd, const struct image_environment *env,
                             struct image_summary *summary, struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    size_t size;

    int error = image_open(fd, i->about, env, &image, err);
    if (error)
        return error;
    *summary = *image_summary(image);
    const char *manifest = image_manifest(image, &size);
    error = collect_manifest(i, manifest, size, err);
    for (uint32_t n = 0; !error && n < image_sections(image); n++)
        error = collect_section(i, image, n, err);
    return error;
}

static int inspect_in_order(struct inspect *i, int fd, const struct image_environment *env,
                            struct image_summary *summary, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .manifest = collect_manifest,
        .state = collect_state,
        .end = collect_data,
    };

    return image_read(fd, i->about, env, 0, &visitor, i, summary, err);
}

int snapshot_inspect(int fd, const char *about, const struct image_environment *env, json_t **out,
                     struct ferry_error *err)
{
    struct inspect i = {.about = about, .sections = json_array()};
    struct image_summary summary = {0};
    bool in_order = lseek(fd, 0, SEEK_CUR) != 0;

    int error = !i.sections ? no_memory(&i, err)
                : in_order  ? inspect_in_order(&i, fd, env, &summary, err)
                            : inspect_at_random(&i, fd, env, &summary, err);
    if (!error && !(*out = describe(&i, &summary, in_order)))
        error = no_memory(&i, err);
    json_decref(i.manifest);
    json_decref(i.sections);
    return error;
}

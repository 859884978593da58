/* ferry verify: is an image whole?  And with --salvage: what of it is? */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/units.h"
#include "imagefmt/image.h"
#include "imagefmt/sign.h"
#include "snapshot/manifest.h"

struct verify_options {
    const char *file;
    bool salvage;
    bool json;
    const char *key;
    struct image_file_options image;
    struct progress_options progress;
};

struct verify {
    struct progress_view view;
    uint64_t total; /* bytes of the file; 0: a pipe */
    json_t *sections;
    const char *about;
    bool manifest;
};

static void on_progress(void *opaque, uint64_t bytes)
{
    struct verify *v = opaque;
    const struct progress_report report = {
        .phase = "verify", .done_bytes = bytes, .total_bytes = v->total, .sent_bytes = bytes};

    progress_view_show(&v->view, &report);
}

static int on_manifest(void *opaque, const char *json, size_t size, struct ferry_error *err)
{
    struct verify *v = opaque;
    json_t *parsed = NULL;

    int error = manifest_parse(json, size, v->about, &parsed, err);
    json_decref(parsed);
    v->manifest = !error;
    return error;
}

/* A section of which this much is whole so far. */
static int add_section(struct verify *v, const struct image_section *section, const char *kind,
                       uint64_t whole, struct ferry_error *err)
{
    json_t *value = json_pack("{s:s, s:s, s:I, s:I, s:b}", "kind", kind, "name", section->name,
                              "bytes", (json_int_t)section->size, "whole_bytes", (json_int_t)whole,
                              "whole", section->kind == IMAGE_STATE);

    return json_array_append_new(v->sections, value)
               ? ferry_fail(err, -ENOMEM, NULL, "out of memory")
               : 0;
}

static int on_state(void *opaque, const struct image_section *section, const uint8_t *data,
                    struct ferry_error *err)
{
    (void)data;
    return add_section(opaque, section, "state", section->size, err);
}

static int on_begin(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    return add_section(opaque, section, image_kind_name(section->kind), 0, err);
}

static void reached(struct verify *v, uint64_t bytes)
{
    json_t *last = json_array_get(v->sections, json_array_size(v->sections) - 1);

    json_object_set_new(last, "whole_bytes", json_integer((json_int_t)bytes));
}

static int on_chunk(void *opaque, const struct image_section *section, uint64_t offset,
                    const uint8_t *data, size_t size, struct ferry_error *err)
{
    (void)section;
    (void)data;
    (void)err;
    reached(opaque, offset + size);
    return 0;
}

static int on_end(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    struct verify *v = opaque;

    (void)err;
    reached(v, section->size);
    json_object_set_new(json_array_get(v->sections, json_array_size(v->sections) - 1), "whole",
                        json_true());
    return 0;
}

/* With a key, the image must be signed by it. */
static int check_signer(const struct verify_options *o, const struct image_summary *summary,
                        const uint8_t *want, struct ferry_error *err)
{
    const char *about = image_file_about(o->file);
    char text[2 * SHA256_BYTES + 1];

    if (!o->key)
        return 0;
    if (summary->scrubbed)
        return ferry_refuse(err, -ENOKEY, about,
                            "is sealed: its signatures cannot be seen without its secret");
    for (unsigned i = 0; i < summary->signers; i++)
        if (!memcmp(summary->signer[i], want, SIGNER_KEY_BYTES))
            return 0;
    if (!summary->signers)
        return ferry_refuse(err, -EKEYREJECTED, about, "is whole, but nobody has signed it");
    return ferry_refuse(err, -EKEYREJECTED, about,
                        "is whole, but not signed by this key; signed by %s%s",
                        signer_fingerprint(summary->signer[0], text),
                        summary->signers > 1 ? " and others (--json lists them)" : "");
}

static json_t *signers_to_json(const struct image_summary *summary)
{
    char text[2 * SHA256_BYTES + 1];
    json_t *signers = json_array();

    for (unsigned i = 0; i < summary->signers; i++)
        json_array_append_new(signers, json_string(signer_fingerprint(summary->signer[i], text)));
    return signers;
}

/* Sums are right; what they are the sums of is not known. */
static int print_scrubbed(const struct verify_options *o, const struct image_summary *summary,
                          struct ferry_error *err)
{
    char bytes[32];

    if (o->json)
        return output_json(json_pack("{s:b, s:i, s:I, s:b, s:b}", "ok", 1, "version",
                                     (int)summary->version, "bytes", (json_int_t)summary->bytes,
                                     "sealed", 1, "content_checked", 0),
                           err);
    output_text("%s: whole, %s, but sealed: content not checked without its secret",
                image_file_about(o->file), format_size(summary->bytes, bytes, sizeof(bytes)));
    return 0;
}

static int print_whole(const struct verify_options *o, const struct image_summary *summary,
                       struct ferry_error *err)
{
    char root[2 * SHA256_BYTES + 1], fingerprint[2 * SHA256_BYTES + 1], bytes[32];

    if (summary->scrubbed)
        return print_scrubbed(o, summary, err);
    hex_encode(summary->root, SHA256_BYTES, root);
    if (o->json)
        return output_json(
            json_pack("{s:b, s:i, s:I, s:I, s:I, s:s, s:b, s:b, s:o, s:b}", "ok", 1, "version",
                      (int)summary->version, "bytes", (json_int_t)summary->bytes, "content_bytes",
                      (json_int_t)summary->content_bytes, "chunks", (json_int_t)summary->chunks,
                      "root", root, "sealed", summary->sealed, "content_checked", 1, "signers",
                      signers_to_json(summary), "signed_by_key", o->key != NULL),
            err);
    output_text("%s: whole, %s, root %s", image_file_about(o->file),
                format_size(summary->bytes, bytes, sizeof(bytes)), root);
    for (unsigned i = 0; i < summary->signers; i++)
        output_text("signed by %s%s", signer_fingerprint(summary->signer[i], fingerprint),
                    o->key ? "" : ", key not given");
    return 0;
}

static void print_section(const json_t *section)
{
    uint64_t size = (uint64_t)json_integer_value(json_object_get(section, "bytes"));
    uint64_t whole = (uint64_t)json_integer_value(json_object_get(section, "whole_bytes"));
    bool all = json_is_true(json_object_get(section, "whole"));
    char of[32], part[32];

    output_text("  %-5s %-12s %s%s%s", json_string_value(json_object_get(section, "kind")),
                json_string_value(json_object_get(section, "name")),
                all ? "whole" : format_size(whole, part, sizeof(part)), all ? "" : " of ",
                all ? "" : format_size(size, of, sizeof(of)));
}

/* What came before the damage; the damage itself stays the result. */
static void print_salvage(const struct verify_options *o, const struct verify *v,
                          const struct ferry_error *damage)
{
    char text[768];

    if (o->json) {
        struct ferry_error ignored;
        output_json(json_pack("{s:b, s:s, s:b, s:O}", "ok", 0, "damage",
                              ferry_error_text(damage, text, sizeof(text)), "manifest", v->manifest,
                              "sections", v->sections),
                    &ignored);
        return;
    }
    output_text("%s: whole before the damage:", image_file_about(o->file));
    if (v->manifest)
        output_text("  manifest");
    for (size_t i = 0; i < json_array_size(v->sections); i++)
        print_section(json_array_get(v->sections, i));
}

static int run(void *parsed, struct ferry_error *err)
{
    static const struct image_visitor visitor = {
        .manifest = on_manifest,
        .state = on_state,
        .begin = on_begin,
        .chunk = on_chunk,
        .end = on_end,
        .progress = on_progress,
    };
    const struct verify_options *o = parsed;
    struct verify v = {.about = image_file_about(o->file)};
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    struct image_summary summary;
    uint8_t key[SIGNER_KEY_BYTES];
    struct stat st;

    int error = image_file_environment_open(&o->image, &environment, err);
    environment.env.scrub = true;
    if (!error && o->key)
        error = signer_read(o->key, key, err);
    if (!error)
        error = progress_view_init(&v.view, &o->progress, err);
    if (error)
        return error;
    CLEANUP_FD int fd = image_file_open("verify", o->file, err);
    if (fd < 0)
        return fd;
    if (!(v.sections = json_array()))
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    v.total = !fstat(fd, &st) && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    error = image_read(fd, v.about, &environment.env, 0, &visitor, &v, &summary, err);
    progress_view_end(&v.view);
    bool whole = !error;
    if (whole)
        error = check_signer(o, &summary, key, err);
    if (!error)
        error = print_whole(o, &summary, err);
    else if (!whole && o->salvage && err->kind == FERRY_REFUSED)
        print_salvage(o, &v, err);
    json_decref(v.sections);
    return error;
}

static const struct option_spec options[] = {
    OPTION("salvage", NULL, OPTION_FLAG, struct verify_options, salvage,
           "list what is whole before the damage, if there is some"),
    OPTION("key", "PUBLIC.pem", OPTION_STRING, struct verify_options, key,
           "demand a signature by this Ed25519 public key (PEM)"),
    IMAGE_FILE_OPTIONS(struct verify_options, image),
    OPTION("json", NULL, OPTION_FLAG, struct verify_options, json, "print JSON"),
    PROGRESS_OPTIONS(struct verify_options, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct verify_options, file, "the image; '-' for stdin"),
    {.name = NULL},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "Check every sum of an image",
    .details = "All cores inflate and check.  Damage is named by what it belongs to.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct verify_options),
    .run = run,
};

/* ferry digest: the identity of what a disk or an image holds. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/bundle_file.h"
#include "cli/commands.h"
#include "cli/disk_file.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/http.h"
#include "imagefmt/foreign/image_section.h"
#include "imagefmt/image.h"

struct digest_options {
    const char *file;
    bool raw;
    uint64_t size_bytes;
    bool json;
    struct disk_url_options url;
    struct image_file_options image;
};

static int add_section(void *opaque, const struct image_section *section, struct ferry_error *err)
{
    char digest[2 * SHA256_BYTES + 1];
    json_t *value = json_pack("{s:s, s:s, s:I, s:s}", "kind", image_kind_name(section->kind),
                              "name", section->name, "bytes", (json_int_t)section->size, "digest",
                              hex_encode(section->digest, SHA256_BYTES, digest));

    return json_array_append_new(opaque, value) ? ferry_fail(err, -ENOMEM, NULL, "out of memory")
                                                : 0;
}

static int add_state(void *opaque, const struct image_section *section, const uint8_t *data,
                     struct ferry_error *err)
{
    (void)data;
    return add_section(opaque, section, err);
}

/* The whole image is read and checked: a digest that nobody has checked says nothing.  head: what
 * was read of it before. */
static int digest_image(int fd, const struct stream_head *head, const char *about,
                        const struct image_environment *env, json_t **out, struct ferry_error *err)
{
    static const struct image_visitor visitor = {.state = add_state, .end = add_section};
    struct image_summary summary;
    char root[2 * SHA256_BYTES + 1];
    json_t *sections = json_array();

    int error = image_read_behind(head->bytes, head->size, fd, about, env, 0, &visitor, sections,
                                  &summary, err);
    if (error) {
        json_decref(sections);
        return error;
    }
    *out = json_pack("{s:s, s:s, s:s, s:o}", "file", about, "format", "ferry image", "root",
                     hex_encode(summary.root, SHA256_BYTES, root), "sections", sections);
    return 0;
}

/* Of what the guest sees, in whichever format the file is. */
static int digest_disk(struct disk *disk, const char *about, json_t **out, struct ferry_error *err)
{
    const struct disk_copy_options copy = {0};
    struct disk_copy_result result;
    char hex[2 * SHA256_BYTES + 1];

    int error = disk_digest(disk, disk->size_bytes, &copy, &result, err);
    if (!error)
        *out = json_pack("{s:s, s:s, s:I, s:s}", "file", about, "format", disk->format->name,
                         "bytes", (json_int_t)result.size_bytes, "digest",
                         hex_encode(result.digest, SHA256_BYTES, hex));
    return error;
}

/* Of each disk of a machine of another hypervisor; only when all its sums were right. */
static int digest_bundle(struct bundle *bundle, const char *about, json_t **out,
                         struct ferry_error *err)
{
    const struct disk_copy_options copy = {0};
    json_t *list = json_array();
    struct disk *disk = NULL;
    uint32_t index = 0;
    int more, error = 0;

    *out = json_pack("{s:s, s:s, s:o}", "file", about, "format", bundle->format->name, "sections",
                     list);
    while (!error && (more = bundle->format->next_disk(bundle, &index, &disk, err)) != 0) {
        struct disk_copy_result result;
        char hex[2 * SHA256_BYTES + 1], name[4] = {'v', 'd', (char)('a' + index)};
        error = more < 0 ? more : disk_digest(disk, disk->size_bytes, &copy, &result, err);
        if (!error)
            json_array_append_new(list,
                                  json_pack("{s:s, s:s, s:I, s:s}", "kind", "disk", "name", name,
                                            "bytes", (json_int_t)result.size_bytes, "digest",
                                            hex_encode(result.digest, SHA256_BYTES, hex)));
    }
    return error ? error : bundle->format->finish(bundle, err);
}

/* If what was looked at is a bundle that can be read in order: 1 and its digests; 0 if it is none.
 */
static int digest_bundle_stream(struct disk_file *file, const char *about, json_t **out,
                                struct ferry_error *err)
{
    const struct bundle_input input = {
        .stream = file->streams[file->stream_count - 1], .folder_fd = -1, .about = about};
    const struct bundle_format *format =
        bundle_format_by_head(&input, file->head.bytes, file->head.size);
    struct bundle *bundle = NULL;

    if (!format || !format->open)
        return 0;
    int error = format->open(&input, &bundle, err);
    if (error)
        return error;
    error = digest_bundle(bundle, about, out, err);
    format->close(bundle);
    return error ? error : 1;
}

static int digest(int fd, const struct digest_options *o, const struct image_environment *env,
                  json_t **out, struct ferry_error *err)
{
    CLEANUP(disk_file_close) struct disk_file file = DISK_FILE_NONE;
    const struct disk_file_options options = {.from = o->raw ? "raw" : NULL,
                                              .size_bytes = o->size_bytes};
    const char *about = image_file_about(o->file);
    uint8_t head[64] = {0};
    int error = 0;

    if (disk_file_is_pipe(fd)) {
        error = disk_file_peek(fd, about, &file, err);
        if (error)
            return error;
        if (!o->raw && disk_image_probe(file.head.bytes, file.head.size))
            return digest_image(fd, &file.head, about, env, out, err);
        int found = o->raw ? 0 : digest_bundle_stream(&file, about, out, err);
        if (found)
            return found < 0 ? found : 0;
        error = disk_file_open_peeked(fd, about, &options, &file, err);
    } else {
        (void)pread_all(fd, head, sizeof(head), 0); /* a shorter one is no image */
        if (!o->raw && disk_image_probe(head, sizeof(head)))
            return digest_image(fd, &(struct stream_head){0}, about, env, out, err);
        error = disk_file_open_fd(fd, about, &options, &file, err);
    }
    return error ? error : digest_disk(file.disk, about, out, err);
}

/* Of a disk on a web server. */
static int digest_url(const struct digest_options *o, json_t **out, struct ferry_error *err)
{
    CLEANUP(disk_file_close) struct disk_file file = DISK_FILE_NONE;
    const struct disk_file_options options = {
        .from = o->raw ? "raw" : NULL, .size_bytes = o->size_bytes, .url = o->url};

    int error = disk_file_open("digest", o->file, &options, &file, err);
    return error ? error : digest_disk(file.disk, file.source->about, out, err);
}

static void print(const json_t *value)
{
    const char *about = json_string_value(json_object_get(value, "file"));
    const char *root = json_string_value(json_object_get(value, "root"));
    const char *digest = json_string_value(json_object_get(value, "digest"));
    const json_t *sections = json_object_get(value, "sections");

    if (root || digest)
        output_text("%s  %s%s", root ? root : digest, about, root ? ": root" : "");
    for (size_t i = 0; i < json_array_size(sections); i++) {
        const json_t *section = json_array_get(sections, i);
        output_text("%s  %s: %s %s", json_string_value(json_object_get(section, "digest")), about,
                    json_string_value(json_object_get(section, "kind")),
                    json_string_value(json_object_get(section, "name")));
    }
}

/* Of a file, or of what comes from stdin. */
static int digest_file(const struct digest_options *o, json_t **out, struct ferry_error *err)
{
    CLEANUP(image_file_environment_close) struct image_file_environment environment;

    int error = image_file_environment_open(&o->image, &environment, err);
    if (error)
        return error;
    CLEANUP_FD int fd = image_file_open("digest", o->file, err);
    return fd < 0 ? fd : digest(fd, o, &environment.env, out, err);
}

/* A bundle in a file, a folder or on a web server: 1 and its digests, 0 if it is none. */
static int digest_if_bundle(const struct digest_options *o, json_t **out, struct ferry_error *err)
{
    CLEANUP(bundle_file_close) struct bundle_file file = BUNDLE_FILE_NONE;

    if (o->raw || !strcmp(o->file, "-"))
        return 0;
    int error = bundle_file_open(o->file, NULL, &o->url, &file, err);
    if (error || !file.bundle)
        return error;
    error = digest_bundle(file.bundle, file.input.about, out, err);
    return error ? error : 1;
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct digest_options *o = parsed;
    json_t *value = NULL;

    int error = digest_if_bundle(o, &value, err);
    if (!error)
        error = http_is_url(o->file) ? digest_url(o, &value, err) : digest_file(o, &value, err);
    if (error < 0)
        return error;
    if (o->json)
        return output_json(value, err);
    print(value);
    json_decref(value);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("raw", NULL, OPTION_FLAG, struct digest_options, raw,
           "take FILE as a raw disk even if it looks like an image or\nanother format"),
    OPTION("size", "SIZE", OPTION_SIZE, struct digest_options, size_bytes,
           "of the disk, which a raw one in a pipe does not tell"),
    OPTION("json", NULL, OPTION_FLAG, struct digest_options, json, "print JSON"),
    DISK_URL_OPTIONS(struct digest_options, url),
    IMAGE_FILE_OPTIONS(struct digest_options, image),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct digest_options, file,
            "a disk or file, an image, a machine of another hypervisor,\nor an http:// or https:// "
            "URL; '-' for stdin"),
    {.name = NULL},
};

const struct command command_digest = {
    .name = "digest",
    .summary = "Tell the identity of a disk's or image's content",
    .details =
        "Equal content has an equal digest, as a disk of any format and in an image, whatever\n"
        "chunk size and compression there.  Holes are not read.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct digest_options),
    .run = run,
};

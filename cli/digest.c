/* ferry digest: the identity of what a disk or an image holds. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/disk_file.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/image.h"

struct digest_options {
    const char *file;
    bool raw;
    bool json;
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

/* The whole image is read and checked: a digest that nobody has checked says nothing. */
static int digest_image(int fd, const char *about, const struct image_environment *env,
                        json_t **out, struct ferry_error *err)
{
    static const struct image_visitor visitor = {.state = add_state, .end = add_section};
    struct image_summary summary;
    char root[2 * SHA256_BYTES + 1];
    json_t *sections = json_array();

    int error = image_read(fd, about, env, 0, &visitor, sections, &summary, err);
    if (error) {
        json_decref(sections);
        return error;
    }
    *out = json_pack("{s:s, s:s, s:s, s:o}", "file", about, "format", "ferry image", "root",
                     hex_encode(summary.root, SHA256_BYTES, root), "sections", sections);
    return 0;
}

/* Of what the guest sees, in whichever format the file is. */
static int digest_disk(int fd, const char *about, const char *from, json_t **out,
                       struct ferry_error *err)
{
    CLEANUP(disk_file_close) struct disk_file file = DISK_FILE_NONE;
    const struct disk_file_options options = {.from = from};
    const struct disk_copy_options copy = {0};
    struct disk_copy_result result;
    char hex[2 * SHA256_BYTES + 1];

    int error = disk_file_open_fd(fd, about, &options, &file, err);
    if (!error)
        error = disk_digest(file.disk, file.disk->size_bytes, &copy, &result, err);
    if (!error)
        *out = json_pack("{s:s, s:s, s:I, s:s}", "file", about, "format", file.disk->format->name,
                         "bytes", (json_int_t)result.size_bytes, "digest",
                         hex_encode(result.digest, SHA256_BYTES, hex));
    return error;
}

static void print(const char *about, const json_t *value)
{
    const char *root = json_string_value(json_object_get(value, "root"));
    const char *digest = json_string_value(json_object_get(value, "digest"));
    const json_t *sections = json_object_get(value, "sections");

    output_text("%s  %s%s", root ? root : digest, about, root ? ": root" : "");
    for (size_t i = 0; i < json_array_size(sections); i++) {
        const json_t *section = json_array_get(sections, i);
        output_text("%s  %s: %s %s", json_string_value(json_object_get(section, "digest")), about,
                    json_string_value(json_object_get(section, "kind")),
                    json_string_value(json_object_get(section, "name")));
    }
}

/* The start of an image, which a raw disk may also have if its guest wishes so: hence --raw. */
static bool looks_like_image(int fd)
{
    static const char magic[] = "ferryimg";
    char head[28];

    return !pread_all(fd, head, sizeof(head), 0) && !memcmp(head + 20, magic, 8);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct digest_options *o = parsed;
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    const char *about = image_file_about(o->file);
    struct stat st;
    json_t *value = NULL;

    CLEANUP_FD int fd = image_file_open("digest", o->file, err);
    if (fd < 0)
        return fd;
    bool pipe = fstat(fd, &st) || S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
    bool image = !o->raw && (pipe || looks_like_image(fd));
    int error = image_file_environment_open(&o->image, &environment, err);
    if (!error)
        error = image ? digest_image(fd, about, &environment.env, &value, err)
                      : digest_disk(fd, about, o->raw ? "raw" : NULL, &value, err);
    if (error)
        return error;
    if (o->json)
        return output_json(value, err);
    print(about, value);
    json_decref(value);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("raw", NULL, OPTION_FLAG, struct digest_options, raw,
           "take FILE as a raw disk even if it looks like an image or\nanother format"),
    OPTION("json", NULL, OPTION_FLAG, struct digest_options, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct digest_options, image),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct digest_options, file,
            "a disk or file, or an image; '-' for an image from stdin"),
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

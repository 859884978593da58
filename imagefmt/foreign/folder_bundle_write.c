/*
 * Bundles of plain files, writing: the disks, the files beside them, and at the end what describes
 * and names them all.  In a tar that goes into a pipe each disk is made twice, the first time for
 * its size.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/folder_bundle.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/vagrant.h"

struct folder_writer {
    const struct folder_shape *shape;
    const struct bundle_content *content;
    const struct bundle_write_options *options;
    struct bundle_write_result *result;
    const struct disk_format *format; /* of the disks */
    const char *about;
    struct container *container;
    struct guest guest; /* with the names and sizes that are written */
};

/* ---- Names ---- */

static int choose_format(const struct folder_shape *shape, const char *wanted,
                         const struct disk_format **out, struct ferry_error *err)
{
    const char *name = wanted ? wanted : shape->disks[0];

    for (size_t i = 0; i < sizeof(shape->disks) / sizeof(*shape->disks) && shape->disks[i]; i++)
        if (!strcmp(shape->disks[i], name)) {
            *out = disk_format_by_name(name);
            return 0;
        }
    return ferry_usage(err, shape->format->name, "its disks are not '%.40s' but %s%s%s%s%s", name,
                       shape->disks[0], shape->disks[1] ? ", " : "",
                       shape->disks[1] ? shape->disks[1] : "", shape->disks[2] ? ", " : "",
                       shape->disks[2] ? shape->disks[2] : "");
}

static void name_disk(const struct folder_shape *shape, const struct disk_format *format,
                      const char *machine, uint32_t index, struct guest_disk *disk)
{
    size_t room = sizeof(disk->file);

    if (shape->box)
        snprintf(disk->file, room, index ? "box_%u.img" : VAGRANT_FIRST_DISK, index);
    else if (shape->disk_stem)
        snprintf(disk->file, room, "%s%u%s", shape->disk_stem, index, format->extension);
    else
        snprintf(disk->file, room, "%s-%u%s", machine, index, format->extension);
    snprintf(disk->format, sizeof(disk->format), "%s", format->name);
}

/* The machine as it will be described. */
static void name_all(const struct folder_shape *shape, const struct disk_format *format,
                     const struct bundle_content *content, struct guest *guest)
{
    *guest = *content->guest;
    for (uint32_t i = 0; i < guest->disk_count; i++)
        name_disk(shape, format, content->guest->name, i, &guest->disks[i]);
    for (int kind = 0; kind < GUEST_FILE_KINDS; kind++)
        snprintf(guest->files[kind], sizeof(guest->files[kind]), "%s%s",
                 content->files[kind] ? guest_file_name((enum guest_file_kind)kind) : "",
                 content->files[kind] && kind == GUEST_NVRAM ? ".fd" : "");
}

/* ---- Disks ---- */

/* The same for the same disk of a machine of this name. */
static void make_identity(const struct guest *guest, uint32_t index, uint8_t identity[16])
{
    uint8_t sum[SHA256_BYTES];
    char text[LIMIT_NAME_BYTES + 16];

    int length = snprintf(text, sizeof(text), "%s %u", guest->name, index);
    sha256(text, (size_t)length, sum);
    memcpy(identity, sum, 16);
}

static int write_disk(struct folder_writer *w, uint32_t index, struct disk *disk, struct sink *sink,
                      struct ferry_error *err)
{
    const char *codec = w->options->codec ? w->options->codec : w->shape->codec;
    bool vmdk = w->format == &disk_format_vmdk;
    struct disk_write_options write = {
        .size_bytes =
            w->format == &disk_format_raw ? disk->size_bytes : disk_whole_sectors(disk->size_bytes),
        /* Of VMDK there is one kind that is compressed, and one that machines can write to. */
        .subformat = !vmdk                            ? NULL
                     : codec && strcmp(codec, "none") ? "streamOptimized"
                                                      : "monolithicSparse",
        .codec = codec,
        .level = w->options->level,
    };
    const struct disk_copy_options copy = {
        .workers = w->options->workers,
        .digest = w->options->digest,
        .phase = w->guest.disks[index].file,
        .progress = w->options->progress,
    };
    struct disk_copy_result copied;
    struct disk_writer *writer = NULL;

    make_identity(&w->guest, index, write.identity);
    w->guest.disks[index].size_bytes = write.size_bytes;
    int error = w->format->create(sink, &write, &writer, err);
    if (error)
        return error;
    error = disk_copy(disk, writer, write.size_bytes, &copy, &copied, err);
    w->format->destroy(writer);
    if (error)
        return error;
    w->result->content_bytes += copied.content_bytes;
    memcpy(w->result->digest[index], copied.digest, SHA256_BYTES);
    return 0;
}

static int count_write(struct sink *sink, const void *data, size_t size, struct ferry_error *err)
{
    (void)data;
    (void)err;
    sink->position += size;
    return 0;
}

/* The size that the disk will have in the file. */
static int count_disk(struct folder_writer *w, uint32_t index, uint64_t *bytes,
                      struct ferry_error *err)
{
    struct sink sink = {.write = count_write, .about = w->about};
    uint64_t content = w->result->content_bytes;
    struct disk *disk = NULL;

    int error = w->content->disk(w->content->opaque, index, &disk, err);
    if (!error)
        error = write_disk(w, index, disk, &sink, err);
    w->result->content_bytes = content;
    *bytes = sink.position;
    return error;
}

static int add_disk(struct folder_writer *w, uint32_t index, struct ferry_error *err)
{
    uint64_t bytes = CONTAINER_UNKNOWN;
    struct disk *disk = NULL;
    struct sink *sink;
    int error = 0;

    if (!container_can_patch(w->container))
        error = count_disk(w, index, &bytes, err);
    if (!error)
        error = w->content->disk(w->content->opaque, index, &disk, err);
    if (!error)
        error = container_begin(w->container, w->guest.disks[index].file, bytes, &sink, err);
    if (!error)
        error = write_disk(w, index, disk, sink, err);
    return error ? error : container_end(w->container, NULL, NULL, err);
}

/* ---- Descriptions ---- */

typedef int write_text(const struct guest *guest, json_t *notes, char **text, size_t *size,
                       struct ferry_error *err);

static int add_text(struct folder_writer *w, const char *name, write_text *compose,
                    struct ferry_error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;

    int error = compose(&w->guest, NULL, &text, &size, err);
    return error ? error : container_add(w->container, name, text, size, NULL, err);
}

static int add_descriptions(struct folder_writer *w, struct ferry_error *err)
{
    const struct folder_shape *shape = w->shape;
    char name[LIMIT_NAME_BYTES + 16];

    snprintf(name, sizeof(name), "%s%s", w->guest.name, shape->description->extension);
    int error = add_text(w, shape->description_name ? shape->description_name : name,
                         shape->description->write, err);
    return error || !shape->box ? error : add_text(w, VAGRANT_FILE, vagrant_write_file, err);
}

int folder_bundle_losses(const struct folder_shape *shape, const struct bundle_content *content,
                         json_t *notes, struct ferry_error *err)
{
    const struct disk_format *format = disk_format_by_name(shape->disks[0]);
    CLEANUP_FREE char *text = NULL, *file = NULL;
    struct guest guest;
    size_t size;

    name_all(shape, format, content, &guest);
    int error = shape->description->write(&guest, notes, &text, &size, err);
    return error || !shape->box ? error : vagrant_write_file(&guest, notes, &file, &size, err);
}

/* ---- The whole ---- */

static void close_writer(struct folder_writer *w)
{
    container_destroy(w->container);
}

int folder_bundle_write(const struct folder_shape *shape, const struct bundle_output *output,
                        const struct bundle_content *content,
                        const struct bundle_write_options *options,
                        struct bundle_write_result *result, struct ferry_error *err)
{
    CLEANUP(close_writer)
    struct folder_writer w = {
        .shape = shape,
        .content = content,
        .options = options,
        .result = result,
        .about = output->about,
    };

    *result = (struct bundle_write_result){0};
    int error = choose_format(shape, options->disk_format, &w.format, err);
    if (error)
        return error;
    name_all(shape, w.format, content, &w.guest);
    error = shape->box ? container_create_tar(output->sink, &w.container, err)
                       : container_create_folder(output->folder_fd, w.about, &w.container, err);
    if (error)
        return error;
    container_want_sums(w.container, false);
    if (!container_can_patch(w.container) && !content->reread)
        return ferry_usage(err, shape->format->name,
                           "into a pipe its disks must be read twice, and these cannot be");
    for (uint32_t i = 0; !error && i < w.guest.disk_count; i++)
        error = add_disk(&w, i, err);
    for (int kind = 0; !error && kind < GUEST_FILE_KINDS; kind++)
        if (content->files[kind])
            error = bundle_add_source(w.container, w.guest.files[kind], content->files[kind], NULL,
                                      err);
    if (!error)
        error = add_descriptions(&w, err);
    return error ? error : container_finish(w.container, &result->bytes, err);
}

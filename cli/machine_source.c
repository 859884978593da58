/*
 * The machine in an image: its description from the manifest, its disks and files by sections.  One
 * in a file is read at random and as often as anybody likes; one from a pipe once.
 */
#include "cli/machine_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/foreign/image_section.h"
#include "imagefmt/foreign/image_stream.h"
#include "imagefmt/foreign/source.h"
#include "snapshot/describe.h"
#include "snapshot/unpack.h"

static void close_disk(struct machine_source *s)
{
    if (s->disk)
        s->disk->format->close(s->disk);
    s->disk = NULL;
}

static int give_disk(void *opaque, uint32_t index, struct disk **disk, struct ferry_error *err)
{
    struct machine_source *s = opaque;

    close_disk(s);
    int error =
        disk_of_image(s->path, s->env, s->manifest->machine.disks[index].device, &s->disk, err);
    *disk = s->disk;
    return error;
}

/* Kernel, initrd and firmware variables are small enough for memory. */
static int take_files(struct machine_source *s, struct ferry_error *err)
{
    int error = 0;

    for (enum guest_file_kind kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        error = unpack_file(s->image, guest_file_name(kind), &s->file_fds[kind], err);
        if (!error && s->file_fds[kind] >= 0)
            error = source_of_fd(s->file_fds[kind], guest_file_name(kind), &s->content.files[kind],
                                 err);
    }
    return error;
}

static int check_disks(const struct machine_source *s, struct ferry_error *err)
{
    for (uint32_t i = 0; i < s->manifest->machine.disk_count; i++) {
        const struct disk_config *disk = &s->manifest->machine.disks[i];
        int64_t found = image_find(s->image, IMAGE_DISK, disk->device);
        if (!s->manifest->disk_in_image[i])
            return ferry_usage(err, s->path,
                               "was written with --no-disks: the content of %s is not in it",
                               disk->device);
        if (found < 0 || image_section(s->image, (uint32_t)found)->size != disk->size_bytes)
            return ferry_refuse(err, -EBADMSG, s->path,
                                "disk %s is not there as the manifest promises it", disk->device);
    }
    return 0;
}

/* What others are told of it, and what they are not. */
static void describe(struct machine_source *s, json_t *notes)
{
    if (!s->manifest->stopped)
        json_array_append_new(notes, json_string("memory and device state of the running machine: "
                                                 "it starts as after a power failure"));
    describe_guest(s->manifest, s->content.files[GUEST_KERNEL], &s->guest);
}

static int open_image(struct machine_source *s, json_t *notes, struct ferry_error *err)
{
    int error = image_open_path(s->path, s->env, &s->image, err);

    if (!error)
        error = unpack_manifest(s->image, s->path, s->manifest, err);
    if (!error)
        error = check_disks(s, err);
    if (!error)
        error = take_files(s, err);
    if (!error)
        describe(s, notes);
    return error;
}

static int prepare(struct machine_source *s, const char *about, const struct image_environment *env,
                   struct ferry_error *err)
{
    *s = MACHINE_SOURCE_NONE;
    s->path = about;
    s->env = env;
    s->content = (struct bundle_content){.guest = &s->guest, .opaque = s};
    s->manifest = calloc(1, sizeof(*s->manifest));
    return s->manifest ? 0 : ferry_fail(err, -ENOMEM, about, "out of memory");
}

int machine_source_open(const char *path, const struct image_environment *env, json_t *notes,
                        struct machine_source *out, struct ferry_error *err)
{
    int error = prepare(out, path, env, err);

    out->content.disk = give_disk;
    out->content.reread = true;
    if (!error)
        error = open_image(out, notes, err);
    if (error)
        machine_source_close(out);
    return error;
}

/* ---- In order ---- */

static int give_next(void *opaque, uint32_t index, struct disk **disk, struct ferry_error *err)
{
    struct machine_source *s = opaque;
    const char *device = s->manifest->machine.disks[index].device, *name;

    int found = image_stream_next(s->stream, &name, disk, err);
    if (found < 0)
        return found;
    if (!found || strcmp(name, device) ||
        (*disk)->size_bytes != s->manifest->machine.disks[index].size_bytes)
        return ferry_refuse(err, -EBADMSG, s->path,
                            "disk %s is not there as the manifest promises it", device);
    return 0;
}

static int take_streamed_files(struct machine_source *s, struct ferry_error *err)
{
    int error = 0;

    for (enum guest_file_kind kind = 0; !error && kind < GUEST_FILE_KINDS; kind++) {
        int fd = image_stream_file(s->stream, kind);
        if (fd >= 0)
            error = source_of_fd(fd, guest_file_name(kind), &s->content.files[kind], err);
    }
    return error;
}

static int open_stream(struct machine_source *s, int fd, json_t *notes, struct ferry_error *err)
{
    const struct image_stream_options options = {0};
    json_t *json = NULL;
    size_t size;

    int error = image_stream_open(fd, s->path, s->env, &options, &s->stream, err);
    if (error)
        return error;
    const char *text = image_stream_manifest(s->stream, &size);
    error = manifest_parse(text, size, s->path, &json, err);
    if (!error)
        error = manifest_decode(json, s->path, s->manifest, err);
    json_decref(json);
    for (uint32_t i = 0; !error && i < s->manifest->machine.disk_count; i++)
        if (!s->manifest->disk_in_image[i])
            error = ferry_usage(err, s->path,
                                "was written with --no-disks: the content of %s is not in it",
                                s->manifest->machine.disks[i].device);
    if (!error)
        error = take_streamed_files(s, err);
    if (!error)
        describe(s, notes);
    return error;
}

int machine_source_open_stream(int fd, const char *about, const struct image_environment *env,
                               json_t *notes, struct machine_source *out, struct ferry_error *err)
{
    int error = prepare(out, about, env, err);

    out->content.disk = give_next;
    if (!error)
        error = open_stream(out, fd, notes, err);
    if (error)
        machine_source_close(out);
    return error;
}

/* What the machine says tells more than that its image ends too early. */
int machine_source_open_running(const char *name, const struct image_environment *env,
                                json_t *notes, struct machine_source *out, struct ferry_error *err)
{
    int error = prepare(out, name, env, err);

    out->content.disk = give_next;
    if (!error)
        error = running_disks_open(name, &out->running, err);
    if (!error)
        error = open_stream(out, out->running.read_fd, notes, err);
    if (error && out->running.started && !out->stream)
        error = running_disks_explain(&out->running, error, err);
    if (error)
        machine_source_close(out);
    return error;
}

/* ---- The end ---- */

int machine_source_finish(struct machine_source *source, struct ferry_error *err)
{
    int error = source->stream ? image_stream_finish(source->stream, err) : 0;

    if (!source->running.started)
        return error;
    return error ? running_disks_explain(&source->running, error, err)
                 : running_disks_finish(&source->running, err);
}

void machine_source_close(struct machine_source *source)
{
    close_disk(source);
    for (unsigned i = 0; i < GUEST_FILE_KINDS; i++) {
        source_close(source->content.files[i]);
        source->content.files[i] = NULL;
        cleanup_fd_fn(&source->file_fds[i]);
        source->file_fds[i] = -1;
    }
    image_stream_close(source->stream);
    source->stream = NULL;
    running_disks_close(&source->running);
    image_close(source->image);
    source->image = NULL;
    free(take_ptr(&source->manifest));
}

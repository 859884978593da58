/*
 * Opening disks.  A format is stated or recognised by its marks; without any the disk is raw.  What
 * a disk builds on is opened by a name on the command line, never by the name in the disk: the
 * first of them is for the disk itself, the next for that one, and so on.  What the upper disk says
 * of the format of the lower one counts for more than marks.
 */
#include "cli/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/image_file.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/image_section.h"
#include "imagefmt/foreign/source.h"

int disk_file_format(const char *option, const char *name, const struct disk_format **out,
                     struct ferry_error *err)
{
    char names[128] = "";

    if ((*out = disk_format_by_name(name)))
        return 0;
    for (const struct disk_format *const *f = disk_formats; *f; f++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", *names ? ", " : "",
                 (*f)->name);
    return ferry_usage(err, option, "'%.40s' is not a format of disks: %s", name, names);
}

static int choose_format(struct source *source, const char *from, const struct disk_format **out,
                         struct ferry_error *err)
{
    if (from)
        return disk_file_format("--from", from, out, err);
    int error = disk_format_probe(source, out, err);
    if (!error && !*out)
        *out = &disk_format_raw;
    return error;
}

static int open_external(const struct disk_format *format, const struct disk_file_options *options,
                         struct disk_file *out, struct ferry_error *err)
{
    struct disk_file_options below = {.external = options->external,
                                      .external_used = options->external_used + 1};
    char name[DISK_NAME_BYTES] = "";

    if (!options->external || options->external_used >= options->external->count)
        return 0;
    if (!format->external_format)
        return ferry_usage(err, out->source->about, "builds on no other file");
    int error = format->external_format(out->source, name, err);
    if (error)
        return error;
    if (disk_format_by_name(name))
        below.from = name;
    if (!(out->external = malloc(sizeof(*out->external))))
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    *out->external = DISK_FILE_NONE;
    return disk_file_open("--allow-external", options->external->items[options->external_used],
                          &below, out->external, err);
}

static int open_disk(int fd, const char *about, const struct disk_file_options *options,
                     struct disk_file *out, struct ferry_error *err)
{
    struct disk_open_options open_options = {0};
    const struct disk_format *format = NULL;

    int error = source_of_fd(fd, about, &out->source, err);
    if (!error)
        error = choose_format(out->source, options->from, &format, err);
    if (!error)
        error = open_external(format, options, out, err);
    if (error)
        return error;
    if (out->external) {
        open_options.backing = out->external->disk;
        open_options.external = out->external->source;
    }
    return format->open(out->source, &open_options, &out->disk, err);
}

int disk_file_open_fd(int fd, const char *about, const struct disk_file_options *options,
                      struct disk_file *out, struct ferry_error *err)
{
    *out = DISK_FILE_NONE;
    int error = open_disk(fd, about, options, out, err);
    if (error)
        disk_file_close(out);
    return error;
}

/* Is this an image, and is the caller prepared for one? */
static bool is_image(int fd, const struct disk_file_options *options)
{
    uint8_t head[64];

    if (!options->images || (options->from && strcmp(options->from, "ferry")))
        return false;
    return options->from ||
           (!pread_all(fd, head, sizeof(head), 0) && disk_image_probe(head, sizeof(head)));
}

int disk_file_open(const char *command, const char *file, const struct disk_file_options *options,
                   struct disk_file *out, struct ferry_error *err)
{
    *out = DISK_FILE_NONE;
    CLEANUP_FD int fd = image_file_open(command, file, err);
    if (fd < 0)
        return fd;
    if (is_image(fd, options))
        return disk_of_image(file, options->env, options->disk, &out->disk, err);
    if (options->disk)
        return ferry_usage(err, "--disk", "names a disk of an image; %.80s is none",
                           image_file_about(file));
    int error = disk_file_open_fd(fd, image_file_about(file), options, out, err);
    if (!error)
        out->fd = take_fd(&fd);
    return error;
}

void disk_file_close(struct disk_file *file)
{
    if (file->disk)
        file->disk->format->close(file->disk);
    source_close(file->source);
    if (file->external)
        disk_file_close(file->external);
    free(file->external);
    if (file->fd >= 0)
        close(file->fd);
    *file = DISK_FILE_NONE;
}

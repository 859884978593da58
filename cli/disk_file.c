/*
 * Opening disks.  A format is stated or recognised by its marks; without any the disk is raw.  What
 * a disk builds on is opened by a name on the command line, never by the name in the disk: the
 * first of them is for the disk itself, the next for that one, and so on.  What the upper disk says
 * of the format of the lower one counts for more than marks.  Disks that can only be read in order
 * are disk_stream.c's.
 */
#include "cli/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/disk_stream.h"
#include "cli/image_file.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/http.h"
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

bool disk_file_is_pipe(int fd)
{
    struct stat st;

    return fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode));
}

int disk_file_choose(const struct disk_marks *marks, const char *about,
                     const struct disk_file_options *options, enum wrap_kind *wrap,
                     const struct disk_format **out, struct ferry_error *err)
{
    enum wrap_kind found = WRAP_NONE;
    const struct disk_format *marked;

    *wrap = options->wrap;
    *out = NULL;
    if (options->from) {
        int error = disk_file_format("--from", options->from, out, err);
        if (error || *wrap || *out == &disk_format_raw)
            return error;
        error = disk_format_of(marks, about, &found, &marked, NULL);
        *wrap = error ? WRAP_NONE : found;
        return 0;
    }
    if (*wrap)
        return 0;
    int error = disk_format_of(marks, about, wrap, out, err);
    if (!error && !*out && !*wrap)
        *out = &disk_format_raw;
    return error;
}

static int open_external(const struct disk_format *format, const struct disk_file_options *options,
                         struct disk_file *out, struct ferry_error *err)
{
    struct disk_file_options below = {.external = options->external,
                                      .external_used = options->external_used + 1,
                                      .at_random = true,
                                      .url = options->url};
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

/* The disk in out->source. */
static int open_disk(const struct disk_file_options *options, struct disk_file *out,
                     struct ferry_error *err)
{
    struct disk_open_options open_options = {0};
    const struct disk_format *format = NULL;
    enum wrap_kind wrap = WRAP_NONE;
    struct disk_marks marks;

    int error = disk_marks_read(out->source, &marks, err);
    if (!error)
        error = disk_file_choose(&marks, out->source->about, options, &wrap, &format, err);
    if (!error && wrap)
        return disk_stream_open_wrapped(wrap, options, out, err);
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

/* A size that was stated is one that must be right, also where the disk tells its own. */
static int check_size(const char *about, const struct disk_file_options *options,
                      const struct disk_file *file, struct ferry_error *err)
{
    if (!options->size_bytes || file->disk->size_bytes == options->size_bytes)
        return 0;
    return ferry_refuse(err, -EINVAL, about, "is a disk of %llu bytes, and --size says %llu",
                        (unsigned long long)file->disk->size_bytes,
                        (unsigned long long)options->size_bytes);
}

int disk_file_open_fd(int fd, const char *about, const struct disk_file_options *options,
                      struct disk_file *out, struct ferry_error *err)
{
    *out = DISK_FILE_NONE;
    int error = source_of_fd(fd, about, &out->source, err);
    if (!error)
        error = open_disk(options, out, err);
    if (!error)
        error = check_size(about, options, out, err);
    if (error)
        disk_file_close(out);
    return error;
}

/* Does what begins like this claim to be an image, and is the caller prepared for one? */
static bool is_image(const uint8_t *head, size_t size, const struct disk_file_options *options)
{
    if (!options->images || (options->from && strcmp(options->from, "ferry")))
        return false;
    return options->from || disk_image_probe(head, size);
}

static int no_image(const char *about, const struct disk_file_options *options,
                    struct ferry_error *err)
{
    return options->disk
               ? ferry_usage(err, "--disk", "names a disk of an image; %.80s is none", about)
               : 0;
}

int disk_file_open_peeked(int fd, const char *about, const struct disk_file_options *options,
                          struct disk_file *out, struct ferry_error *err)
{
    int error;

    if (is_image(out->head.bytes, out->head.size, options)) {
        error = disk_of_image_stream(out->head.bytes, out->head.size, fd, about, options->env,
                                     options->disk, &out->disk, err);
    } else {
        error = no_image(about, options, err);
        if (!error)
            error = disk_stream_open_pipe(options, out, err);
    }
    return error ? error : check_size(about, options, out, err);
}

static int open_pipe(int fd, const char *about, const struct disk_file_options *options,
                     struct disk_file *out, struct ferry_error *err)
{
    if (options->at_random)
        return ferry_usage(err, about, "is a pipe; a file is needed, which is read at random");
    int error = disk_file_peek(fd, about, out, err);
    return error ? error : disk_file_open_peeked(fd, about, options, out, err);
}

static int open_any(int fd, const char *file, const struct disk_file_options *options,
                    struct disk_file *out, struct ferry_error *err)
{
    const char *about = image_file_about(file);
    uint8_t head[64] = {0};

    if (disk_file_is_pipe(fd))
        return open_pipe(fd, about, options, out, err);
    (void)pread_all(fd, head, sizeof(head), 0); /* a shorter one is no image */
    if (!is_image(head, sizeof(head), options)) {
        int error = no_image(about, options, err);
        if (!error)
            error = source_of_fd(fd, about, &out->source, err);
        return error ? error : open_disk(options, out, err);
    }
    if (strcmp(file, "-") != 0)
        return disk_of_image(file, options->env, options->disk, &out->disk, err);
    return disk_of_image_stream(NULL, 0, fd, about, options->env, options->disk, &out->disk, err);
}

static int open_url(const char *url, const struct disk_file_options *options, struct disk_file *out,
                    struct ferry_error *err)
{
    if (options->disk)
        return ferry_usage(err, "--disk", "names a disk of an image, which is read from a file");
    int error = disk_url_open(url, &options->url, options->from != NULL, &out->source, err);
    if (!error)
        error = open_disk(options, out, err);
    return error ? error : check_size(out->source->about, options, out, err);
}

static int open_path(const char *command, const char *file, const struct disk_file_options *options,
                     struct disk_file *out, struct ferry_error *err)
{
    out->fd = image_file_open(command, file, err);
    if (out->fd < 0)
        return out->fd;
    int error = open_any(out->fd, file, options, out, err);
    return error ? error : check_size(image_file_about(file), options, out, err);
}

int disk_file_open(const char *command, const char *file, const struct disk_file_options *options,
                   struct disk_file *out, struct ferry_error *err)
{
    *out = DISK_FILE_NONE;
    int error = http_is_url(file) ? open_url(file, options, out, err)
                                  : open_path(command, file, options, out, err);
    if (error)
        disk_file_close(out);
    return error;
}

void disk_file_close(struct disk_file *file)
{
    if (file->disk)
        file->disk->format->close(file->disk);
    while (file->stream_count)
        stream_close(file->streams[--file->stream_count]);
    source_close(file->source);
    if (file->external)
        disk_file_close(file->external);
    free(file->external);
    if (file->fd >= 0)
        close(file->fd);
    *file = DISK_FILE_NONE;
}

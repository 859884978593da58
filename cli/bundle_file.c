/*
 * Opening bundles.  What a path is decides how it is read: a folder, and a description in one, at
 * random; a file at random unless it is compressed; everything else in order.
 */
#include "cli/bundle_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/http.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "imagefmt/foreign/wrap.h"

int bundle_file_format(const char *option, const char *name, const struct bundle_format **out,
                       struct ferry_error *err)
{
    char names[256] = "";

    if ((*out = bundle_format_by_name(name)))
        return 0;
    for (const struct bundle_format *const *f = bundle_formats; *f; f++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", *names ? ", " : "",
                 (*f)->name);
    return ferry_usage(err, option, "'%.40s' is not a format of machines: %s", name, names);
}

/* ---- What is it? ---- */

static int open_path(const char *path, struct bundle_file *out, struct ferry_error *err)
{
    if (!strcmp(path, "-")) {
        if (isatty(STDIN_FILENO))
            return ferry_usage(err, "import",
                               "a machine does not come from a terminal; pipe it in");
        out->fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    } else {
        out->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return out->fd < 0 ? ferry_fail_sys(err, -errno, out->input.about, "cannot open") : 0;
}

/* A description is read together with the folder it lies in. */
static int open_description(const char *path, struct bundle_file *out, struct ferry_error *err)
{
    close(take_fd(&out->fd));
    int error = open_parent(path, &out->fd, &out->description, err);
    if (error)
        return error;
    out->input.folder_fd = out->fd;
    out->input.description = out->description;
    return 0;
}

static bool is_description(const char *path)
{
    const char *base = strrchr(path, '/');
    const char *extension = strrchr(base ? base : path, '.');
    static const char *const known[] = {".ovf", ".xml", ".vmx"};

    for (size_t i = 0; extension && i < sizeof(known) / sizeof(*known); i++)
        if (!strcmp(extension, known[i]))
            return true;
    return false;
}

/* ---- In order ---- */

static struct stream **next_stream(struct bundle_file *out)
{
    return &out->streams[out->stream_count++];
}

/* Look at the first bytes of the last stream, and put one upon it that gives them again. */
static int peek(struct bundle_file *out, struct stream_head *head, struct ferry_error *err)
{
    struct stream *below = out->streams[out->stream_count - 1];

    return stream_peek(below, DISK_PROBE_HEAD_BYTES, next_stream(out), head, err);
}

/* The first bytes of a stream of bytes, or of what is compressed in it. */
static int open_stream(struct bundle_file *out, struct stream_head *head, struct ferry_error *err)
{
    int error = peek(out, head, err);

    if (error)
        return error;
    enum wrap_kind wrap = wrap_by_magic(head->bytes, head->size);
    if (wrap != WRAP_NONE) {
        struct stream *below = out->streams[out->stream_count - 1];
        error = stream_unwrap(below, wrap, next_stream(out), err);
        if (!error)
            error = peek(out, head, err);
    }
    out->input.stream = out->streams[out->stream_count - 1];
    return error;
}

/* ---- At random ---- */

static int read_head(struct bundle_file *out, uint8_t *room, struct stream_head *head,
                     struct ferry_error *err)
{
    struct source *source = out->input.source;

    head->bytes = room;
    head->size =
        source->size_bytes < DISK_PROBE_HEAD_BYTES ? source->size_bytes : DISK_PROBE_HEAD_BYTES;
    int error = source->pread(source, 0, room, head->size, err);
    if (error || wrap_by_magic(room, head->size) == WRAP_NONE)
        return error;
    out->packed = take_ptr(&out->input.source);
    error = stream_of_source(out->packed, next_stream(out), err);
    return error ? error : open_stream(out, head, err);
}

/* ---- All of it ---- */

static int open_input(const char *path, struct bundle_file *out, uint8_t *room,
                      struct stream_head *head, struct ferry_error *err)
{
    struct stat st;

    if (fstat(out->fd, &st))
        return ferry_fail_sys(err, -errno, out->input.about, "cannot read");
    if (S_ISDIR(st.st_mode)) {
        out->input.folder_fd = out->fd;
        return 0;
    }
    if (S_ISREG(st.st_mode) && is_description(path))
        return open_description(path, out, err);
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) {
        int error = source_of_fd(out->fd, out->input.about, &out->input.source, err);
        return error ? error : read_head(out, room, head, err);
    }
    int error = stream_of_fd(out->fd, out->input.about, next_stream(out), err);
    return error ? error : open_stream(out, head, err);
}

/* Read by ranges, unless it is compressed. */
static int open_url(const char *path, const char *from, const struct disk_url_options *url,
                    struct bundle_file *out, uint8_t *room, struct stream_head *head,
                    struct ferry_error *err)
{
    int error = disk_url_open(path, url, from != NULL, &out->input.source, err);

    if (error)
        return error;
    out->input.about = out->input.source->about; /* without secrets */
    return read_head(out, room, head, err);
}

static int open_bundle(const char *path, const char *from, const struct disk_url_options *url,
                       struct bundle_file *out, struct ferry_error *err)
{
    const struct bundle_format *format = NULL;
    uint8_t room[DISK_PROBE_HEAD_BYTES];
    struct stream_head head = {0};

    int error = from ? bundle_file_format("--from", from, &format, err) : 0;
    if (!error && http_is_url(path)) {
        error = open_url(path, from, url, out, room, &head, err);
    } else if (!error) {
        error = open_path(path, out, err);
        if (!error)
            error = open_input(path, out, room, &head, err);
    }
    if (error)
        return error;
    if (!format && !(format = bundle_format_by_head(&out->input, head.bytes, head.size)))
        return 0;
    if (!format->open)
        return ferry_usage(err, out->input.about, "is %s, which is written, but not read",
                           format->name);
    return format->open(&out->input, &out->bundle, err);
}

int bundle_file_open(const char *path, const char *from, const struct disk_url_options *url,
                     struct bundle_file *out, struct ferry_error *err)
{
    *out = BUNDLE_FILE_NONE;
    out->input.about = strcmp(path, "-") ? path : "standard input";
    int error = open_bundle(path, from, url, out, err);
    if (error)
        bundle_file_close(out);
    return error;
}

void bundle_file_close(struct bundle_file *file)
{
    if (file->bundle)
        file->bundle->format->close(file->bundle);
    while (file->stream_count)
        stream_close(file->streams[--file->stream_count]);
    source_close(file->packed);
    source_close(file->input.source);
    cleanup_fd_fn(&file->fd);
    free(file->description);
    *file = BUNDLE_FILE_NONE;
}

/* ---- Reading back ---- */

/* Every disk that was written comes back, once, with the content that it had. */
static int compare_disks(struct bundle *bundle, uint32_t count,
                         const uint8_t digests[LIMIT_DISKS][SHA256_BYTES],
                         struct progress *progress, struct ferry_error *err)
{
    const struct disk_copy_options options = {.phase = "verify", .progress = progress};
    struct disk_copy_result result;
    bool seen[LIMIT_DISKS] = {false};
    struct disk *disk = NULL;
    uint32_t index = 0;
    int more;

    while ((more = bundle->format->next_disk(bundle, &index, &disk, err)) > 0) {
        if (index >= count || seen[index])
            return ferry_fail(err, -EIO, NULL, "disk %u was not written like this", index);
        seen[index] = true;
        int error = disk_digest(disk, disk->size_bytes, &options, &result, err);
        if (error)
            return error;
        if (memcmp(result.digest, digests[index], SHA256_BYTES))
            return ferry_fail(err, -EIO, NULL,
                              "disk %u reads back with other content than was written; nothing "
                              "was kept",
                              index);
    }
    for (uint32_t i = 0; !more && i < count; i++)
        if (!seen[i])
            return ferry_fail(err, -EIO, NULL, "disk %u does not come back; nothing was kept", i);
    return more ? more : bundle->format->finish(bundle, err);
}

int bundle_file_verify(const struct bundle_input *input, const struct bundle_format *format,
                       uint32_t count, const uint8_t digests[LIMIT_DISKS][SHA256_BYTES],
                       struct progress *progress, struct ferry_error *err)
{
    struct bundle *bundle = NULL;

    if (!format->open)
        return ferry_usage(err, "--verify", "%s is not read here", format->name);
    int error = format->open(input, &bundle, err);
    if (error)
        return ferry_wrap(err, input->about, "cannot be read back");
    error = compare_disks(bundle, count, digests, progress, err);
    format->close(bundle);
    return error ? ferry_wrap(err, input->about, "cannot be read back") : 0;
}

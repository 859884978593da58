/*
 * A disk from one format to another: SRC is opened, its content goes through the pipeline into a
 * file that appears when it is whole, or a pipe, and what DEST has no place for is told.
 */
#include "cli/convert_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/convert_resume.h"
#include "cli/disk_file.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/running_disks.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include "imagefmt/foreign/copy.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/http.h"
#include "imagefmt/foreign/sink.h"

struct convert {
    const struct convert_cli *cli;
    const struct disk_format *to;
    enum wrap_kind wrap; /* of DEST */
    struct image_file_environment environment;
    struct disk_file source;
    struct running_disks running; /* where source comes from, if it is a machine that runs */
    struct progress progress;
    struct progress_view view;
    uint64_t start_ns;
    struct disk_copy_result result;
    uint64_t written_bytes;
};

static bool to_stdout(const struct convert_cli *o)
{
    return !strcmp(o->dest, "-");
}

static int check_usage(const struct convert_cli *o, struct ferry_error *err)
{
    struct stat st;

    if (o->check_only)
        return 0;
    if (to_stdout(o)) {
        if (o->json || o->verify || o->resume)
            return ferry_usage(err,
                               o->json     ? "--json"
                               : o->verify ? "--verify"
                                           : "--resume",
                               "needs a file; the disk goes to stdout");
        if (isatty(STDOUT_FILENO))
            return ferry_usage(err, "convert", "give a file or a pipe, not a terminal");
    } else if (!stat(o->dest, &st) && !S_ISREG(st.st_mode)) {
        return ferry_usage(err, o->dest, "is not a plain file; give '-' and a pipe for all else");
    }
    return 0;
}

static int choose_wrap(struct convert *c, size_t *length, struct ferry_error *err)
{
    const struct convert_cli *o = c->cli;

    *length = strlen(o->dest);
    c->wrap = to_stdout(o) ? WRAP_NONE : wrap_by_extension(o->dest, length);
    if (o->wrap && strcmp(o->wrap, "none") != 0 && !(c->wrap = wrap_by_name(o->wrap)))
        return ferry_usage(err, "--wrap", "'%.40s' is none of gzip, xz, zstd, bzip2 and none",
                           o->wrap);
    if (o->wrap && !strcmp(o->wrap, "none"))
        c->wrap = WRAP_NONE;
    if (c->wrap && o->codec && strcmp(o->codec, "none") != 0)
        return ferry_usage(err, "--codec", "the file as a whole is compressed with %s already",
                           wrap_name(c->wrap));
    return 0;
}

static int choose_target(struct convert *c, struct ferry_error *err)
{
    const struct convert_cli *o = c->cli;
    size_t length;

    int error = choose_wrap(c, &length, err);
    if (error)
        return error;
    if (o->to) {
        error = disk_file_format("--to", o->to, &c->to, err);
        if (error)
            return error;
    } else {
        CLEANUP_FREE char *name = strndup(o->dest, length);
        if (!name)
            return ferry_fail(err, -ENOMEM, NULL, "out of memory");
        if (!(c->to = disk_format_by_extension(name)))
            return ferry_usage(err, "--to",
                               "say the format of '%.80s'; its name does not tell ('ferry "
                               "formats' lists them)",
                               o->dest);
    }
    if (!c->to->create)
        return ferry_usage(err, "--to", "%s is read, but not written", c->to->name);
    return 0;
}

static void report(void *opaque, const struct progress_report *report)
{
    struct convert *c = opaque;
    struct progress_report shown = *report;
    uint64_t elapsed = monotonic_ns() - c->start_ns;

    if (elapsed > 100000000)
        shown.rate_bytes_per_s = (uint64_t)((double)report->done_bytes * 1e9 / (double)elapsed);
    progress_view_show(&c->view, &shown);
}

/* ---- Writing ---- */

/* SRC, without the secrets that a URL may have. */
static const char *source_name(const struct convert *c)
{
    return http_is_url(c->cli->source) ? c->source.source->about : c->cli->source;
}

/* A name of the content's own for formats with a UUID: the same for the same disk of that name. */
static void make_identity(const struct convert *c, uint8_t identity[16])
{
    const char *name = to_stdout(c->cli) ? source_name(c) : c->cli->dest;
    const char *slash = strrchr(name, '/');
    uint8_t sum[SHA256_BYTES];

    name = slash ? slash + 1 : name;
    sha256(name, strlen(name), sum);
    memcpy(identity, sum, 16);
}

static uint64_t target_size(const struct convert *c)
{
    uint64_t size = c->source.disk->size_bytes;

    return c->to == &disk_format_raw ? size : disk_whole_sectors(size);
}

static struct disk_write_options write_options(const struct convert *c)
{
    struct disk_write_options options = {
        .size_bytes = target_size(c),
        .subformat = c->cli->subformat,
        .codec = c->cli->codec,
        .level = c->wrap ? 0 : (int)c->cli->level,
        .unit_bytes = c->cli->cluster_bytes,
    };

    make_identity(c, options.identity);
    return options;
}

/* Into sink, which takes it in order if it is a pipe or a wrap. */
static int write_disk(struct convert *c, struct sink *sink, struct ferry_error *err)
{
    const struct disk_write_options options = write_options(c);
    const struct disk_copy_options copy = {
        .digest = c->cli->verify, .phase = "convert", .progress = &c->progress};
    struct disk_writer *writer = NULL;

    int error = c->to->create(sink, &options, &writer, err);
    if (error)
        return error;
    error = disk_copy(c->source.disk, writer, options.size_bytes, &copy, &c->result, err);
    c->to->destroy(writer);
    return error;
}

static int write_to(struct convert *c, int fd, const char *about, struct ferry_error *err)
{
    const struct wrap_options options = {.level = (int)c->cli->level};
    struct sink *wrapped;
    struct fd_sink sink;

    sink_of_fd(&sink, fd, about, to_stdout(c->cli) || c->wrap);
    if (!c->wrap)
        return write_disk(c, &sink.sink, err);
    int error = sink_wrap(&sink.sink, c->wrap, &options, &wrapped, err);
    if (error)
        return error;
    error = write_disk(c, wrapped, err);
    if (!error)
        error = sink_wrap_finish(wrapped, err);
    sink_wrap_destroy(wrapped);
    return error;
}

/* Read back what was written, before it gets its name. */
static int verify(struct convert *c, int fd, struct ferry_error *err)
{
    CLEANUP(disk_file_close) struct disk_file back = DISK_FILE_NONE;
    const struct disk_file_options options = {
        .from = c->to->name, .wrap = c->wrap, .size_bytes = c->result.size_bytes};
    const struct disk_copy_options copy = {.phase = "verify", .progress = &c->progress};
    struct disk_copy_result result;

    c->start_ns = monotonic_ns();
    int error = disk_file_open_fd(fd, c->cli->dest, &options, &back, err);
    if (!error)
        error = disk_digest(back.disk, back.disk->size_bytes, &copy, &result, err);
    if (error)
        return ferry_wrap(err, c->cli->dest, "cannot be read back");
    if (memcmp(result.digest, c->result.digest, SHA256_BYTES))
        return ferry_fail(err, -EIO, c->cli->dest,
                          "reads back with other content than was written; nothing was kept");
    return 0;
}

/* So that it can be taken up again. */
static int write_resumable(struct convert *c, struct ferry_error *err)
{
    CLEANUP(resume_cleanup) struct resume *r = NULL;
    const struct disk_write_options options = write_options(c);
    const struct disk_copy_options copy = {
        .digest = c->cli->verify, .phase = "convert", .progress = &c->progress};
    const struct convert_resume what = {
        .dest = c->cli->dest,
        .source = c->cli->source,
        .external = &c->cli->external,
        .disk_name = c->cli->disk,
        .file = &c->source,
        .to = c->to,
        .write = &options,
        .verify = c->cli->verify,
    };

    int error = convert_resume_open(&what, &r, err);
    if (error)
        return error;
    error = resume_copy(r, c->source.disk, c->to, &options, &copy, &c->result, err);
    if (error)
        return convert_resume_explain(r, c->cli->dest, err);
    error = c->cli->verify ? verify(c, resume_fd(r), err) : 0;
    if (error)
        resume_discard(r);
    return error ? error : resume_commit(r, err);
}

static int write_at_once(struct convert *c, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    int error = atomic_file_open(&file, c->cli->dest, err);
    if (!error)
        error = write_to(c, file.fd, c->cli->dest, err);
    if (!error && c->cli->verify)
        error = verify(c, file.fd, err);
    return error ? error : atomic_file_commit(&file, err);
}

static int write_file(struct convert *c, struct ferry_error *err)
{
    struct stat st;

    bool resume = c->cli->resume && !c->wrap;

    if (c->cli->resume && !resume)
        output_note("%s: what is compressed as a whole cannot be taken up again; --resume is of no "
                    "effect",
                    c->cli->dest);
    int error = resume ? write_resumable(c, err) : write_at_once(c, err);
    if (!error && !stat(c->cli->dest, &st))
        c->written_bytes = (uint64_t)st.st_size;
    return error;
}

/* ---- What is lost ---- */

static json_t *losses(const struct convert *c)
{
    const struct disk *disk = c->source.disk;
    json_t *list = json_array();
    json_t *about = disk->format->describe ? disk->format->describe(disk) : NULL;
    size_t snapshots = json_array_size(json_object_get(about, "internal_snapshots"));

    if (snapshots)
        json_array_append_new(list, json_sprintf("internal snapshots: %zu", snapshots));
    if (target_size(c) != disk->size_bytes)
        json_array_append_new(list, json_sprintf("the exact size: %llu bytes become %llu",
                                                 (unsigned long long)disk->size_bytes,
                                                 (unsigned long long)target_size(c)));
    json_decref(about);
    return list;
}

static int print_losses(const struct convert *c, struct ferry_error *err)
{
    json_t *list = losses(c);

    if (c->cli->json)
        return output_json(json_pack("{s:s, s:s, s:s, s:o}", "source", source_name(c), "from",
                                     c->source.disk->format->name, "to", c->to->name, "losses",
                                     list),
                           err);
    for (size_t i = 0; i < json_array_size(list); i++)
        output_text("%s", json_string_value(json_array_get(list, i)));
    json_decref(list);
    return 0;
}

static void note_losses(const struct convert *c)
{
    json_t *list = losses(c);

    for (size_t i = 0; i < json_array_size(list); i++)
        output_note("not kept in %s: %s", c->to->name, json_string_value(json_array_get(list, i)));
    json_decref(list);
}

static int print_result(const struct convert *c, struct ferry_error *err)
{
    const struct convert_cli *o = c->cli;
    char hex[2 * SHA256_BYTES + 1], size[32], written[32];

    if (o->json)
        return output_json(
            json_pack("{s:s, s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:s*}", "source", source_name(c),
                      "from", c->source.disk->format->name, "dest", o->dest, "to", c->to->name,
                      "wrap", c->wrap ? wrap_name(c->wrap) : NULL, "bytes",
                      (json_int_t)c->result.size_bytes, "content_bytes",
                      (json_int_t)c->result.content_bytes, "written_bytes",
                      (json_int_t)c->written_bytes, "digest",
                      o->verify ? hex_encode(c->result.digest, SHA256_BYTES, hex) : NULL),
            err);
    if (!to_stdout(o))
        output_text("%s: %s, disk of %s in %s%s", o->dest, c->to->name,
                    format_size(c->result.size_bytes, size, sizeof(size)),
                    format_size(c->written_bytes, written, sizeof(written)),
                    o->verify ? ", verified" : "");
    return 0;
}

/* A disk of a machine that runs, as of now. */
static int open_running(struct convert *c, const struct disk_file_options *options,
                        struct ferry_error *err)
{
    const char *name = c->cli->source;

    int error = running_disks_open(name, &c->running, err);
    if (!error)
        error = disk_file_peek(c->running.read_fd, name, &c->source, err);
    if (!error)
        error = disk_file_open_peeked(c->running.read_fd, name, options, &c->source, err);
    return error && c->running.started ? running_disks_explain(&c->running, error, err) : error;
}

static int write_out(struct convert *c, struct ferry_error *err)
{
    int error =
        to_stdout(c->cli) ? write_to(c, STDOUT_FILENO, "standard output", err) : write_file(c, err);

    return error && c->running.started ? running_disks_explain(&c->running, error, err) : error;
}

static int convert(struct convert *c, struct ferry_error *err)
{
    const struct convert_cli *o = c->cli;
    struct disk_file_options options = {
        .from = o->from,
        .external = &o->external,
        .images = true,
        .disk = o->disk,
        .size_bytes = o->size_bytes,
        .url = o->url,
    };

    int error = image_file_environment_open(&o->image, &c->environment, err);
    options.env = &c->environment.env;
    if (!error)
        error = check_usage(o, err);
    if (!error)
        error = choose_target(c, err);
    if (!error)
        error = o->running ? open_running(c, &options, err)
                           : disk_file_open("convert", o->source, &options, &c->source, err);
    if (!error)
        error = progress_view_init(&c->view, &o->progress, err);
    if (error)
        return error;
    if (o->check_only)
        return print_losses(c, err);
    note_losses(c);
    c->start_ns = monotonic_ns();
    error = write_out(c, err);
    progress_view_end(&c->view);
    return error ? error : print_result(c, err);
}

int convert_disk(const struct convert_cli *cli, struct ferry_error *err)
{
    struct convert c = {.cli = cli, .source = DISK_FILE_NONE, .running = RUNNING_DISKS_NONE};

    c.progress.report = report;
    c.progress.opaque = &c;
    int error = convert(&c, err);
    disk_file_close(&c.source);
    running_disks_close(&c.running);
    image_file_environment_close(&c.environment);
    return error;
}

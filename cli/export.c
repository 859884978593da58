/* ferry export: a machine out of ferry, for another hypervisor or a backup. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/bundle_file.h"
#include "cli/commands.h"
#include "cli/convert_disk.h"
#include "cli/image_file.h"
#include "cli/machine_source.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "common/atomic_folder.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"
#include "common/units.h"
#include "imagefmt/foreign/formats.h"
#include "imagefmt/foreign/sink.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/wrap.h"

struct export_cli {
    const char *source, *dest, *to, *disk, *disk_format, *codec;
    uint64_t level;
    bool whole, verify, check_only, json, resume;
    struct image_file_options image;
    struct progress_options progress;
};

struct export
{
    const struct export_cli *cli;
    const struct bundle_format *to;
    struct image_file_environment environment;
    struct machine_source source;
    struct bundle_write_options options;
    struct bundle_write_result result;
    struct progress progress;
    struct progress_view view;
    json_t *notes; /* what is lost */
    bool running;  /* source is a machine that runs */
    uint64_t start_ns;
};

static bool to_stdout(const struct export_cli *o)
{
    return !strcmp(o->dest, "-");
}

/* e->to is NULL: a single disk, in a format of disks. */
static int choose_target(struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;

    e->to = o->to ? bundle_format_by_name(o->to) : bundle_format_by_extension(o->dest);
    if (e->to || (o->to && disk_format_by_name(o->to)))
        return 0;
    if (o->to)
        return bundle_file_format("--to", o->to, &e->to, err);
    if (disk_format_by_extension(o->dest) || wrap_by_extension(o->dest, &(size_t){0}))
        return 0;
    return ferry_usage(err, "--to",
                       "say the format of '%.80s'; its name does not tell ('ferry formats' lists "
                       "them)",
                       o->dest);
}

/* What convert does. */
static int export_disk(struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;
    const struct convert_cli disk = {.source = o->source,
                                     .running = e->running,
                                     .from = "ferry",
                                     .dest = o->dest,
                                     .to = o->to,
                                     .codec = o->codec,
                                     .disk = o->disk,
                                     .level = o->level,
                                     .image = o->image,
                                     .verify = o->verify,
                                     .check_only = o->check_only,
                                     .resume = o->resume,
                                     .json = o->json,
                                     .progress = o->progress};

    if (o->disk_format || o->whole)
        return ferry_usage(err, o->whole ? "--whole" : "--disk-format", "is of a machine's bundle");
    return convert_disk(&disk, err);
}

static int check_usage(const struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;

    if (o->disk || o->resume)
        return ferry_usage(err, o->disk ? "--disk" : "--resume",
                           "is for a single disk; %s takes all of a machine", e->to->name);
    if (!e->to->write)
        return ferry_usage(err, "--to", "%s is read, but not written", e->to->name);
    if (o->verify && !e->to->open)
        return ferry_usage(err, "--verify", "%s is written, but not read", e->to->name);
    if (o->check_only || !to_stdout(o))
        return 0;
    if (e->to->folder || !e->to->streams_out)
        return ferry_usage(err, "--to", "%s is a folder: give the name of one", e->to->name);
    if (o->json || o->verify)
        return ferry_usage(err, o->json ? "--json" : "--verify",
                           "needs a file; the machine goes to stdout");
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, "export", "give a file or a pipe, not a terminal");
    return 0;
}

static void report(void *opaque, const struct progress_report *report)
{
    struct export *e = opaque;

    progress_view_show(&e->view, report);
}

/* ---- Writing ---- */

static int write_to(struct export *e, const struct bundle_output *output, struct ferry_error *err)
{
    int error = e->to->write(output, &e->source.content, &e->options, &e->result, err);

    return error ? error : machine_source_finish(&e->source, err);
}

static int verify(struct export *e, const struct bundle_input *input, struct ferry_error *err)
{
    if (!e->cli->verify)
        return 0;
    return bundle_file_verify(input, e->to, e->source.guest.disk_count, e->result.digest,
                              &e->progress, err);
}

static int write_stdout(struct export *e, struct ferry_error *err)
{
    struct fd_sink sink;
    const struct bundle_output output = {
        .sink = &sink.sink, .folder_fd = -1, .about = "standard output"};

    sink_of_fd(&sink, STDOUT_FILENO, output.about, true);
    return write_to(e, &output, err);
}

static int write_file(struct export *e, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;
    CLEANUP(source_cleanup) struct source *back = NULL;
    struct fd_sink sink;
    const struct bundle_output output = {
        .sink = &sink.sink, .folder_fd = -1, .about = e->cli->dest};

    int error = atomic_file_open(&file, e->cli->dest, err);
    if (error)
        return error;
    sink_of_fd(&sink, file.fd, output.about, false);
    error = write_to(e, &output, err);
    if (!error)
        error = source_of_fd(file.fd, output.about, &back, err);
    const struct bundle_input input = {.source = back, .folder_fd = -1, .about = output.about};
    if (!error)
        error = verify(e, &input, err);
    return error ? error : atomic_file_commit(&file, err);
}

static int write_folder(struct export *e, struct ferry_error *err)
{
    CLEANUP(atomic_folder_abandon) struct atomic_folder folder = ATOMIC_FOLDER_NONE;

    int error = atomic_folder_open(&folder, e->cli->dest, err);
    if (error)
        return error;
    const struct bundle_output output = {.folder_fd = folder.fd, .about = e->cli->dest};
    const struct bundle_input input = {.folder_fd = folder.fd, .about = e->cli->dest};
    error = write_to(e, &output, err);
    if (!error)
        error = verify(e, &input, err);
    return error ? error : atomic_folder_commit(&folder, err);
}

static int write_out(struct export *e, struct ferry_error *err)
{
    signals_cancel(&e->progress);
    int error = to_stdout(e->cli) ? write_stdout(e, err)
                : e->to->folder   ? write_folder(e, err)
                                  : write_file(e, err);
    signals_cancel(NULL);
    return error;
}

/* ---- Results ---- */

static int print_losses(struct export *e, struct ferry_error *err)
{
    if (e->cli->json)
        return output_json(json_pack("{s:s, s:s, s:O}", "source", e->cli->source, "to", e->to->name,
                                     "losses", e->notes),
                           err);
    for (size_t i = 0; i < json_array_size(e->notes); i++)
        output_text("%s", json_string_value(json_array_get(e->notes, i)));
    return 0;
}

static void note_losses(const struct export *e)
{
    for (size_t i = 0; i < json_array_size(e->notes); i++)
        output_note("not kept in %s: %s", e->to->name,
                    json_string_value(json_array_get(e->notes, i)));
}

static json_t *disks_to_json(const struct export *e)
{
    json_t *disks = json_array();
    char hex[2 * SHA256_BYTES + 1];

    for (uint32_t i = 0; i < e->source.guest.disk_count; i++)
        json_array_append_new(
            disks,
            json_pack("{s:s, s:I, s:s*}", "device", e->source.manifest->machine.disks[i].device,
                      "bytes", (json_int_t)e->source.guest.disks[i].size_bytes, "digest",
                      e->options.digest ? hex_encode(e->result.digest[i], SHA256_BYTES, hex)
                                        : NULL));
    return disks;
}

static int print_result(const struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;
    uint64_t total_ns = monotonic_ns() - e->start_ns;
    char content[32], written[32], took[32];

    if (to_stdout(o))
        return 0;
    if (o->json)
        return output_json(
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:o, s:o, s:O}", "source", o->source, "dest",
                      o->dest, "to", e->to->name, "bytes", (json_int_t)e->result.bytes,
                      "content_bytes", (json_int_t)e->result.content_bytes, "total_ms",
                      output_ms(total_ns), "disks", disks_to_json(e), "losses", e->notes),
            err);
    output_text("%s: %s, %s for %s of content, in %s%s", o->dest, e->to->name,
                format_size(e->result.bytes, written, sizeof(written)),
                format_size(e->result.content_bytes, content, sizeof(content)),
                format_duration(total_ns, took, sizeof(took)), o->verify ? ", verified" : "");
    return 0;
}

static int open_source(struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;

    if (e->running)
        return machine_source_open_running(o->source, &e->environment.env, e->notes, &e->source,
                                           err);
    if (strcmp(o->source, "-"))
        return machine_source_open(o->source, &e->environment.env, e->notes, &e->source, err);
    if (isatty(STDIN_FILENO))
        return ferry_usage(err, "export", "an image does not come from a terminal; pipe it in");
    return machine_source_open_stream(STDIN_FILENO, "standard input", &e->environment.env, e->notes,
                                      &e->source, err);
}

static int export(struct export *e, struct ferry_error *err)
{
    const struct export_cli *o = e->cli;

    int error = choose_target(e, err);
    if (!error)
        error = running_disks_find(o->source, &e->running, err);
    if (!error && !e->to)
        return export_disk(e, err);
    if (!error)
        error = check_usage(e, err);
    if (!error)
        error = image_file_environment_open(&o->image, &e->environment, err);
    if (!error)
        error = progress_view_init(&e->view, &o->progress, err);
    if (!error)
        error = signals_setup(err);
    if (!error)
        error = open_source(e, err);
    if (error)
        return error;
    error = e->to->losses(&e->source.content, e->notes, err);
    if (error)
        return error;
    if (o->check_only)
        return print_losses(e, err);
    if (!o->json)
        note_losses(e);
    e->options = (struct bundle_write_options){.disk_format = o->disk_format,
                                               .codec = o->codec,
                                               .level = (int)o->level,
                                               .whole = o->whole,
                                               .digest = o->verify || o->json,
                                               .progress = &e->progress};
    e->start_ns = monotonic_ns();
    error = write_out(e, err);
    progress_view_end(&e->view);
    return error ? error : print_result(e, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    struct export e = {.cli = parsed, .source = MACHINE_SOURCE_NONE, .notes = json_array()};

    e.progress.report = report;
    e.progress.opaque = &e;
    int error = export(&e, err);
    machine_source_close(&e.source);
    image_file_environment_close(&e.environment);
    json_decref(e.notes);
    return error;
}

static const struct option_spec options[] = {
    OPTION("to", "FORMAT", OPTION_STRING, struct export_cli, to,
           "the format of DEST; by its name if not given"),
    OPTION("disk", "NAME", OPTION_STRING, struct export_cli, disk,
           "into a format of disks: which one, if SRC has several"),
    OPTION("disk-format", "FORMAT", OPTION_STRING, struct export_cli, disk_format,
           "the format of the disks in it, where there is a choice"),
    OPTION("codec", "CODEC", OPTION_STRING, struct export_cli, codec,
           "none, zlib or zstd, where the format has a choice"),
    OPTION_RANGE("level", "N", struct export_cli, level, 1, 19,
                 "how hard to compress: 1 to 12 (zlib), 1 to 19 (zstd)"),
    OPTION("whole", NULL, OPTION_FLAG, struct export_cli, whole,
           "into a pipe: each disk in one piece, which takes two passes;\nnot every reader "
           "joins pieces"),
    OPTION("verify", NULL, OPTION_FLAG, struct export_cli, verify,
           "read DEST back and compare before it gets its name"),
    OPTION("check-only", NULL, OPTION_FLAG, struct export_cli, check_only,
           "write nothing; list what DEST would not keep"),
    OPTION("resume", NULL, OPTION_FLAG, struct export_cli, resume,
           "into a format of disks: keep DEST.partial and DEST.resume when\ninterrupted, and go on "
           "from them"),
    OPTION("json", NULL, OPTION_FLAG, struct export_cli, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct export_cli, image),
    PROGRESS_OPTIONS(struct export_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("SRC", struct export_cli, source, "a machine, or an image of one"),
    OPERAND("DEST", struct export_cli, dest, "the file or folder to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_export = {
    .name = "export",
    .summary = "Take a machine to another hypervisor",
    .details = "Description and disks go to DEST, which appears under its name only when it is\n"
               "whole.  'ferry formats' lists what there is.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct export_cli),
    .run = run,
};

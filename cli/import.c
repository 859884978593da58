/* ferry import: a machine of another hypervisor into an image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bundle_file.h"
#include "cli/commands.h"
#include "cli/disk_file.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"
#include "snapshot/import.h"

#define FAST_LEVEL (-5)

struct import_cli {
    const char *source, *dest, *from, *base, *name;
    struct option_strings external;
    uint64_t size_bytes, memory_bytes, cpus, level, disk_chunk;
    bool fast, json, encrypt;
    struct image_file_options image;
    struct disk_url_options url;
    struct progress_options progress;
};

struct import {
    const struct import_cli *cli;
    struct bundle_file bundle;
    struct disk_file disk; /* if it is no bundle */
    bool disk_given;       /* it was handed out */
    struct guest guest;
    struct image_file_environment environment;
    struct image_secret secret;
    struct progress progress;
    struct progress_view view;
    struct snapshot_result result;
    json_t *notes;
};

static void report(void *opaque, const struct progress_report *report)
{
    struct import *i = opaque;

    progress_view_show(&i->view, report);
}

static int check_usage(const struct import_cli *o, struct ferry_error *err)
{
    if (o->fast && o->level)
        return ferry_usage(err, "import", "give one of --fast and --level");
    if (o->name && !machine_name_valid(o->name))
        return ferry_usage(err, "--name", "'%.80s' is not a name of a machine", o->name);
    if (strcmp(o->dest, "-"))
        return 0;
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, "import", "an image is not for a terminal; give a file or a pipe");
    if (o->json)
        return ferry_usage(err, "import", "--json and an image cannot both go to stdout");
    return 0;
}

/* ---- One disk as a machine ---- */

static int next_of_disk(void *opaque, uint32_t *index, struct disk **disk, struct ferry_error *err)
{
    struct import *i = opaque;

    (void)err;
    if (i->disk_given)
        return 0;
    i->disk_given = true;
    *index = 0;
    *disk = i->disk.disk;
    return 1;
}

/* "a/web.qcow2" makes a machine "web". */
static void name_by_file(const char *path, struct guest *guest)
{
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char name[LIMIT_NAME_BYTES + 1];

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(base, "."), base);
    guest_set_name(guest, strcmp(path, "-") ? name : "");
}

static void describe_disk(struct import *i)
{
    i->guest = (struct guest){.cpus = 1,
                              .memory_bytes = 512 * MIB,
                              .firmware = GUEST_FIRMWARE_BIOS,
                              .serial_console = true,
                              .disk_count = 1};
    i->guest.disks[0].size_bytes = i->disk.disk->size_bytes;
    name_by_file(i->cli->source, &i->guest);
}

static int open_disk(struct import *i, struct ferry_error *err)
{
    const struct import_cli *o = i->cli;
    const struct disk_file_options options = {
        .from = o->from, .external = &o->external, .size_bytes = o->size_bytes, .url = o->url};

    int error = disk_file_open("import", o->source, &options, &i->disk, err);
    if (!error)
        describe_disk(i);
    return error;
}

/* ---- Opening ---- */

static bool is_disk_format(const char *name)
{
    const struct disk_format *format;

    return !disk_file_format("--from", name, &format, NULL);
}

static int open_source(struct import *i, struct import_source *source, struct ferry_error *err)
{
    const struct import_cli *o = i->cli;
    bool disk = o->from && is_disk_format(o->from);

    int error = disk ? 0 : bundle_file_open(o->source, o->from, &o->url, &i->bundle, err);
    if (error)
        return error;
    if (i->bundle.bundle) {
        *source = import_of_bundle(i->bundle.bundle);
        i->guest = i->bundle.bundle->guest;
        json_array_extend(i->notes, i->bundle.bundle->notes);
    } else {
        if (i->bundle.input.stream && !i->bundle.packed)
            return ferry_usage(err, "--from", "a disk in a pipe: say in which format");
        bundle_file_close(&i->bundle);
        error = open_disk(i, err);
        *source = (struct import_source){.next_disk = next_of_disk, .opaque = i};
    }
    source->guest = &i->guest;
    source->about = i->bundle.bundle ? i->bundle.input.about
                    : i->disk.source ? i->disk.source->about
                                     : o->source;
    return error;
}

static void apply_options(struct import *i)
{
    const struct import_cli *o = i->cli;

    if (o->name)
        guest_set_name(&i->guest, o->name);
    if (o->memory_bytes)
        i->guest.memory_bytes = o->memory_bytes;
    if (o->cpus)
        i->guest.cpus = (uint32_t)o->cpus;
}

/* ---- Writing ---- */

static int write_image(struct import *i, int fd, const struct import_source *source,
                       struct ferry_error *err)
{
    const struct import_cli *o = i->cli;
    CLEANUP(image_cleanup) struct image *base = NULL;
    struct snapshot_options options = {
        .level = o->fast ? FAST_LEVEL : (int)o->level,
        .disk_chunk_bytes = (uint32_t)o->disk_chunk,
        .secret = i->secret.kind ? &i->secret : NULL,
    };

    int error = o->base ? image_file_open_chain(o->base, &o->image, &base, err) : 0;
    if (error)
        return error;
    options.base = base;
    signals_cancel(&i->progress);
    error = snapshot_import(fd, source, &options, &i->progress, &i->result, i->notes, err);
    signals_cancel(NULL);
    return error;
}

static int write_out(struct import *i, const struct import_source *source, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    if (!strcmp(i->cli->dest, "-"))
        return write_image(i, STDOUT_FILENO, source, err);
    int error = atomic_file_open(&file, i->cli->dest, err);
    if (!error)
        error = write_image(i, file.fd, source, err);
    return error ? error : atomic_file_commit(&file, err);
}

/* ---- Results ---- */

static int print(const struct import *i, struct ferry_error *err)
{
    const struct import_cli *o = i->cli;
    char root[2 * SHA256_BYTES + 1], bytes[32], content[32], total[32];

    if (o->json)
        return output_json(json_pack("{s:s, s:I, s:I, s:o, s:s, s:O}", "name", i->guest.name,
                                     "bytes", (json_int_t)i->result.bytes, "content_bytes",
                                     (json_int_t)i->result.content_bytes, "total_ms",
                                     output_ms(i->result.total_ns), "root",
                                     hex_encode(i->result.root, SHA256_BYTES, root), "notes",
                                     i->notes),
                           err);
    for (size_t n = 0; n < json_array_size(i->notes); n++)
        output_note("%s", json_string_value(json_array_get(i->notes, n)));
    if (strcmp(o->dest, "-"))
        output_text("%s: machine %s, %s for %s of content, in %s", o->dest, i->guest.name,
                    format_size(i->result.bytes, bytes, sizeof(bytes)),
                    format_size(i->result.content_bytes, content, sizeof(content)),
                    format_duration(i->result.total_ns, total, sizeof(total)));
    return 0;
}

static int import(struct import *i, struct ferry_error *err)
{
    const struct import_cli *o = i->cli;
    struct import_source source;

    int error = check_usage(o, err);
    if (!error)
        error = image_file_seal(&o->image, o->encrypt || image_file_has_secret(&o->image), o->dest,
                                &i->secret, err);
    if (!error)
        error = progress_view_init(&i->view, &o->progress, err);
    if (!error)
        error = signals_setup(err);
    if (!error)
        error = open_source(i, &source, err);
    if (error)
        return error;
    apply_options(i);
    error = write_out(i, &source, err);
    progress_view_end(&i->view);
    return error ? error : print(i, err);
}

static int run(void *parsed, struct ferry_error *err)
{
    struct import i = {
        .cli = parsed, .bundle = BUNDLE_FILE_NONE, .disk = DISK_FILE_NONE, .notes = json_array()};

    i.progress.report = report;
    i.progress.opaque = &i;
    int error = import(&i, err);
    bundle_file_close(&i.bundle);
    disk_file_close(&i.disk);
    image_secret_wipe(&i.secret);
    json_decref(i.notes);
    return error;
}

static const struct option_spec options[] = {
    OPTION("from", "FORMAT", OPTION_STRING, struct import_cli, from,
           "the format of SRC; by its marks if not given"),
    OPTION("name", "NAME", OPTION_STRING, struct import_cli, name,
           "name of the machine (default: as SRC has it)"),
    OPTION("memory", "SIZE", OPTION_SIZE, struct import_cli, memory_bytes,
           "guest memory (default: as SRC has it, 512M for a disk)"),
    OPTION_RANGE("cpus", "N", struct import_cli, cpus, 1, LIMIT_VCPUS,
                 "virtual CPUs (default: as SRC has it, 1 for a disk)"),
    OPTION("size", "SIZE", OPTION_SIZE, struct import_cli, size_bytes,
           "of the disk in SRC, which a raw one in a pipe does not tell"),
    OPTION("allow-external", "FILE", OPTION_STRINGS, struct import_cli, external,
           "another file that a disk may draw on: its backing file, then\nthat one's; no name "
           "inside SRC is ever opened"),
    OPTION_RANGE("level", "N", struct import_cli, level, 1, 19,
                 "zstd level, 1 (fast) to 19 (small)"),
    OPTION("fast", NULL, OPTION_FLAG, struct import_cli, fast, "compress less, in less time"),
    OPTION("disk-chunk", "SIZE", OPTION_SIZE, struct import_cli, disk_chunk,
           "cut disks into chunks of SIZE, 4K to 4M (256K)"),
    DISK_URL_OPTIONS(struct import_cli, url),
    OPTION_ENCRYPT(struct import_cli, encrypt),
    IMAGE_FILE_OPTIONS(struct import_cli, image),
    OPTION("base", "FILE", OPTION_STRING, struct import_cli, base,
           "store only what is not in this image"),
    OPTION("json", NULL, OPTION_FLAG, struct import_cli, json, "print JSON"),
    PROGRESS_OPTIONS(struct import_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("SRC", struct import_cli, source,
            "an OVA, XVA, OCI layout, folder with a description, or a disk;\nor its http:// or "
            "https:// URL; '-' for stdin"),
    OPERAND("DEST", struct import_cli, dest, "the image to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_import = {
    .name = "import",
    .summary = "Take a machine of another hypervisor into an image",
    .details = "The image holds a machine that is switched off.  DEST appears under its name only\n"
               "when it is complete and every sum of SRC was right.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct import_cli),
    .run = run,
};

/* ferry pack: a machine that is switched off, from disks and options into an image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/disks.h"
#include "cli/image_file.h"
#include "cli/machine_options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"
#include "snapshot/pack.h"

#define FAST_LEVEL (-5)

struct pack_cli {
    const char *dest;
    const char *base;
    struct machine_options machine;
    uint64_t level;
    bool fast;
    uint64_t disk_chunk;
    bool json;
    bool encrypt;
    struct image_file_options image;
    struct progress_options progress;
};

static void show(void *opaque, const struct progress_report *report)
{
    progress_view_show(opaque, report);
}

static int check(const struct pack_cli *o, struct ferry_error *err)
{
    if (o->fast && o->level)
        return ferry_usage(err, "pack", "give one of --fast and --level");
    if (o->machine.initrd && !o->machine.kernel)
        return ferry_usage(err, "pack", "--initrd is of use with --kernel only");
    if (!o->machine.kernel && !o->machine.disks.count)
        return ferry_usage(err, "pack", "nothing to pack: give --disk or --kernel");
    if (o->disk_chunk && (o->disk_chunk < LIMIT_CHUNK_MIN_BYTES ||
                          o->disk_chunk > LIMIT_CHUNK_BYTES || o->disk_chunk & (o->disk_chunk - 1)))
        return ferry_usage(err, "--disk-chunk", "must be a power of two from 4K to 4M");
    if (strcmp(o->dest, "-"))
        return 0;
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, "pack", "an image is not for a terminal; give a file or a pipe");
    if (o->json)
        return ferry_usage(err, "pack", "--json and an image cannot both go to stdout");
    return 0;
}

/* "web.ferry" makes a machine "web", unless it is given a name. */
static void name_by_file(const char *dest, struct machine_config *config)
{
    const char *base = strrchr(dest, '/') ? strrchr(dest, '/') + 1 : dest;
    size_t length = strcspn(base, ".");

    if (length < sizeof(config->name))
        snprintf(config->name, sizeof(config->name), "%.*s", (int)length, base);
    if (!machine_name_valid(config->name))
        snprintf(config->name, sizeof(config->name), "machine");
}

static int write_image(const struct pack_cli *o, int fd, const struct image_secret *secret,
                       struct progress *progress, struct snapshot_result *result,
                       struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *base = NULL;
    struct snapshot_options options = {
        .level = o->fast ? FAST_LEVEL : (int)o->level,
        .disk_chunk_bytes = (uint32_t)o->disk_chunk,
        .secret = secret->kind ? secret : NULL,
    };
    const struct disk_opening opening = {.to_read = true};
    CLEANUP_FREE struct machine_config *config = calloc(1, sizeof(*config));
    CLEANUP(disks_close_cleanup) struct block *disks[LIMIT_DISKS] = {NULL};

    if (!config)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    machine_config_defaults(config);
    name_by_file(o->dest, config);
    int error = o->base ? image_file_open_chain(o->base, &o->image, &base, err) : 0;
    options.base = base;
    if (!error)
        error = machine_options_apply(&o->machine, config, err);
    if (!error)
        error = disks_from_options(&o->machine.disks, &opening, config, disks, err);
    if (error)
        return error;
    const struct pack_request request = {
        .config = config, .disks = disks, .kernel = o->machine.kernel, .initrd = o->machine.initrd};
    signals_cancel(progress);
    error = snapshot_pack(fd, &request, &options, progress, result, err);
    signals_cancel(NULL);
    return error;
}

static int to_file(const struct pack_cli *o, const struct image_secret *secret,
                   struct progress *progress, struct snapshot_result *result,
                   struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    int error = atomic_file_open(&file, o->dest, err);
    if (!error)
        error = write_image(o, file.fd, secret, progress, result, err);
    return error ? error : atomic_file_commit(&file, err);
}

static int print(const struct pack_cli *o, const struct snapshot_result *result,
                 struct ferry_error *err)
{
    char root[2 * SHA256_BYTES + 1], bytes[32], content[32], total[32];

    if (o->json)
        return output_json(json_pack("{s:I, s:I, s:o, s:s}", "bytes", (json_int_t)result->bytes,
                                     "content_bytes", (json_int_t)result->content_bytes, "total_ms",
                                     output_ms(result->total_ns), "root",
                                     hex_encode(result->root, SHA256_BYTES, root)),
                           err);
    output_text("%s: %s for %s of content, in %s", o->dest,
                format_size(result->bytes, bytes, sizeof(bytes)),
                format_size(result->content_bytes, content, sizeof(content)),
                format_duration(result->total_ns, total, sizeof(total)));
    return 0;
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct pack_cli *o = parsed;
    struct progress_view view;
    struct snapshot_result result;
    CLEANUP(image_secret_wipe) struct image_secret secret = {0};

    int error = check(o, err);
    if (!error)
        error = image_file_seal(&o->image, o->encrypt || image_file_has_secret(&o->image), o->dest,
                                &secret, err);
    if (!error)
        error = progress_view_init(&view, &o->progress, err);
    if (!error)
        error = signals_setup(err);
    if (error)
        return error;
    bool out = !strcmp(o->dest, "-");
    struct progress progress = {.report = show, .opaque = &view};
    error = out ? write_image(o, STDOUT_FILENO, &secret, &progress, &result, err)
                : to_file(o, &secret, &progress, &result, err);
    progress_view_end(&view);
    return error || out ? error : print(o, &result, err);
}

static const struct option_spec options[] = {
    OPTION("name", "NAME", OPTION_STRING, struct pack_cli, machine.name,
           "name of the machine (default: that of the file)"),
    MACHINE_OPTIONS(struct pack_cli, machine),
    OPTION_RANGE("level", "N", struct pack_cli, level, 1, 19, "zstd level, 1 (fast) to 19 (small)"),
    OPTION("fast", NULL, OPTION_FLAG, struct pack_cli, fast, "compress less, in less time"),
    OPTION("disk-chunk", "SIZE", OPTION_SIZE, struct pack_cli, disk_chunk,
           "cut disks into chunks of SIZE, 4K to 4M (256K)"),
    OPTION_ENCRYPT(struct pack_cli, encrypt),
    IMAGE_SECRET_OPTIONS(struct pack_cli, image),
    OPTION("base", "FILE", OPTION_STRING, struct pack_cli, base,
           "store only what is not in this image"),
    OPTION("json", NULL, OPTION_FLAG, struct pack_cli, json, "print JSON"),
    PROGRESS_OPTIONS(struct pack_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("DEST", struct pack_cli, dest, "the image to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_pack = {
    .name = "pack",
    .summary = "Make an image of a machine that is switched off",
    .details =
        "Kernel, initrd and disks are written to DEST, which appears under its name only when\n"
        "it is complete; 'ferry run DEST' starts it.  A disk in use by a machine is refused.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct pack_cli),
    .run = run,
};

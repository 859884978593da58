/* ferry snapshot: a machine into an image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "cli/pump.h"
#include "cli/secret_json.h"
#include "common/cleanup.h"
#include "common/limits.h"
#include "common/units.h"

#define FAST_LEVEL (-5) /* of zstd: twice as fast as 1 on what compresses badly */

struct snapshot_cli {
    const char *name;
    const char *file;
    const char *base;
    bool no_disks;
    bool disks_only;
    uint64_t store;
    bool stop;
    uint64_t level;
    bool fast;
    uint64_t ram_chunk, disk_chunk;
    bool json;
    bool encrypt;
    struct image_file_options image;
    struct progress_options progress;
};

/* The machine's process has another working folder. */
static int absolute_path(const char *file, char *out, size_t size, struct ferry_error *err)
{
    char folder[LIMIT_PATH_BYTES];
    int length;

    if (*file == '/')
        length = snprintf(out, size, "%s", file);
    else if (getcwd(folder, sizeof(folder)))
        length = snprintf(out, size, "%s/%s", folder, file);
    else
        return ferry_fail_sys(err, -errno, NULL, "cannot tell the working folder");
    if (length < 0 || (size_t)length >= size)
        return ferry_usage(err, "snapshot", "the file name is too long");
    return 0;
}

/* Can a write to stdout wait for ever?  Not if it is a file. */
static bool stdout_may_block(void)
{
    struct stat st;

    return fstat(STDOUT_FILENO, &st) || !S_ISREG(st.st_mode);
}

static int check(const struct snapshot_cli *o, struct ferry_error *err)
{
    if (o->fast && o->level)
        return ferry_usage(err, "snapshot", "give one of --fast and --level");
    if (o->disks_only && (o->no_disks || o->stop || o->ram_chunk))
        return ferry_usage(err, "snapshot",
                           "--disks-only goes with none of --no-disks, --stop and --ram-chunk");
    if (o->store && !o->disks_only)
        return ferry_usage(err, "snapshot", "--store goes with --disks-only");
    if (strcmp(o->file, "-"))
        return 0;
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, "snapshot",
                           "an image is not for a terminal; give a file or a pipe");
    if (o->json)
        return ferry_usage(err, "snapshot", "--json and an image cannot both go to stdout");
    return 0;
}

static int call(const struct snapshot_cli *o, const struct image_secret *secret,
                struct progress_view *view, json_t **result, struct ferry_error *err)
{
    CLEANUP(client_close) struct client client = CLIENT_NONE;
    CLEANUP(pump_cleanup) struct pump pump = PUMP_NONE;
    bool to_stdout = !strcmp(o->file, "-");
    char path[LIMIT_PATH_BYTES] = "", base[LIMIT_PATH_BYTES] = "";
    int fd = -1;

    int error = to_stdout ? 0 : absolute_path(o->file, path, sizeof(path), err);
    if (!error && o->base)
        error = absolute_path(o->base, base, sizeof(base), err);
    if (!error)
        error = client_connect(o->name, &client, err);
    if (!error && to_stdout && stdout_may_block())
        error = pump_start(&pump, err);
    if (error)
        return error;
    if (to_stdout)
        fd = pump.write_fd >= 0 ? pump.write_fd : STDOUT_FILENO;
    /* What is still in our pipe is not in the image yet: then the end is ours to order. */
    bool pumped = pump.write_fd >= 0;
    json_t *arguments = json_pack(
        "{s:b, s:b, s:b, s:I, s:I, s:I}", "no_disks", o->no_disks, "stop", o->stop && !pumped,
        "hold", o->stop && pumped, "level", o->fast ? FAST_LEVEL : (json_int_t)o->level,
        "ram_chunk_bytes", (json_int_t)o->ram_chunk, "disk_chunk_bytes", (json_int_t)o->disk_chunk);
    if (o->disks_only) {
        json_object_set_new(arguments, "disks_only", json_true());
        json_object_set_new(arguments, "store_bytes", json_integer((json_int_t)o->store));
    }
    if (secret->kind)
        json_object_set_new(arguments, "secret", secret_to_json(secret));
    if (*base)
        json_object_set_new(arguments, "base", json_string(base));
    if (!to_stdout)
        json_object_set_new(arguments, "file", json_string(path));
    error = client_call(&client, "snapshot", arguments, fd, view, -1, result, err);
    if (error || !pumped)
        return error;
    error = pump_finish(&pump, err);
    if (o->stop && error)
        (void)client_call(&client, "resume", NULL, -1, NULL, -1, NULL, NULL);
    else if (o->stop)
        error = client_call(&client, "quit", NULL, -1, NULL, -1, NULL, err);
    return error;
}

static double number(const json_t *result, const char *key)
{
    return json_number_value(json_object_get(result, key));
}

static void print(const struct snapshot_cli *o, const json_t *result)
{
    char bytes[32], content[32], pause[32], total[32];

    format_size((uint64_t)number(result, "bytes"), bytes, sizeof(bytes));
    format_size((uint64_t)number(result, "content_bytes"), content, sizeof(content));
    format_duration((uint64_t)(number(result, "pause_ms") * 1e6), pause, sizeof(pause));
    format_duration((uint64_t)(number(result, "total_ms") * 1e6), total, sizeof(total));
    output_text("%s: %s for %s of content, in %s; the guest was paused for %s", o->file, bytes,
                content, total, pause);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct snapshot_cli *o = parsed;
    struct progress_view view;
    json_t *result = NULL;
    CLEANUP(image_secret_wipe) struct image_secret secret = {0};

    int error = check(o, err);
    if (!error)
        error = image_file_seal(&o->image, o->encrypt || image_file_has_secret(&o->image), o->file,
                                &secret, err);
    if (!error)
        error = progress_view_init(&view, &o->progress, err);
    if (!error)
        error = call(o, &secret, &view, &result, err);
    if (error)
        return error;
    if (o->json)
        return output_json(result, err);
    if (strcmp(o->file, "-"))
        print(o, result);
    json_decref(result);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("no-disks", NULL, OPTION_FLAG, struct snapshot_cli, no_disks,
           "leave the disks' content out; a restore then needs the\nsame disk files"),
    OPTION("disks-only", NULL, OPTION_FLAG, struct snapshot_cli, disks_only,
           "the disks of one instant, as a machine that is switched\noff; the guest goes on "
           "meanwhile"),
    OPTION("store", "SIZE", OPTION_SIZE, struct snapshot_cli, store,
           "with --disks-only: keep up to SIZE of what the guest\noverwrites in memory, 64K to 16G "
           "(64M)"),
    OPTION("stop", NULL, OPTION_FLAG, struct snapshot_cli, stop,
           "end the machine when the image is complete"),
    OPTION_RANGE("level", "N", struct snapshot_cli, level, 1, 19,
                 "zstd level, 1 (fast) to 19 (small)"),
    OPTION("fast", NULL, OPTION_FLAG, struct snapshot_cli, fast, "compress less, in less time"),
    OPTION("ram-chunk", "SIZE", OPTION_SIZE, struct snapshot_cli, ram_chunk,
           "cut memory into chunks of SIZE, 4K to 4M (64K)"),
    OPTION("disk-chunk", "SIZE", OPTION_SIZE, struct snapshot_cli, disk_chunk,
           "cut disks into chunks of SIZE, 4K to 4M (256K): larger\nones make smaller images, "
           "smaller ones quicker access"),
    OPTION_ENCRYPT(struct snapshot_cli, encrypt),
    IMAGE_SECRET_OPTIONS(struct snapshot_cli, image),
    OPTION("base", "FILE", OPTION_STRING, struct snapshot_cli, base,
           "store only what is not in this image"),
    OPTION("json", NULL, OPTION_FLAG, struct snapshot_cli, json, "print JSON"),
    PROGRESS_OPTIONS(struct snapshot_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct snapshot_cli, name, "the machine"),
    OPERAND("FILE", struct snapshot_cli, file, "the image to write; '-' for stdout"),
    {.name = NULL},
};

const struct command command_snapshot = {
    .name = "snapshot",
    .summary = "Write a machine down: memory, CPUs, devices, disks",
    .details =
        "The guest is paused meanwhile and goes on afterwards; with --disks-only it goes on at\n"
        "once.  FILE appears under its name only when it is complete.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct snapshot_cli),
    .run = run,
};

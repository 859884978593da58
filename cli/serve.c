/* ferry serve: the disks of an image over NBD, by nbdkit and ferry's plugin for it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "imagefmt/chain.h"

#define PLUGIN        "nbdkit-ferry-plugin.so"
#define ARGUMENTS_MAX 64
#define DEFAULT_PORT  10809 /* IANA's for NBD */

struct serve_options {
    const char *image;
    const char *socket;
    uint64_t port;
    const char *address;
    const char *run;
    bool no_check;
    struct image_file_options file;
};

/* An argument vector; its items are its own. */
struct arguments {
    char *items[ARGUMENTS_MAX + 1];
    size_t count;
};

static void arguments_free(struct arguments *a)
{
    for (size_t i = 0; i < a->count; i++)
        free(a->items[i]);
}

/* key=value, or the value alone; NULL: nothing. */
static void add_parameter(struct arguments *a, const char *key, const char *value)
{
    char *text = NULL;

    if (value && a->count < ARGUMENTS_MAX &&
        asprintf(&text, "%s%s%s", key ? key : "", key ? "=" : "", value) >= 0)
        a->items[a->count++] = text;
}

static void add(struct arguments *a, const char *item)
{
    add_parameter(a, NULL, item);
}

/* Beside this program, or where `make install` puts it. */
static int find_plugin(char *path, size_t size, struct ferry_error *err)
{
    static const char *const places[] = {"/" PLUGIN, "/../lib/ferry/" PLUGIN};
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (length < 0)
        return ferry_fail_sys(err, -errno, "serve", "cannot tell where ferry lies");
    self[length] = 0;
    *strrchr(self, '/') = 0;
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        int needed = snprintf(path, size, "%s%s", self, places[i]);
        if (needed > 0 && (size_t)needed < size && !access(path, R_OK))
            return 0;
    }
    return ferry_fail(err, -ENOENT, PLUGIN,
                      "is not there: ferry was built without nbdkit-plugin-dev");
}

static int check(const struct serve_options *o, struct ferry_error *err)
{
    if (!strcmp(o->image, "-"))
        return ferry_usage(err, "serve", "an image from a pipe cannot be served");
    if (o->socket && (o->port || o->address))
        return ferry_usage(err, "serve", "give --socket, or --port and --address");
    return 0;
}

/*
 * What is refused is refused here, with the status that says so, and not by nbdkit.  A sealed image
 * whose passphrase must be asked for is left to the plugin, so that it is asked for once.
 */
static int check_image(const struct serve_options *o, bool *checked, struct ferry_error *err)
{
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct image *base;

    int error = image_file_environment_open(&o->file, &environment, err);
    environment.env.ask = NULL;
    if (!error)
        error = image_open_path(o->image, &environment.env, &image, err);
    if (error)
        return error == -ENOKEY ? 0 : error;
    error = image_base(image, &base, err);
    for (uint32_t i = 0; !error && !o->no_check && i < image_sections(image); i++)
        if (image_section(image, i)->kind != IMAGE_STATE)
            error = image_check_pages(image, i, err);
    *checked = true;
    return error;
}

static void say_where(const struct serve_options *o)
{
    if (o->run)
        return;
    if (o->socket)
        output_text("nbd+unix:///?socket=%s", o->socket);
    else
        output_text("nbd://%s:%u", o->address ? o->address : "127.0.0.1",
                    o->port ? (unsigned)o->port : DEFAULT_PORT);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct serve_options *o = parsed;
    CLEANUP(arguments_free) struct arguments a = {0};
    char plugin[PATH_MAX], port[16];
    bool checked = false;

    int error = check(o, err);
    if (!error)
        error = check_image(o, &checked, err);
    if (!error)
        error = find_plugin(plugin, sizeof(plugin), err);
    if (error)
        return error;
    snprintf(port, sizeof(port), "%u", o->port ? (unsigned)o->port : DEFAULT_PORT);
    add(&a, "nbdkit");
    add(&a, "--foreground");
    add(&a, "--readonly");
    add(&a, o->socket ? "--unix" : "--port");
    add(&a, o->socket ? o->socket : port);
    if (!o->socket) {
        add(&a, "--ip-addr");
        add(&a, o->address ? o->address : "127.0.0.1");
    }
    if (o->run) {
        add(&a, "--run");
        add(&a, o->run);
    }
    add(&a, plugin);
    add_parameter(&a, "file", o->image);
    for (size_t i = 0; i < o->file.search.count; i++)
        add_parameter(&a, "search-path", o->file.search.items[i]);
    add_parameter(&a, "passphrase-file", o->file.passphrase_file);
    add_parameter(&a, "key-file", o->file.key_file);
    add_parameter(&a, "check", o->no_check || checked ? "no" : NULL);
    say_where(o);
    error = output_flush(err);
    if (error)
        return error;
    execvp("nbdkit", a.items);
    return ferry_fail_sys(err, -errno, "nbdkit", "cannot be started; install Debian's nbdkit");
}

static const struct option_spec options[] = {
    OPTION("socket", "PATH", OPTION_STRING, struct serve_options, socket,
           "listen on a Unix socket, instead of TCP"),
    OPTION_RANGE("port", "N", struct serve_options, port, 1, 65535, "TCP port (default: 10809)"),
    OPTION(
        "address", "ADDRESS", OPTION_STRING, struct serve_options, address,
        "IP address to listen on (default: 127.0.0.1); NBD neither\nencrypts nor asks who calls"),
    OPTION("run", "COMMAND", OPTION_STRING, struct serve_options, run,
           "serve while COMMAND runs, which has the address in $uri"),
    OPTION("no-check", NULL, OPTION_FLAG, struct serve_options, no_check,
           "do not check the index against the root first"),
    IMAGE_FILE_OPTIONS(struct serve_options, file),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("IMAGE", struct serve_options, image, "the image"),
    {.name = NULL},
};

const struct command command_serve = {
    .name = "serve",
    .summary = "Serve the disks of an image over NBD, read-only",
    .details =
        "Each disk, 'ram', and each file is an export by its name; the default is the first\n"
        "disk.  nbdkit does the serving, in the foreground, until a signal ends it.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct serve_options),
    .run = run,
};

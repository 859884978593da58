/* flatten and rebase: from one image to another with the same root. */
#include "cli/rewrite.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/signals.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/units.h"
#include "imagefmt/rewrite.h"

#define REPORT_BYTES (8 * MIB)

struct rewriting {
    struct progress progress;
    struct progress_view view;
    uint64_t reported;
    uint8_t root[SHA256_BYTES];
    uint64_t bytes;
};

static int report(void *opaque, uint64_t done, uint64_t total, struct ferry_error *err)
{
    struct rewriting *r = opaque;
    const struct progress_report what = {
        .phase = "image", .done_bytes = done, .total_bytes = total};

    if (atomic_load(&r->progress.cancelled))
        return ferry_fail(err, -ECANCELED, NULL, "cancelled");
    if (done - r->reported >= REPORT_BYTES) {
        r->reported = done;
        progress_view_show(&r->view, &what);
    }
    return 0;
}

static int rewrite_to(const struct rewrite_cli *o, struct rewriting *r, struct image *from,
                      struct image *base, int fd, struct ferry_error *err)
{
    CLEANUP(image_secret_wipe) struct image_secret secret = {0};

    int error = image_file_seal(&o->image, o->encrypt, o->dest, &secret, err);
    if (error)
        return error;
    const struct rewrite_options options = {
        .writer = {.level = (int)o->level, .base = base, .secret = secret.kind ? &secret : NULL},
        .report = report,
        .opaque = r,
    };
    signals_cancel(&r->progress);
    error = image_rewrite(from, fd, &options, r->root, &r->bytes, err);
    signals_cancel(NULL);
    progress_view_end(&r->view);
    return error;
}

/* DEST may be the source: the old file is what is read until the new one has its name. */
static int rewrite_file(const struct rewrite_cli *o, struct rewriting *r, struct image *from,
                        struct image *base, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;

    if (!strcmp(o->dest, "-"))
        return rewrite_to(o, r, from, base, STDOUT_FILENO, err);
    int error = atomic_file_open(&file, o->dest, err);
    if (!error)
        error = rewrite_to(o, r, from, base, file.fd, err);
    return error ? error : atomic_file_commit(&file, err);
}

static int check(const char *command, const struct rewrite_cli *o, struct ferry_error *err)
{
    if (!strcmp(o->source, "-"))
        return ferry_usage(err, command, "the image cannot come from a pipe");
    if (strcmp(o->dest, "-"))
        return 0;
    if (isatty(STDOUT_FILENO))
        return ferry_usage(err, command, "an image is not for a terminal; give a file or a pipe");
    return o->json ? ferry_usage(err, command, "--json and an image cannot both go to stdout") : 0;
}

/* Whoever unsealed it on the way should have said so. */
static int check_sealing(const struct rewrite_cli *o, const struct image *from,
                         struct ferry_error *err)
{
    if (image_summary(from)->sealed && !o->encrypt)
        return ferry_usage(err, o->source,
                           "is sealed, and the new image would not be: say --encrypt, or take it "
                           "apart with ferry extract");
    return 0;
}

static int print(const struct rewrite_cli *o, const struct rewriting *r, struct ferry_error *err)
{
    char root[2 * SHA256_BYTES + 1], bytes[32];

    hex_encode(r->root, SHA256_BYTES, root);
    if (o->json)
        return output_json(json_pack("{s:I, s:s}", "bytes", (json_int_t)r->bytes, "root", root),
                           err);
    output_text("%s: %s, root %s", o->dest, format_size(r->bytes, bytes, sizeof(bytes)), root);
    return 0;
}

int rewrite_run(const char *command, const struct rewrite_cli *o, struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *from = NULL;
    CLEANUP(image_cleanup) struct image *base = NULL;
    struct rewriting r = {0};

    int error = check(command, o, err);
    if (!error)
        error = progress_view_init(&r.view, &o->progress, err);
    if (!error)
        error = signals_setup(err);
    if (!error)
        error = image_file_open_chain(o->source, &o->image, &from, err);
    if (!error)
        error = check_sealing(o, from, err);
    if (!error && o->base)
        error = image_file_open_chain(o->base, &o->image, &base, err);
    if (!error)
        error = rewrite_file(o, &r, from, base, err);
    return error || !strcmp(o->dest, "-") ? error : print(o, &r, err);
}

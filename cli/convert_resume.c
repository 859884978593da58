/*
 * The identity of a source: of a file its inode, size and time of change, of a URL what the server
 * says of its version.  Keys of the journal's object are as messages show them.
 */
#include "cli/convert_resume.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/output.h"
#include "common/cleanup.h"
#include "common/hash.h"
#include "common/units.h"
#include "imagefmt/foreign/http.h"
#include "imagefmt/foreign/source_http.h"

static void cleanup_json(json_t **value)
{
    json_decref(*value);
}

static int add(json_t *what, const char *role, const char *key, json_t *value)
{
    char name[64];

    snprintf(name, sizeof(name), "%s%s", role, key);
    return json_object_set_new(what, name, value);
}

static int add_url(json_t *what, const char *role, const struct disk_file *file,
                   struct ferry_error *err)
{
    const char *version = source_http_validator(file->source);

    if (!*version)
        return ferry_usage(err, "--resume",
                           "the server gives neither ETag nor Last-Modified, so nothing would tell "
                           "whether the disk has changed");
    return add(what, role, "", json_string(file->source->about)) ||
                   add(what, role, "'s version", json_string(version)) ||
                   add(what, role, "'s size", json_integer((json_int_t)file->source->size_bytes))
               ? ferry_fail(err, -ENOMEM, NULL, "out of memory")
               : 0;
}

static int add_file(json_t *what, const char *role, const char *path, const struct disk_file *file,
                    struct ferry_error *err)
{
    struct stat st;

    if (!strcmp(path, "-"))
        return ferry_usage(err, "--resume", "needs SRC by name; what comes from stdin is gone");
    if (file->fd >= 0 ? fstat(file->fd, &st) : stat(path, &st))
        return ferry_fail_sys(err, -errno, path, "cannot tell its identity");
    if (!S_ISREG(st.st_mode))
        return ferry_usage(err, "--resume",
                           "%.80s is no plain file, so nothing would tell whether it has changed",
                           path);
    json_int_t ns = (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    return add(what, role, "", json_string(path)) ||
                   add(what, role, "'s inode", json_integer((json_int_t)st.st_ino)) ||
                   add(what, role, "'s size", json_integer((json_int_t)st.st_size)) ||
                   add(what, role, "'s time of change", json_integer(ns))
               ? ferry_fail(err, -ENOMEM, NULL, "out of memory")
               : 0;
}

static int add_source(json_t *what, const char *role, const char *name,
                      const struct disk_file *file, struct ferry_error *err)
{
    return http_is_url(name) ? add_url(what, role, file, err)
                             : add_file(what, role, name, file, err);
}

/* The files below, from the upper to the lower. */
static int add_externals(json_t *what, const struct convert_resume *c, struct ferry_error *err)
{
    const struct disk_file *file = c->file->external;
    char role[40];
    int error = 0;

    for (size_t i = 0; !error && file && i < c->external->count; i++, file = file->external) {
        snprintf(role, sizeof(role), "--allow-external %zu", i + 1);
        error = add_source(what, role, c->external->items[i], file, err);
    }
    return error;
}

static json_t *options_of(const struct convert_resume *c)
{
    const struct disk_write_options *w = c->write;
    char identity[2 * sizeof(w->identity) + 1];

    return json_pack("{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:i, s:I, s:I, s:s, s:s}", "ferry",
                     FERRY_VERSION, "--from", c->file->disk->format->name, "--to", c->to->name,
                     "--subformat", w->subformat, "--codec", w->codec, "--disk", c->disk_name,
                     "--level", w->level, "--cluster", (json_int_t)w->unit_bytes, "the disk's size",
                     (json_int_t)w->size_bytes, "--verify", c->verify ? "given" : "not given",
                     "DEST's identity", hex_encode(w->identity, sizeof(w->identity), identity));
}

int convert_resume_open(const struct convert_resume *c, struct resume **out,
                        struct ferry_error *err)
{
    CLEANUP(cleanup_json) json_t *what = options_of(c);
    char text[32];
    uint64_t done;

    if (!what)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = add_source(what, "SRC", c->source, c->file, err);
    if (!error)
        error = add_externals(what, c, err);
    if (!error)
        error = resume_open(c->dest, what, out, err);
    if (!error && resume_goes_on(*out, &done))
        output_note("%s: going on from %s", c->dest, format_size(done, text, sizeof(text)));
    return error;
}

int convert_resume_explain(const struct resume *r, const char *dest, struct ferry_error *err)
{
    if (err->kind != FERRY_FAILED || !resume_is_kept(r))
        return err->code;
    return ferry_wrap(err, dest,
                      "was not finished; the same command with --resume goes on with it");
}

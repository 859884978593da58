/*
 * An nbdkit plugin: the disks, memory and files of an image over NBD, read-only.
 *
 * Each is an export by its name; the default is the first disk.  A connection has a handle of its
 * own, so connections are served in parallel, and requests of one in order.  Only the reading half
 * of imagefmt/ is linked in.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "imagefmt/chain.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS
#define SEARCH_MAX   32

static struct {
    char *file;
    char *folders[SEARCH_MAX];
    const char *search[SEARCH_MAX]; /* the folders, as image_environment has them */
    size_t search_count;
    struct image_secret secret;
    bool no_check;
} config;

struct connection {
    struct image *image;
    uint32_t section;
};

static int complain(const struct ferry_error *err)
{
    char text[768];

    nbdkit_error("%s", ferry_error_text(err, text, sizeof(text)));
    return -1;
}

/* ---- Configuration ---- */

static int set_secret(int error, const struct ferry_error *err)
{
    return error ? complain(err) : 0;
}

static int ferry_config(const char *key, const char *value)
{
    struct ferry_error err;

    if (!strcmp(key, "file"))
        return (config.file = nbdkit_realpath(value)) ? 0 : -1;
    if (!strcmp(key, "passphrase-file"))
        return set_secret(image_secret_passphrase_file(&config.secret, value, &err), &err);
    if (!strcmp(key, "key-file"))
        return set_secret(image_secret_key_file(&config.secret, value, &err), &err);
    if (!strcmp(key, "check")) {
        int check = nbdkit_parse_bool(value);
        config.no_check = !check;
        return check < 0 ? -1 : 0;
    }
    if (strcmp(key, "search-path")) {
        nbdkit_error("unknown parameter '%s'", key);
        return -1;
    }
    if (config.search_count == SEARCH_MAX) {
        nbdkit_error("too many folders to search");
        return -1;
    }
    char *folder = nbdkit_realpath(value);
    config.search[config.search_count] = config.folders[config.search_count] = folder;
    config.search_count++;
    return folder ? 0 : -1;
}

static int ferry_config_complete(void)
{
    if (config.file)
        return 0;
    nbdkit_error("file=IMAGE is missing");
    return -1;
}

static int open_image(struct image **image)
{
    const struct image_environment env = {
        .search = config.search,
        .search_count = config.search_count,
        .secret = config.secret.kind ? &config.secret : NULL,
    };
    struct ferry_error err;

    return image_open_path(config.file, &env, image, &err) ? complain(&err) : 0;
}

static bool can_serve(const struct image_section *section)
{
    return section->kind != IMAGE_STATE;
}

/* The pages are those of the root: once, before anybody is served. */
static int ferry_get_ready(void)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    struct ferry_error err;

    if (open_image(&image))
        return -1;
    for (uint32_t i = 0; !config.no_check && i < image_sections(image); i++)
        if (can_serve(image_section(image, i)) && image_check_pages(image, i, &err))
            return complain(&err);
    return 0;
}

static void ferry_unload(void)
{
    free(config.file);
    for (size_t i = 0; i < config.search_count; i++)
        free(config.folders[i]);
    image_secret_wipe(&config.secret);
}

/* ---- Exports ---- */

/* The first disk; without one the first that can be served; -1: none. */
static int64_t default_section(const struct image *image)
{
    int64_t other = -1;

    for (uint32_t i = 0; i < image_sections(image); i++) {
        const struct image_section *section = image_section(image, i);
        if (section->kind == IMAGE_DISK)
            return i;
        if (other < 0 && can_serve(section))
            other = i;
    }
    return other;
}

static int64_t find_export(const struct image *image, const char *name)
{
    if (!*name)
        return default_section(image);
    for (uint32_t i = 0; i < image_sections(image); i++)
        if (can_serve(image_section(image, i)) && !strcmp(image_section(image, i)->name, name))
            return i;
    return -1;
}

static int ferry_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    CLEANUP(image_cleanup) struct image *image = NULL;

    (void)readonly;
    (void)is_tls;
    if (open_image(&image))
        return -1;
    for (uint32_t i = 0; i < image_sections(image); i++) {
        const struct image_section *section = image_section(image, i);
        if (can_serve(section) &&
            nbdkit_add_export(exports, section->name, image_kind_name(section->kind)))
            return -1;
    }
    return 0;
}

static const char *ferry_default_export(int readonly, int is_tls)
{
    CLEANUP(image_cleanup) struct image *image = NULL;

    (void)readonly;
    (void)is_tls;
    if (open_image(&image))
        return NULL;
    int64_t found = default_section(image);
    return found < 0 ? NULL : nbdkit_strdup_intern(image_section(image, (uint32_t)found)->name);
}

/* ---- Connections ---- */

static void ferry_close(void *handle)
{
    struct connection *c = handle;

    image_close(c->image);
    free(c);
}

static void *ferry_open(int readonly)
{
    struct connection *c = calloc(1, sizeof(*c));
    const char *name = nbdkit_export_name();

    (void)readonly;
    if (!c || open_image(&c->image)) {
        free(c);
        return NULL;
    }
    int64_t found = find_export(c->image, name ? name : "");
    if (found < 0) {
        nbdkit_error("%s: holds no '%s'", config.file, name ? name : "");
        ferry_close(c);
        return NULL;
    }
    c->section = (uint32_t)found;
    return c;
}

static int64_t ferry_get_size(void *handle)
{
    const struct connection *c = handle;

    return (int64_t)image_section(c->image, c->section)->size;
}

static int ferry_can_multi_conn(void *handle)
{
    (void)handle;
    return 1; /* nobody writes */
}

static int ferry_can_extents(void *handle)
{
    (void)handle;
    return 1;
}

static int ferry_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct connection *c = handle;
    struct ferry_error err;

    (void)flags;
    if (!image_pread(c->image, c->section, offset, data, count, &err))
        return 0;
    nbdkit_set_error(EIO);
    return complain(&err);
}

static int ferry_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                         struct nbdkit_extents *extents)
{
    struct connection *c = handle;
    const struct image_section *section = image_section(c->image, c->section);
    uint64_t end = offset + count, at = offset;
    struct ferry_error err;

    while (at < end) {
        struct image_chunk chunk;
        int found = image_next_chunk(c->image, c->section, at / section->chunk_bytes, &chunk, &err);
        if (found < 0) {
            nbdkit_set_error(EIO);
            return complain(&err);
        }
        uint64_t start = found ? chunk.index * section->chunk_bytes : section->size;
        if (start > at &&
            nbdkit_add_extent(extents, at, start - at, NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO))
            return -1;
        at = start > at ? start : at;
        if (!found)
            break;
        uint64_t next = start + section->chunk_bytes;
        next = next < section->size ? next : section->size;
        if (at < next && nbdkit_add_extent(extents, at, next - at, 0))
            return -1;
        at = next;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "ferry",
    .longname = "ferry image",
    .description = "Disks of a ferry image, read-only",
    .unload = ferry_unload,
    .config = ferry_config,
    .config_complete = ferry_config_complete,
    .config_help = "file=IMAGE            the image\n"
                   "search-path=DIR       where the images that it builds on may lie\n"
                   "passphrase-file=FILE  the secret of a sealed image\n"
                   "key-file=FILE         the same, the bytes of a file\n"
                   "check=no              do not check the index against the root first",
    .magic_config_key = "file",
    .get_ready = ferry_get_ready,
    .list_exports = ferry_list_exports,
    .default_export = ferry_default_export,
    .open = ferry_open,
    .close = ferry_close,
    .get_size = ferry_get_size,
    .can_multi_conn = ferry_can_multi_conn,
    .can_extents = ferry_can_extents,
    .pread = ferry_pread,
    .extents = ferry_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)

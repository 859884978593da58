/* Reading of --disk. */
#include "cli/disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "snapshot/image_disk.h"

void disks_close(struct block *blocks[LIMIT_DISKS])
{
    for (size_t i = 0; i < LIMIT_DISKS; i++) {
        if (blocks[i])
            blocks[i]->ops->close(blocks[i]);
        blocks[i] = NULL;
    }
}

/* One --disk as it was given. */
struct disk_option {
    char path[LIMIT_PATH_BYTES];
    char section[LIMIT_NAME_BYTES + 1]; /* empty: not given */
    bool is_image;
};

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), tail = strlen(end);

    return size > tail && !strcmp(text + size - tail, end);
}

static int parse_format(const char *format, struct disk_option *option, struct ferry_error *err)
{
    option->is_image = !strcmp(format, "ferry");
    if (option->is_image || !strcmp(format, "raw"))
        return 0;
    return ferry_usage(err, "--disk", "format '%.40s' is not raw or ferry; see ferry convert",
                       format);
}

static int parse_suffix(const char *part, struct disk_config *disk, struct disk_option *option,
                        struct ferry_error *err)
{
    if (!strcmp(part, "readonly")) {
        disk->readonly = true;
        return 0;
    }
    if (!strncmp(part, "format=", 7))
        return parse_format(part + 7, option, err);
    if (!strncmp(part, "section=", 8) && strlen(part + 8) <= LIMIT_NAME_BYTES) {
        snprintf(option->section, sizeof(option->section), "%s", part + 8);
        return 0;
    }
    if (strncmp(part, "serial=", 7))
        return ferry_usage(err, "--disk",
                           "'%.60s' is not readonly, serial=S, format=F or section=S (a comma in a "
                           "file name is written ',,')",
                           part);
    if (strlen(part + 7) > LIMIT_DISK_SERIAL_BYTES)
        return ferry_usage(err, "--disk", "the serial '%.40s' has more than %d characters",
                           part + 7, LIMIT_DISK_SERIAL_BYTES);
    snprintf(disk->serial, sizeof(disk->serial), "%s", part + 7);
    return 0;
}

static int parse_option(const char *text, struct disk_config *disk, struct disk_option *option,
                        struct ferry_error *err)
{
    char part[LIMIT_PATH_BYTES];
    int more;

    if (options_next_part(&text, option->path, sizeof(option->path)) < 0)
        return ferry_usage(err, "--disk", "the file name is too long");
    option->is_image = ends_with(option->path, ".ferry");
    while ((more = options_next_part(&text, part, sizeof(part))) > 0) {
        int error = parse_suffix(part, disk, option, err);
        if (error)
            return error;
    }
    if (more < 0 || !*option->path)
        return ferry_usage(err, "--disk", "a file name is missing or too long");
    if (*option->section && !option->is_image)
        return ferry_usage(err, "--disk", "section= is for images");
    return 0;
}

int disk_open_image(const char *image, const char *section, bool readonly,
                    const struct disk_opening *opening, struct block **block,
                    struct ferry_error *err)
{
    char overlay[LIMIT_PATH_BYTES];
    CLEANUP_FREE char *full = realpath(image, NULL);
    int length;

    if (!full)
        return ferry_fail_sys(err, -errno, image, "cannot open the image");
    const char *name = strrchr(full, '/') + 1, *dir = opening->overlay_dir;
    if (opening->temporary) /* a folder */
        length = dir ? snprintf(overlay, sizeof(overlay), "%s", dir)
                     : snprintf(overlay, sizeof(overlay), "%.*s", (int)(name - full), full);
    else if (dir)
        length = snprintf(overlay, sizeof(overlay), "%s/%s.%s.overlay", dir, name, section);
    else
        length = snprintf(overlay, sizeof(overlay), "%s.%s.overlay", full, section);
    if (length < 0 || (size_t)length >= sizeof(overlay))
        return ferry_usage(err, "--disk", "the file name is too long");
    const struct image_disk_options options = {
        .image = full,
        .section = section,
        .overlay = overlay,
        .readonly = readonly || opening->to_read,
        .temporary = opening->temporary,
        .env = opening->env,
    };
    return image_disk_open(&options, block, err);
}

static int open_disk(const char *text, unsigned index, const struct disk_opening *opening,
                     struct disk_config *disk, struct block **block, struct ferry_error *err)
{
    struct disk_option option = {0};

    snprintf(disk->device, sizeof(disk->device), "vd%c", 'a' + (int)index);
    int error = parse_option(text, disk, &option, err);
    if (error)
        return error;
    CLEANUP_FREE char *full = realpath(option.path, NULL);
    if (!full)
        return ferry_fail_sys(err, -errno, option.path, "cannot open the disk");
    error = option.is_image
                ? disk_open_image(full, *option.section ? option.section : "vda", disk->readonly,
                                  opening, block, err)
                : raw_file_open(full, disk->readonly || opening->to_read, 0, false, block, err);
    if (error)
        return error;
    const char *name = strrchr(full, '/') + 1;
    disk->size_bytes = (*block)->size_bytes;
    if (strlen(name) >= sizeof(disk->file_name))
        return ferry_usage(err, "--disk", "the file name is too long");
    snprintf(disk->file_name, sizeof(disk->file_name), "%s", name);
    return opening->to_read ? (*block)->ops->activate(*block, err) : 0;
}

int disks_from_options(const struct option_strings *options, const struct disk_opening *opening,
                       struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                       struct ferry_error *err)
{
    uint32_t have = config->disk_count;
    int error = 0;

    if (options->count > LIMIT_DISKS - have)
        error = ferry_usage(err, "--disk", "a machine has %d disks at most", LIMIT_DISKS);
    for (unsigned i = 0; !error && i < options->count; i++)
        error = open_disk(options->items[i], have + i, opening, &config->disks[have + i],
                          &blocks[have + i], err);
    if (error)
        disks_close(blocks);
    else
        config->disk_count = have + (uint32_t)options->count;
    return error;
}

int disk_places_parse(const struct option_strings *options, struct disk_places *out,
                      struct ferry_error *err)
{
    out->count = 0;
    for (size_t i = 0; i < options->count; i++) {
        const char *text = options->items[i];
        size_t length = strcspn(text, "=");
        struct disk_place *place = &out->items[out->count];
        if (!text[length] || !text[length + 1] || !length || length >= sizeof(place->device))
            return ferry_usage(err, "--disk", "'%.80s' is not DEV=FILE, for example vda=root.raw",
                               text);
        snprintf(place->device, sizeof(place->device), "%.*s", (int)length, text);
        if (disk_places_find(out, place->device))
            return ferry_usage(err, "--disk", "%s is given twice", place->device);
        if (out->count == LIMIT_DISKS || strlen(text + length + 1) >= sizeof(place->path))
            return ferry_usage(err, "--disk", "too many disks, or a file name too long");
        snprintf(place->path, sizeof(place->path), "%s", text + length + 1);
        out->count++;
    }
    return 0;
}

const char *disk_places_find(const struct disk_places *places, const char *device)
{
    for (size_t i = 0; i < places->count; i++)
        if (!strcmp(places->items[i].device, device))
            return places->items[i].path;
    return NULL;
}

int disk_places_check(const struct disk_places *places, const struct machine_config *config,
                      struct ferry_error *err)
{
    for (size_t i = 0; i < places->count; i++) {
        bool known = false;
        for (uint32_t d = 0; d < config->disk_count; d++)
            known = known || !strcmp(places->items[i].device, config->disks[d].device);
        if (!known)
            return ferry_usage(err, "--disk", "the machine has no disk %s",
                               places->items[i].device);
    }
    return 0;
}

bool disk_file_name_valid(const char *file_name)
{
    return *file_name && !strchr(file_name, '/') && strcmp(file_name, ".") &&
           strcmp(file_name, "..");
}

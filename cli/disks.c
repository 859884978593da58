/* Reading of --disk. */
#include "cli/disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"

void disks_close(struct block *blocks[LIMIT_DISKS])
{
    for (size_t i = 0; i < LIMIT_DISKS; i++) {
        if (blocks[i])
            blocks[i]->ops->close(blocks[i]);
        blocks[i] = NULL;
    }
}

static int parse_suffix(const char *part, struct disk_config *disk, struct ferry_error *err)
{
    if (!strcmp(part, "readonly")) {
        disk->readonly = true;
        return 0;
    }
    if (strncmp(part, "serial=", 7))
        return ferry_usage(err, "--disk",
                           "'%.60s' is not readonly or serial=S (a comma in a file name is "
                           "written ',,')",
                           part);
    if (strlen(part + 7) > LIMIT_DISK_SERIAL_BYTES)
        return ferry_usage(err, "--disk", "the serial '%.40s' has more than %d characters",
                           part + 7, LIMIT_DISK_SERIAL_BYTES);
    snprintf(disk->serial, sizeof(disk->serial), "%s", part + 7);
    return 0;
}

int disk_option_parse(const char *option, unsigned index, struct disk_config *disk,
                      char path[LIMIT_PATH_BYTES], struct ferry_error *err)
{
    char part[LIMIT_PATH_BYTES];
    int more;

    snprintf(disk->device, sizeof(disk->device), "vd%c", 'a' + (int)index);
    if (options_next_part(&option, path, LIMIT_PATH_BYTES) < 0)
        return ferry_usage(err, "--disk", "the file name is too long");
    while ((more = options_next_part(&option, part, sizeof(part))) > 0) {
        int error = parse_suffix(part, disk, err);
        if (error)
            return error;
    }
    if (more < 0 || !*path)
        return ferry_usage(err, "--disk", "a file name is missing or too long");
    return 0;
}

static int open_disk(const char *option, unsigned index, bool to_read, struct disk_config *disk,
                     struct block **block, struct ferry_error *err)
{
    char path[LIMIT_PATH_BYTES];

    int error = disk_option_parse(option, index, disk, path, err);
    if (error)
        return error;
    CLEANUP_FREE char *full = realpath(path, NULL);
    if (!full)
        return ferry_fail_sys(err, -errno, path, "cannot open the disk");
    error = raw_file_open(full, disk->readonly || to_read, 0, false, block, err);
    if (error)
        return error;
    const char *name = strrchr(full, '/') + 1;
    disk->size_bytes = (*block)->size_bytes;
    if (strlen(name) >= sizeof(disk->file_name))
        return ferry_usage(err, "--disk", "the file name is too long");
    snprintf(disk->file_name, sizeof(disk->file_name), "%s", name);
    return to_read ? (*block)->ops->activate(*block, err) : 0;
}

static int open_all(const struct option_strings *options, bool to_read,
                    struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                    struct ferry_error *err)
{
    int error = 0;

    if (options->count > LIMIT_DISKS)
        return ferry_usage(err, "--disk", "a machine has %d disks at most", LIMIT_DISKS);
    for (unsigned i = 0; i < options->count && !error; i++)
        error = open_disk(options->items[i], i, to_read, &config->disks[i], &blocks[i], err);
    if (error)
        disks_close(blocks);
    config->disk_count = (uint32_t)options->count;
    return error;
}

int disks_from_options(const struct option_strings *options, struct machine_config *config,
                       struct block *blocks[LIMIT_DISKS], struct ferry_error *err)
{
    return open_all(options, false, config, blocks, err);
}

int disks_to_read(const struct option_strings *options, struct machine_config *config,
                  struct block *blocks[LIMIT_DISKS], struct ferry_error *err)
{
    return open_all(options, true, config, blocks, err);
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

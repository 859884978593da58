/* --disk, in its two forms: FILE[,readonly][,serial=S] of a new machine, DEV=FILE of a known one.
 */
#ifndef FERRY_CLI_DISKS_H
#define FERRY_CLI_DISKS_H

#include "cli/options.h"
#include "imagefmt/chain.h"
#include "vmm/block.h"
#include "vmm/config.h"

/* How the disks of a new machine are opened. */
struct disk_opening {
    bool to_read; /* read only, whatever the guest may do; and active at once */
    const struct image_environment *env; /* of images */
    const char *overlay_dir;             /* for their overlays; NULL: beside the image */
    bool temporary;                      /* overlays vanish with the machine */
};

/*
 * The disks of a new machine, FILE[,readonly][,serial=S][,format=raw|ferry][,section=S] each,
 * behind those that config has: fills config->disks and opens (does not lock) each file into
 * blocks.  A FILE is an image if its name ends with ".ferry", never by what is in it: a guest
 * writes that.  On an error no block is left open.
 */
int disks_from_options(const struct option_strings *options, const struct disk_opening *opening,
                       struct machine_config *config, struct block *blocks[LIMIT_DISKS],
                       struct ferry_error *err);
/* A disk on a section of an image; NULL: its only disk. */
int disk_open_image(const char *image, const char *section, bool readonly,
                    const struct disk_opening *opening, struct block **block,
                    struct ferry_error *err);
void disks_close(struct block *blocks[LIMIT_DISKS]);
static inline void disks_close_cleanup(struct block *(*blocks)[LIMIT_DISKS])
{
    disks_close(*blocks);
}

struct disk_place {
    char device[8];
    char path[LIMIT_PATH_BYTES];
};

struct disk_places {
    struct disk_place items[LIMIT_DISKS];
    size_t count;
};

/* "vda=FILE" each; errors are FERRY_USAGE. */
int disk_places_parse(const struct option_strings *options, struct disk_places *out,
                      struct ferry_error *err);
/* The file for a device, NULL: none was given. */
const char *disk_places_find(const struct disk_places *places, const char *device);
/* Every device named must exist in config: FERRY_USAGE. */
int disk_places_check(const struct disk_places *places, const struct machine_config *config,
                      struct ferry_error *err);
/* May file_name be looked for in a folder?  No '/', not "." or "..", not empty. */
bool disk_file_name_valid(const char *file_name);

#endif

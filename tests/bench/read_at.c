/*
 * read_at IMAGE COUNT: open IMAGE anew COUNT times and read 4 KiB at a random place of its first
 * disk each time; how long that takes, as JSON.
 */
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "imagefmt/chain.h"

static int compare(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a, other = *(const uint64_t *)b;

    return one < other ? -1 : one > other;
}

static int read_once(const char *path, uint64_t *seed, uint64_t *ns, struct ferry_error *err)
{
    CLEANUP(image_cleanup) struct image *image = NULL;
    uint64_t start = monotonic_ns();
    uint8_t data[4096];

    int error = image_open_path(path, NULL, &image, err);
    if (error)
        return error;
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    uint64_t pages = image_section(image, 0)->size / sizeof(data);
    error = image_pread(image, 0, (*seed >> 20) % pages * sizeof(data), data, sizeof(data), err);
    *ns = monotonic_ns() - start;
    return error;
}

int main(int argc, char **argv)
{
    unsigned count = argc == 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    CLEANUP_FREE uint64_t *ns = calloc(count ? count : 1, sizeof(*ns));
    struct ferry_error err = {0};
    uint64_t seed = 1;
    char text[512];

    if (!count || !ns)
        return 2;
    for (unsigned i = 0; i < count; i++)
        if (read_once(argv[1], &seed, &ns[i], &err)) {
            fprintf(stderr, "%s\n", ferry_error_text(&err, text, sizeof(text)));
            return 1;
        }
    qsort(ns, count, sizeof(*ns), compare);
    uint64_t median = ns[count / 2], worst = ns[count - 1];
    printf("{\"count\": %u, \"median_ms\": %.3f, \"worst_ms\": %.3f}\n", count,
           (double)median / 1e6, (double)worst / 1e6);
    return 0;
}

/* Fuzz target: a child with bytes of it changed and its sums right, over a base that stays. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "imagefmt/chain.h"
#include "tests/support/image_sample.h"
#include "tests/support/patched.h"

#define PAGE_BYTES UINT64_C(4096)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/tmp/ferry-fuzz-chain.XXXXXX", base_path[64];
static uint8_t *child;
static size_t child_bytes;

static void clean_up(void)
{
    unlink(base_path);
    rmdir(folder);
    free(child);
}

/* A base in a folder of its own, and a child that differs a little. */
static void prepare(void)
{
    struct sample sample = {0};
    CLEANUP(image_cleanup) struct image *base = NULL;

    if (!mkdtemp(folder))
        abort();
    atexit(clean_up);
    snprintf(base_path, sizeof(base_path), "%s/base.ferry", folder);
    snprintf(sample.manifest, sizeof(sample.manifest), "{}");
    sample_add(&sample, IMAGE_DISK, "vda", 41 * PAGE_BYTES + 100, PAGE_BYTES, 1);
    CLEANUP_FD int fd = open(base_path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || sample_write(&sample, fd, NULL, NULL, NULL) ||
        image_open_path(base_path, NULL, &base, NULL))
        abort();
    memset(sample.sections[0].content + 7 * PAGE_BYTES, 3, PAGE_BYTES);
    memset(sample.sections[0].content + 20 * PAGE_BYTES, 0, 3 * PAGE_BYTES);
    const struct image_writer_options options = {.base = base};
    child = sample_image(&sample, &options, &child_bytes);
    sample_free(&sample);
    if (!child)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *search[] = {folder};
    const struct image_environment env = {.search = search, .search_count = 1};

    if (!child)
        prepare();
    CLEANUP_FREE uint8_t *changed = patched_image(child, child_bytes, data, size);
    if (!changed)
        return 0;
    sample_read_with(changed, child_bytes, &env, NULL);
    sample_access_with(changed, child_bytes, &env, NULL);
    return 0;
}

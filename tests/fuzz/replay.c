/*
 * Run a fuzz target over files: test_fuzz_X without arguments takes what lies in
 * tests/fuzz/corpus/X, else the files and folders named.  No libFuzzer needed.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;
    struct ferry_error err;

    if (file_read(path, 64 * MIB, &data, &size, &err)) {
        fprintf(stderr, "%s: %s\n", path, err.message);
        return -1;
    }
    LLVMFuzzerTestOneInput(data, size);
    return 1;
}

/* How many files were replayed, negative on failure. */
static int replay(const char *path)
{
    struct dirent *entry;
    char name[PATH_MAX];
    int count = 0;

    DIR *folder = opendir(path);
    if (!folder)
        return replay_file(path);
    while (count >= 0 && (entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        count = replay_file(name) < 0 ? -1 : count + 1;
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv)
{
    const char *target = strstr(argv[0], "test_fuzz_");
    char corpus[PATH_MAX];
    int count = 0;

    snprintf(corpus, sizeof(corpus), "tests/fuzz/corpus/%s",
             target ? target + strlen("test_fuzz_") : "");
    char *own[] = {argv[0], corpus};
    char **paths = argc > 1 ? argv : own;
    for (int i = 1; count >= 0 && i < (argc > 1 ? argc : 2); i++) {
        int more = replay(paths[i]);
        count = more < 0 ? -1 : count + more;
    }
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}

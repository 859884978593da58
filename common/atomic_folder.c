/*
 * Folders that appear complete or not at all: as atomic_file, but a folder cannot be without a
 * name, and nothing is replaced.
 */
#include "common/atomic_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

static int missing(const struct atomic_folder *f, struct ferry_error *err)
{
    struct stat st;

    if (!fstatat(f->dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW))
        return ferry_fail(err, -EEXIST, f->path, "is there already; ferry replaces no folder");
    return 0;
}

static int open_parent(struct atomic_folder *f, const char *path, struct ferry_error *err)
{
    CLEANUP_FREE char *for_dir = strdup(path);
    CLEANUP_FREE char *for_base = strdup(path);

    if (!for_dir || !for_base || !(f->path = strdup(path)))
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    const char *parent = dirname(for_dir);
    const char *base = basename(for_base);
    if (!strcmp(base, ".") || !strcmp(base, "..") || !strcmp(base, "/") || !strcmp(base, ""))
        return ferry_fail(err, -EEXIST, path, "is not the name of a new folder");
    f->dir_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0)
        return ferry_fail_sys(err, -errno, parent, "cannot open the folder");
    f->name = strdup(base);
    return f->name ? missing(f, err) : ferry_fail(err, -ENOMEM, path, "out of memory");
}

static int make_temporary(struct atomic_folder *f, struct ferry_error *err)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return ferry_fail_sys(err, -errno, f->path, "cannot choose a temporary name");
    if (asprintf(&f->temp, ".%.200s.%016llx.tmp", f->name, (unsigned long long)random) < 0) {
        f->temp = NULL;
        return ferry_fail(err, -ENOMEM, f->path, "out of memory");
    }
    if (mkdirat(f->dir_fd, f->temp, 0700)) {
        int error = -errno;
        free(take_ptr(&f->temp)); /* nothing to remove */
        return ferry_fail_sys(err, error, f->path, "cannot create");
    }
    f->fd = openat(f->dir_fd, f->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return f->fd < 0 ? ferry_fail_sys(err, -errno, f->path, "cannot create") : 0;
}

int atomic_folder_open(struct atomic_folder *f, const char *path, struct ferry_error *err)
{
    *f = ATOMIC_FOLDER_NONE;
    int error = open_parent(f, path, err);
    if (!error)
        error = make_temporary(f, err);
    if (error)
        atomic_folder_abandon(f);
    return error;
}

int atomic_folder_commit(struct atomic_folder *f, struct ferry_error *err)
{
    int error = 0;

    if (syncfs(f->fd))
        error = ferry_fail_sys(err, -errno, f->path, "cannot make the folder durable");
    else if (renameat2(f->dir_fd, f->temp, f->dir_fd, f->name, RENAME_NOREPLACE))
        error = ferry_fail_sys(err, -errno, f->path, "cannot give the folder its name");
    else
        free(take_ptr(&f->temp));
    if (!error && fsync(f->dir_fd))
        error = ferry_fail_sys(err, -errno, f->path, "cannot make its name durable");
    atomic_folder_abandon(f);
    return error;
}

/* What is in the folder at fd, which is closed. */
static void empty_folder(int fd, unsigned depth)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;

    if (!dir) {
        close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, "..") || !unlinkat(dirfd(dir), name, 0))
            continue;
        int inner =
            depth ? openat(dirfd(dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        if (inner >= 0)
            empty_folder(inner, depth - 1);
        (void)unlinkat(dirfd(dir), name, AT_REMOVEDIR);
    }
    closedir(dir);
}

void atomic_folder_abandon(struct atomic_folder *f)
{
    if (f->temp) {
        int again = openat(f->dir_fd, f->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (again >= 0)
            empty_folder(again, ATOMIC_FOLDER_DEPTH);
        (void)unlinkat(f->dir_fd, f->temp, AT_REMOVEDIR);
    }
    if (f->fd >= 0)
        close(f->fd);
    if (f->dir_fd >= 0)
        close(f->dir_fd);
    free(f->name);
    free(f->temp);
    free(f->path);
    *f = ATOMIC_FOLDER_NONE;
}

/*
 * Folders that appear complete or not at all: as atomic_file, but a folder cannot be without a
 * name, and nothing is replaced.
 */
#include "common/atomic_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"

static int missing(const struct atomic_folder *f, struct ferry_error *err)
{
    struct stat st;

    if (!fstatat(f->dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW))
        return ferry_fail(err, -EEXIST, f->path, "is there already; ferry replaces no folder");
    return 0;
}

static int make_temporary(struct atomic_folder *f, struct ferry_error *err)
{
    int error = temporary_name(f->name, f->path, &f->temp, err);

    if (error)
        return error;
    if (mkdirat(f->dir_fd, f->temp, 0700)) {
        error = -errno;
        free(take_ptr(&f->temp)); /* nothing to remove */
        return ferry_fail_sys(err, error, f->path, "cannot create");
    }
    f->fd = openat(f->dir_fd, f->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return f->fd < 0 ? ferry_fail_sys(err, -errno, f->path, "cannot create") : 0;
}

int atomic_folder_open(struct atomic_folder *f, const char *path, struct ferry_error *err)
{
    *f = ATOMIC_FOLDER_NONE;
    if (!(f->path = strdup(path)))
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    int error = open_parent(path, &f->dir_fd, &f->name, err);
    if (!error)
        error = missing(f, err);
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

/*
 * Files that appear complete or not at all.  The order of the steps is the promise: the bytes are
 * durable before the name points to them, and the name is durable before commit returns.
 *
 * Until commit the file has no name at all (O_TMPFILE), so that even a killed process leaves
 * nothing behind.  A link cannot replace a file, so commit links to a temporary name and renames;
 * where the filesystem has no O_TMPFILE the file bears the temporary name from the start.
 */
#include "common/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

/* A rename would put a file in the place of a device such as /dev/null, a FIFO or a link. */
static int check_replaceable(const struct atomic_file *f, struct ferry_error *err)
{
    struct stat st;

    if (fstatat(f->dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW) || S_ISREG(st.st_mode))
        return 0;
    return ferry_fail(err, S_ISDIR(st.st_mode) ? -EISDIR : -EEXIST, f->path,
                      "exists and is not a regular file; ferry leaves it alone");
}

static int open_temporary(struct atomic_file *f, struct ferry_error *err)
{
    f->fd = openat(f->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (f->fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return ferry_fail_sys(err, -errno, f->path, "cannot create");
    int error = temporary_name(f->name, f->path, &f->temp, err);
    if (error)
        return error;
    f->fd = openat(f->dir_fd, f->temp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        error = -errno;
        free(take_ptr(&f->temp)); /* nothing to unlink */
        return ferry_fail_sys(err, error, f->path, "cannot create");
    }
    return 0;
}

/* Give a nameless file its temporary name. */
static int link_temporary(struct atomic_file *f, struct ferry_error *err)
{
    char self[32];

    if (f->temp)
        return 0;
    int error = temporary_name(f->name, f->path, &f->temp, err);
    if (error)
        return error;
    snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
    if (linkat(AT_FDCWD, self, f->dir_fd, f->temp, AT_SYMLINK_FOLLOW)) {
        error = -errno;
        free(take_ptr(&f->temp));
        return ferry_fail_sys(err, error, f->path, "cannot give the file a name");
    }
    return 0;
}

int atomic_file_open(struct atomic_file *f, const char *path, struct ferry_error *err)
{
    *f = ATOMIC_FILE_NONE;
    if (!(f->path = strdup(path)))
        return ferry_fail(err, -ENOMEM, path, "out of memory");
    int error = open_parent(path, &f->dir_fd, &f->name, err);
    if (!error)
        error = check_replaceable(f, err);
    if (!error)
        error = open_temporary(f, err);
    if (error)
        atomic_file_abandon(f);
    return error;
}

/* A rename that replaces nothing; where the filesystem cannot do that, a link and an unlink. */
static int rename_fresh(const struct atomic_file *f)
{
    if (!renameat2(f->dir_fd, f->temp, f->dir_fd, f->name, RENAME_NOREPLACE))
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (linkat(f->dir_fd, f->temp, f->dir_fd, f->name, 0))
        return -1;
    (void)unlinkat(f->dir_fd, f->temp, 0);
    return 0;
}

static int take_name(const struct atomic_file *f)
{
    return f->fresh ? rename_fresh(f) : renameat(f->dir_fd, f->temp, f->dir_fd, f->name);
}

static int appear(struct atomic_file *f, struct ferry_error *err)
{
    if (fsync(f->fd))
        return ferry_fail_sys(err, -errno, f->path, "cannot make the file durable");
    int error = link_temporary(f, err);
    if (error)
        return error;
    if (take_name(f))
        return ferry_fail_sys(err, -errno, f->path, "cannot give the file its name");
    free(take_ptr(&f->temp));
    if (fsync(f->dir_fd))
        return ferry_fail_sys(err, -errno, f->path, "cannot make the folder durable");
    return 0;
}

int atomic_file_commit(struct atomic_file *f, struct ferry_error *err)
{
    int error = appear(f, err);

    atomic_file_abandon(f);
    return error;
}

void atomic_file_abandon(struct atomic_file *f)
{
    if (f->temp)
        unlinkat(f->dir_fd, f->temp, 0);
    if (f->fd >= 0)
        close(f->fd);
    if (f->dir_fd >= 0)
        close(f->dir_fd);
    free(f->name);
    free(f->temp);
    free(f->path);
    *f = ATOMIC_FILE_NONE;
}

int atomic_file_write(const char *path, const void *data, size_t size, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file f = ATOMIC_FILE_NONE;

    int error = atomic_file_open(&f, path, err);
    if (error)
        return error;
    error = write_all(f.fd, data, size);
    if (error)
        return ferry_fail_sys(err, error, path, "cannot write");
    return atomic_file_commit(&f, err);
}

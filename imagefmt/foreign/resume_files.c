/*
 * The order in which files appear and go: the journal first, with its header durable, then the
 * partial file; at the end the partial file gets its name, then the journal goes.  So a partial
 * file without a journal is none of ours, and is left alone.  The lock is on the journal.
 */
#include "imagefmt/foreign/resume_files.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"

static int name_files(struct resume_files *f, const char *dest, struct ferry_error *err)
{
    f->dest = strdup(dest);
    if (asprintf(&f->partial, "%s.partial", dest) < 0)
        f->partial = NULL;
    if (asprintf(&f->journal_path, "%s.resume", dest) < 0)
        f->journal_path = NULL;
    CLEANUP_FREE char *for_folder = strdup(dest);
    if (!f->dest || !f->partial || !f->journal_path || !for_folder)
        return ferry_fail(err, -ENOMEM, dest, "out of memory");
    const char *folder = dirname(for_folder);
    f->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return f->folder_fd < 0 ? ferry_fail_sys(err, -errno, folder, "cannot open the folder") : 0;
}

/* A rename would put a file in the place of a device, a FIFO or a link. */
static int check_dest(const struct resume_files *f, struct ferry_error *err)
{
    struct stat st;

    if (lstat(f->dest, &st) || S_ISREG(st.st_mode))
        return 0;
    return ferry_fail(err, S_ISDIR(st.st_mode) ? -EISDIR : -EEXIST, f->dest,
                      "exists and is not a regular file; ferry leaves it alone");
}

/* A plain file of our own under one name. */
static int check_file(int fd, const char *path, struct ferry_error *err)
{
    struct stat st;

    if (fstat(fd, &st))
        return ferry_fail_sys(err, -errno, path, "cannot open");
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink > 1)
        return ferry_fail(err, -EEXIST, path,
                          "exists and is no plain file of yours; ferry leaves it alone");
    return 0;
}

/* Who finishes removes the journal: the lock counts only if the name is still that file's. */
static int lock_journal(const struct resume_files *f, struct ferry_error *err)
{
    struct stat ours, named;

    if (flock(f->journal_fd, LOCK_EX | LOCK_NB))
        return ferry_fail(err, -EBUSY, f->dest, "is being written by another ferry");
    if (fstat(f->journal_fd, &ours) || lstat(f->journal_path, &named) ||
        ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
        return ferry_fail(err, -EBUSY, f->dest, "another ferry has just finished it; try again");
    return 0;
}

static int open_journal(struct resume_files *f, struct ferry_error *err)
{
    f->journal_fd =
        open(f->journal_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (f->journal_fd < 0)
        return ferry_fail_sys(err, -errno, f->journal_path, "cannot open");
    int error = check_file(f->journal_fd, f->journal_path, err);
    return error ? error : lock_journal(f, err);
}

/* *exists: there is one. */
static int open_partial(struct resume_files *f, bool *exists, struct ferry_error *err)
{
    f->partial_fd = open(f->partial, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    *exists = f->partial_fd >= 0;
    if (!*exists && errno != ENOENT)
        return ferry_fail_sys(err, -errno, f->partial, "cannot open");
    return *exists ? check_file(f->partial_fd, f->partial, err) : 0;
}

/* ---- Going on ---- */

static void describe_value(const json_t *value, char *text, size_t size)
{
    if (json_is_string(value))
        snprintf(text, size, "'%.60s'", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(text, size, "%lld", (long long)json_integer_value(value));
    else
        snprintf(text, size, "none");
}

static int compare(const struct resume_files *f, const json_t *was, const json_t *is, json_t *keys,
                   struct ferry_error *err)
{
    char before[80], now[80];
    const char *key;
    json_t *value;

    json_object_foreach(keys, key, value)
    {
        const json_t *a = json_object_get(was, key), *b = json_object_get(is, key);
        if (a && b && json_equal(a, b))
            continue;
        describe_value(a, before, sizeof(before));
        describe_value(b, now, sizeof(now));
        return ferry_refuse(err, -ESTALE, f->journal_path,
                            "was begun with %.40s %s, now it is %s; to begin anew, remove it and "
                            "the .partial file beside it",
                            key, before, now);
    }
    return 0;
}

/* Is this the conversion that was begun? */
static int check_same(struct resume_files *f, json_t *what, struct ferry_error *err)
{
    json_t *was = NULL;

    int error = journal_open(&f->journal, f->journal_fd, f->journal_path, &was, err);
    if (error)
        return error;
    error = compare(f, was, what, what, err);
    if (!error)
        error = compare(f, was, what, was, err);
    json_decref(was);
    return error;
}

/* May what is in the journal's place be overwritten?  Nothing, or a journal. */
static int check_replaceable(const struct resume_files *f, struct ferry_error *err)
{
    char magic[8];
    ssize_t got = pread(f->journal_fd, magic, sizeof(magic), 0);

    if (got >= 0 && !memcmp(magic, "ferryres", (size_t)got))
        return 0;
    return ferry_refuse(err, -EEXIST, f->journal_path,
                        "exists and is not the journal of a conversion; ferry leaves it alone");
}

static int create(struct resume_files *f, const json_t *what, struct ferry_error *err)
{
    int error = check_replaceable(f, err);
    if (!error)
        error = journal_create(&f->journal, f->journal_fd, f->journal_path, what, err);
    if (error)
        return error;
    f->partial_fd = open(f->partial, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (f->partial_fd < 0)
        return ferry_fail_sys(err, -errno, f->partial, "cannot create");
    return fsync(f->folder_fd)
               ? ferry_fail_sys(err, -errno, f->dest, "cannot make the folder durable")
               : 0;
}

/* Nothing is in it yet: what it was begun with does not matter. */
static int begin_anew(struct resume_files *f, const json_t *what, struct ferry_error *err)
{
    journal_close(&f->journal);
    return journal_create(&f->journal, f->journal_fd, f->journal_path, what, err);
}

static int go_on(struct resume_files *f, json_t *what, struct ferry_error *err)
{
    struct journal_batch batch;

    int error = check_same(f, what, err);
    if (error != -ESTALE)
        return error;
    int more = journal_next(&f->journal, &batch, NULL);
    if (more > 0)
        journal_batch_free(&batch);
    return more ? error : begin_anew(f, what, err);
}

int resume_files_open(struct resume_files *f, const char *dest, json_t *what,
                      struct ferry_error *err)
{
    bool exists = false;

    *f = (struct resume_files){.folder_fd = -1, .partial_fd = -1, .journal_fd = -1};
    int error = name_files(f, dest, err);
    if (!error)
        error = check_dest(f, err);
    if (!error)
        error = open_journal(f, err);
    if (!error)
        error = open_partial(f, &exists, err);
    if (!error)
        error = exists ? go_on(f, what, err) : create(f, what, err);
    return error;
}

/* ---- The end ---- */

int resume_files_commit(struct resume_files *f, struct ferry_error *err)
{
    if (fsync(f->partial_fd))
        return ferry_fail_sys(err, -errno, f->partial, "cannot make the file durable");
    if (rename(f->partial, f->dest))
        return ferry_fail_sys(err, -errno, f->dest, "cannot give the file its name");
    if (fsync(f->folder_fd))
        return ferry_fail_sys(err, -errno, f->dest, "cannot make the folder durable");
    (void)unlink(f->journal_path);
    return 0;
}

void resume_files_discard(struct resume_files *f)
{
    (void)unlink(f->partial);
    (void)unlink(f->journal_path);
}

void resume_files_close(struct resume_files *f)
{
    journal_close(&f->journal);
    if (f->partial_fd >= 0)
        close(f->partial_fd);
    if (f->journal_fd >= 0)
        close(f->journal_fd); /* and the lock is gone */
    if (f->folder_fd >= 0)
        close(f->folder_fd);
    free(f->dest);
    free(f->partial);
    free(f->journal_path);
}

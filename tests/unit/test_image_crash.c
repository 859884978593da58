/*
 * What is left under a file's name when writing an image to it fails, is killed, or loses power at
 * any step: the old file or the new one, never a third; and no temporary files after a failure.
 *
 * The system calls that change files are wrapped at link time (tests/tests.mk): they count, fail or
 * kill at the Nth, or are written down.  For a loss of power a model of a disk replays what was
 * written down: data counts as durable once its file was synced, and before that each write may be
 * there or not, or a part of it; names become durable in their order, at the latest when their
 * folder is synced.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/chain.h"
#include "imagefmt/sign.h"
#include "tests/support/image_sample.h"

/* ---- The wrapped calls ---- */

enum call { CALL_WRITE, CALL_SYNC, CALL_LINK, CALL_RENAME, CALL_UNLINK };

struct noted {
    enum call call;
    ino_t file; /* written, synced (a folder, too), linked or renamed to */
    uint64_t offset;
    size_t size;
    uint8_t *data;
    char name[300]; /* LINK, RENAME: the new one */
};

#define NOTED_MAX 4096

static struct {
    enum { OFF, COUNT, FAIL, KILL, NOTE } mode;
    unsigned at, count; /* the call that fails; calls so far */
    int error;
    struct noted noted[NOTED_MAX];
    unsigned notes;
} w;

/* Before each call: true if it fails, errno set. */
static bool fails(void)
{
    if (w.mode == OFF || w.mode == NOTE)
        return false;
    unsigned now = w.count++;
    if (w.mode == KILL && now == w.at)
        _exit(137);
    errno = w.error;
    return w.mode == FAIL && now == w.at;
}

static ino_t inode(int fd)
{
    struct stat st;

    return fstat(fd, &st) ? 0 : st.st_ino;
}

static struct noted *note(enum call call, int fd)
{
    static struct noted nobody;

    if (w.mode != NOTE || w.notes == NOTED_MAX)
        return &nobody;
    struct noted *n = &w.noted[w.notes++];
    *n = (struct noted){.call = call, .file = fd < 0 ? 0 : inode(fd)};
    return n;
}

static void note_write(int fd, const void *data, size_t size, uint64_t offset)
{
    struct stat st;

    if (w.mode != NOTE || fstat(fd, &st) || !S_ISREG(st.st_mode))
        return;
    struct noted *n = note(CALL_WRITE, fd);
    n->offset = offset;
    n->size = size;
    n->data = malloc(size + 1);
    memcpy(n->data, data, size);
}

ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size)
{
    if (fails())
        return -1;
    note_write(fd, data, size, (uint64_t)lseek(fd, 0, SEEK_CUR));
    return __real_write(fd, data, size);
}

ssize_t __real_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count)
{
    if (fails())
        return -1;
    uint64_t offset = (uint64_t)lseek(fd, 0, SEEK_CUR);
    for (int i = 0; i < count; i++) {
        note_write(fd, iov[i].iov_base, iov[i].iov_len, offset);
        offset += iov[i].iov_len;
    }
    return __real_writev(fd, iov, count);
}

ssize_t __wrap_copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t size,
                               unsigned flags);
ssize_t __wrap_copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t size,
                               unsigned flags)
{
    uint8_t part[5000]; /* short, as it may be */

    (void)to_at;
    (void)flags;
    ssize_t got = pread(from, part, size < sizeof(part) ? size : sizeof(part), *from_at);
    if (got > 0)
        got = __wrap_write(to, part, (size_t)got);
    *from_at += got > 0 ? got : 0;
    return got;
}

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    if (fails())
        return -1;
    note(CALL_SYNC, fd);
    return __real_fsync(fd);
}

int __real_linkat(int from_dir, const char *from, int dir, const char *name, int flags);
int __wrap_linkat(int from_dir, const char *from, int dir, const char *name, int flags);
int __wrap_linkat(int from_dir, const char *from, int dir, const char *name, int flags)
{
    if (fails())
        return -1;
    int rc = __real_linkat(from_dir, from, dir, name, flags);
    struct stat st;
    struct noted *n = note(CALL_LINK, -1);
    n->file = fstatat(dir, name, &st, 0) ? 0 : st.st_ino;
    snprintf(n->name, sizeof(n->name), "%s", name);
    return rc;
}

int __real_renameat(int from_dir, const char *from, int dir, const char *name);
int __wrap_renameat(int from_dir, const char *from, int dir, const char *name);
int __wrap_renameat(int from_dir, const char *from, int dir, const char *name)
{
    if (fails())
        return -1;
    int rc = __real_renameat(from_dir, from, dir, name);
    struct stat st;
    struct noted *n = note(CALL_RENAME, -1);
    n->file = fstatat(dir, name, &st, 0) ? 0 : st.st_ino;
    snprintf(n->name, sizeof(n->name), "%s", name);
    return rc;
}

/* ---- What is done ---- */

struct bench {
    char folder[64], path[96], key[96];
    uint8_t *before, *after; /* the old file and the new one */
    size_t before_bytes, after_bytes;
    ino_t old_file, folder_file;
    int (*act)(const struct bench *b, struct ferry_error *err);
};

static void fill(struct sample *sample, uint64_t seed)
{
    *sample = (struct sample){0};
    snprintf(sample->manifest, sizeof(sample->manifest), "{}");
    sample_add(sample, IMAGE_DISK, "vda", 150000, 16384, seed);
}

static int write_over(const struct bench *b, struct ferry_error *err)
{
    CLEANUP(atomic_file_abandon) struct atomic_file file = ATOMIC_FILE_NONE;
    const struct image_writer_options options = {.workers = 1};
    struct sample sample;

    fill(&sample, 2);
    int error = atomic_file_open(&file, b->path, err);
    if (!error)
        error = sample_write(&sample, file.fd, &options, NULL, err);
    sample_free(&sample);
    return error ? error : atomic_file_commit(&file, err);
}

static int sign_it(const struct bench *b, struct ferry_error *err)
{
    CLEANUP(signing_key_cleanup) struct signing_key *key = NULL;
    uint8_t root[SHA256_BYTES];
    bool again;

    int error = signing_key_read(b->key, &key, err);
    return error ? error : image_sign(b->path, NULL, key, &again, root, err);
}

static void put_old(const struct bench *b)
{
    int fd = open(b->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_int_equal(pwrite(fd, b->before, b->before_bytes, 0), b->before_bytes);
    close(fd);
}

static void setup(struct bench *b, int (*act)(const struct bench *b, struct ferry_error *err))
{
    struct sample sample;
    struct ferry_error err;
    struct stat st;

    memset(b, 0, sizeof(*b));
    b->act = act;
    snprintf(b->folder, sizeof(b->folder), "/tmp/ferry-crash.XXXXXX");
    assert_non_null(mkdtemp(b->folder));
    snprintf(b->path, sizeof(b->path), "%s/a.ferry", b->folder);
    snprintf(b->key, sizeof(b->key), "%s/key", b->folder);
    fill(&sample, 1);
    b->before = sample_image(&sample, NULL, &b->before_bytes);
    sample_free(&sample);
    FILE *key = fopen(b->key, "w"); /* one for tests alone */
    fputs("-----BEGIN PRIVATE KEY-----\n"
          "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
          "-----END PRIVATE KEY-----\n",
          key);
    fclose(key);
    put_old(b);
    assert_int_equal(act(b, &err), 0);
    assert_int_equal(file_read(b->path, 1 << 20, &b->after, &b->after_bytes, &err), 0);
    assert_true(b->after_bytes != b->before_bytes ||
                memcmp(b->after, b->before, b->after_bytes) != 0);
    put_old(b);
    assert_int_equal(stat(b->path, &st), 0);
    b->old_file = st.st_ino;
    assert_int_equal(stat(b->folder, &st), 0);
    b->folder_file = st.st_ino;
}

static void teardown(const struct bench *b)
{
    unlink(b->path);
    unlink(b->key);
    assert_int_equal(rmdir(b->folder), 0);
    free(b->before);
    free(b->after);
}

static bool is_old(const struct bench *b, const uint8_t *bytes, size_t size)
{
    return size == b->before_bytes && !memcmp(bytes, b->before, size);
}

static bool is_new(const struct bench *b, const uint8_t *bytes, size_t size)
{
    return size == b->after_bytes && !memcmp(bytes, b->after, size);
}

static void expect_whole(const struct bench *b, bool may_be_new, const char *when, unsigned at)
{
    struct ferry_error err;
    uint8_t *bytes;
    size_t size;

    if (file_read(b->path, 1 << 20, &bytes, &size, &err))
        fail_msg("%s %u: %s", when, at, err.message);
    if (!is_old(b, bytes, size) && !(may_be_new && is_new(b, bytes, size)))
        fail_msg("%s %u: a third file of %zu bytes", when, at, size);
    free(bytes);
}

static unsigned files_in(const char *folder)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    unsigned count = 0;

    while ((entry = readdir(dir)))
        count += *entry->d_name != '.' || strlen(entry->d_name) > 2;
    closedir(dir);
    return count;
}

static unsigned count_calls(const struct bench *b)
{
    struct ferry_error err;

    w.mode = COUNT;
    w.count = 0;
    assert_int_equal(b->act(b, &err), 0);
    w.mode = OFF;
    put_old(b);
    return w.count;
}

/* ---- Tests ---- */

static void fail_everywhere(int (*act)(const struct bench *b, struct ferry_error *err))
{
    static const int errors[] = {EIO, ENOSPC};
    struct bench b;

    setup(&b, act);
    unsigned calls = count_calls(&b);
    assert_in_range(calls, 5, 1000);
    for (unsigned e = 0; e < 2; e++)
        for (unsigned at = 0; at < calls; at++) {
            struct ferry_error err = {0};
            w.mode = FAIL;
            w.at = at;
            w.count = 0;
            w.error = errors[e];
            int error = act(&b, &err);
            w.mode = OFF;
            assert_int_equal(error, -errors[e]);
            assert_int_equal(err.kind, FERRY_FAILED);
            assert_true(*err.message);
            /* The folder's sync comes last: then the new file has its name. */
            expect_whole(&b, at + 1 == calls, "failure of call", at);
            assert_int_equal(files_in(b.folder), 2);
            put_old(&b);
        }
    teardown(&b);
}

static void test_failures(void **state)
{
    (void)state;
    fail_everywhere(write_over);
    fail_everywhere(sign_it);
}

static void kill_everywhere(int (*act)(const struct bench *b, struct ferry_error *err))
{
    struct bench b;
    int status;

    setup(&b, act);
    unsigned calls = count_calls(&b);
    for (unsigned at = 0; at < calls; at++) {
        pid_t child = fork();
        if (!child) {
            w.mode = KILL;
            w.at = at;
            w.count = 0;
            act(&b, NULL);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(WEXITSTATUS(status), 137);
        expect_whole(&b, at + 1 == calls, "kill at call", at);
        put_old(&b);
    }
    /* What a killed process may leave is a temporary name, for the moment between two calls. */
    DIR *dir = opendir(b.folder);
    const struct dirent *entry;
    while ((entry = readdir(dir)))
        if (strstr(entry->d_name, ".tmp"))
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    teardown(&b);
}

static void test_kills(void **state)
{
    (void)state;
    kill_everywhere(write_over);
    kill_everywhere(sign_it);
}

/* What the disk holds of a file after the first `upto` calls; false: it is not known there. */
static size_t content_after(ino_t file, unsigned upto, uint64_t *seed, uint8_t *bytes, size_t room)
{
    unsigned synced = 0;
    size_t size = 0;

    memset(bytes, 0, room);
    for (unsigned i = 0; i < upto; i++)
        if (w.noted[i].call == CALL_SYNC && w.noted[i].file == file)
            synced = i;
    for (unsigned i = 0; i < upto; i++) {
        const struct noted *n = &w.noted[i];
        if (n->call != CALL_WRITE || n->file != file)
            continue;
        uint64_t luck = i < synced ? 0 : sample_random(seed) % 4;
        size_t part = luck == 1 ? 0 : luck == 2 ? sample_random(seed) % (n->size + 1) : n->size;
        assert_true(n->offset + n->size <= room);
        memcpy(bytes + n->offset, n->data, part);
        if (part && n->offset + part > size)
            size = n->offset + part;
    }
    return size;
}

/* Which file has the name, if the first `names` changes of names are durable. */
static ino_t owner_after(const struct bench *b, unsigned names)
{
    ino_t owner = b->old_file;

    for (unsigned i = 0; i < w.notes && names; i++) {
        bool naming = w.noted[i].call == CALL_LINK || w.noted[i].call == CALL_RENAME;
        if (naming && w.noted[i].call == CALL_RENAME && !strcmp(w.noted[i].name, "a.ferry"))
            owner = w.noted[i].file;
        names -= naming;
    }
    return owner;
}

static void lose_power(const struct bench *b, unsigned upto, uint64_t *seed)
{
    enum { ROOM = 1 << 20 };
    uint8_t *bytes = malloc(ROOM);
    unsigned names = 0, sure = 0;

    for (unsigned i = 0; i < upto; i++) {
        names += w.noted[i].call == CALL_LINK || w.noted[i].call == CALL_RENAME;
        if (w.noted[i].call == CALL_SYNC && w.noted[i].file == b->folder_file)
            sure = names;
    }
    for (unsigned durable = sure; durable <= names; durable++) {
        ino_t owner = owner_after(b, durable);
        size_t size =
            owner == b->old_file ? b->before_bytes : content_after(owner, upto, seed, bytes, ROOM);
        bool right = owner == b->old_file || is_new(b, bytes, size);
        if (!right)
            fail_msg("power lost behind call %u: a third file", upto);
        if (upto == w.notes && owner == b->old_file)
            fail_msg("power lost after the end: the old file is back");
    }
    free(bytes);
}

static void lose_power_everywhere(int (*act)(const struct bench *b, struct ferry_error *err))
{
    struct ferry_error err;
    uint64_t seed = 17;
    struct bench b;

    setup(&b, act);
    w.notes = 0;
    w.mode = NOTE;
    assert_int_equal(act(&b, &err), 0);
    w.mode = OFF;
    assert_in_range(w.notes, 5, NOTED_MAX - 1);
    for (unsigned upto = 0; upto <= w.notes; upto++)
        for (unsigned luck = 0; luck < 20; luck++)
            lose_power(&b, upto, &seed);
    for (unsigned i = 0; i < w.notes; i++)
        free(w.noted[i].data);
    teardown(&b);
}

static void test_power_loss(void **state)
{
    (void)state;
    lose_power_everywhere(write_over);
    lose_power_everywhere(sign_it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_power_loss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

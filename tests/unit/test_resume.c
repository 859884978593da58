/*
 * Conversions that are interrupted, at every kind of call that changes a file: by a kill, by a
 * failure, and by a loss of power, which here takes all that was not yet made durable.  What they
 * become must be what a conversion in one go makes, to the byte.  And journals that are hostile.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "imagefmt/foreign/resume.h"
#include "imagefmt/foreign/resume_journal.h"
#include "imagefmt/foreign/source.h"
#include "tests/support/disk_sample.h"

#define DISK_BYTES  (11 * MIB + 1536)
#define EVERY_BYTES (1500 * KIB)
#define POINTS      11 /* at which each conversion is interrupted */
#define LOST_MOST   65536

static const struct {
    const char *name;
    const struct disk_format *format;
    const char *subformat, *codec;
    uint64_t unit_bytes;
} kinds[] = {
    {"raw", &disk_format_raw, NULL, NULL, 0},
    {"qcow2", &disk_format_qcow2, NULL, NULL, 0},
    {"qcow2 of small clusters", &disk_format_qcow2, NULL, NULL, 4096},
    {"qcow2 zlib", &disk_format_qcow2, NULL, "zlib", 0},
    {"qcow2 zstd", &disk_format_qcow2, NULL, "zstd", 8192},
    {"vmdk", &disk_format_vmdk, NULL, NULL, 0},
    {"vmdk monolithicSparse", &disk_format_vmdk, "monolithicSparse", NULL, 0},
    {"vhd", &disk_format_vhd, NULL, NULL, 0},
    {"vhd fixed", &disk_format_vhd, "fixed", NULL, 0},
    {"vhdx", &disk_format_vhdx, NULL, NULL, 0},
    {"vdi", &disk_format_vdi, NULL, NULL, 0},
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

/* ---- Calls that are counted, and fail or kill ---- */

enum happening { HAPPENS_NOTHING, HAPPENS_KILL, HAPPENS_TORN_KILL, HAPPENS_FULL };

struct lost {
    ino_t inode;
    uint64_t offset, size;
};

/* Shared with the child that is killed. */
static struct {
    unsigned calls, at; /* what happens, happens at the at-th call, from 1 */
    enum happening what;
    size_t lost_count; /* written, not yet durable */
    struct lost lost[LOST_MOST];
} * shared;

#define WRAPPED(TYPE, NAME, ...)     \
    TYPE __real_##NAME(__VA_ARGS__); \
    TYPE __wrap_##NAME(__VA_ARGS__)
WRAPPED(ssize_t, pwrite64, int fd, const void *data, size_t size, off_t offset);
WRAPPED(int, ftruncate64, int fd, off_t size);
WRAPPED(int, rename, const char *from, const char *to);
WRAPPED(int, unlink, const char *path);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);

/* Is it now?  A kill does not return. */
static bool happens_now(void)
{
    if (!shared || ++shared->calls != shared->at)
        return false;
    if (shared->what == HAPPENS_KILL)
        raise(SIGKILL);
    return shared->what == HAPPENS_TORN_KILL;
}

/* A disk that is full stays so, with room for a short batch of the journal. */
static bool is_full(size_t size)
{
    return size >= 4096 && shared && shared->what == HAPPENS_FULL && shared->calls >= shared->at;
}

static ino_t inode_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) ? 0 : st.st_ino;
}

static void note_lost(int fd, uint64_t offset, uint64_t size)
{
    if (shared && shared->lost_count < LOST_MOST)
        shared->lost[shared->lost_count++] = (struct lost){inode_of(fd), offset, size};
}

static void note_durable(int fd)
{
    ino_t inode = inode_of(fd);
    size_t kept = 0;

    for (size_t i = 0; shared && i < shared->lost_count; i++)
        if (shared->lost[i].inode != inode)
            shared->lost[kept++] = shared->lost[i];
    if (shared)
        shared->lost_count = kept;
}

ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    bool torn = happens_now();

    if (is_full(size)) {
        errno = ENOSPC;
        return -1;
    }
    note_lost(fd, (uint64_t)offset, size);
    ssize_t put = __real_pwrite64(fd, data, torn ? size / 2 : size, offset);
    if (torn)
        raise(SIGKILL);
    return put;
}

int __wrap_ftruncate64(int fd, off_t size)
{
    return happens_now() ? raise(SIGKILL) : __real_ftruncate64(fd, size);
}

/* The real ones take their time. */
int __wrap_fdatasync(int fd)
{
    if (happens_now())
        raise(SIGKILL);
    note_durable(fd);
    return 0;
}

int __wrap_fsync(int fd)
{
    return __wrap_fdatasync(fd);
}

int __wrap_rename(const char *from, const char *to)
{
    return happens_now() ? raise(SIGKILL) : __real_rename(from, to);
}

int __wrap_unlink(const char *path)
{
    return happens_now() ? raise(SIGKILL) : __real_unlink(path);
}

/* ---- One conversion ---- */

static char folder[] = "/tmp/ferry-test-resume.XXXXXX";
static int raw_fd;
static char dest[64], partial[80], journal_path[80];

static int convert(size_t kind, json_t *what, uint8_t digest[SHA256_BYTES], struct ferry_error *err)
{
    CLEANUP(resume_cleanup) struct resume *r = NULL;
    CLEANUP(source_cleanup) struct source *source = NULL;
    const struct disk_write_options write = {
        .size_bytes = DISK_BYTES,
        .subformat = kinds[kind].subformat,
        .codec = kinds[kind].codec,
        .unit_bytes = kinds[kind].unit_bytes,
        .identity = {1, 2, 3},
    };
    const struct disk_copy_options copy = {.workers = 2, .digest = true};
    struct disk_copy_result result;
    struct disk *disk = NULL;

    int error = resume_open(dest, what, &r, err);
    if (error)
        return error;
    resume_every(r, EVERY_BYTES);
    assert_int_equal(source_of_fd(raw_fd, "raw", &source, NULL), 0);
    assert_int_equal(disk_format_raw.open(source, NULL, &disk, NULL), 0);
    error = resume_copy(r, disk, kinds[kind].format, &write, &copy, &result, err);
    disk_format_raw.close(disk);
    if (!error)
        error = resume_commit(r, err);
    if (!error)
        memcpy(digest, result.digest, SHA256_BYTES);
    return error;
}

static json_t *what_of(size_t kind)
{
    return json_pack("{s:s, s:i}", "--to", kinds[kind].name, "SRC's size", 77);
}

static void must_convert(size_t kind, uint8_t digest[SHA256_BYTES])
{
    struct ferry_error err = {0};
    json_t *what = what_of(kind);

    if (convert(kind, what, digest, &err))
        fail_msg("%s: %s: %s (%s)", kinds[kind].name, err.about, err.message, err.cause);
    json_decref(what);
    assert_int_not_equal(access(partial, F_OK), 0);
    assert_int_not_equal(access(journal_path, F_OK), 0);
}

/* In a process of its own, to be interrupted.  Returns how it ended. */
static int convert_until(size_t kind, unsigned at, enum happening happening)
{
    uint8_t digest[SHA256_BYTES];

    shared->calls = 0;
    shared->at = at;
    shared->what = happening;
    shared->lost_count = 0;
    pid_t pid = fork();
    if (!pid) {
        json_t *what = what_of(kind);
        int error = convert(kind, what, digest, NULL);
        json_decref(what);
        _exit(error ? 1 : 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    shared->at = 0;
    shared->what = HAPPENS_NOTHING;
    return status;
}

/* All that was not yet durable comes to nothing good. */
static void lose_power(const char *path)
{
    CLEANUP_FD int fd = open(path, O_RDWR | O_CLOEXEC);
    static uint8_t junk[2 * MIB];

    if (fd < 0)
        return;
    memset(junk, 0xa5, sizeof(junk));
    for (size_t i = 0; i < shared->lost_count; i++)
        for (uint64_t done = 0, part;
             shared->lost[i].inode == inode_of(fd) && done < shared->lost[i].size; done += part) {
            part = shared->lost[i].size - done;
            part = part < sizeof(junk) ? part : sizeof(junk);
            assert_int_equal(
                __real_pwrite64(fd, junk, part, (off_t)(shared->lost[i].offset + done)), part);
        }
}

static void sum_file(uint8_t sum[SHA256_BYTES])
{
    uint8_t *data;
    size_t size;

    assert_int_equal(file_read(dest, 64 * MIB, &data, &size, NULL), 0);
    sha256(data, size, sum);
    free(data);
}

static void clear(void)
{
    (void)__real_unlink(dest);
    (void)__real_unlink(partial);
    (void)__real_unlink(journal_path);
}

/* ---- Tests ---- */

static unsigned full_count; /* conversions that found no room */

static void interrupt(size_t kind, unsigned at, enum happening happening, unsigned again_at,
                      const uint8_t expected[2][SHA256_BYTES])
{
    uint8_t digest[SHA256_BYTES], sum[SHA256_BYTES];

    clear();
    int status = convert_until(kind, at, happening);
    /* Near the end of a full disk all may still find room. */
    assert_true(happening == HAPPENS_FULL ? WIFEXITED(status) : WIFSIGNALED(status));
    full_count += WIFEXITED(status) && WEXITSTATUS(status) == 1;
    lose_power(partial);
    lose_power(journal_path);
    if (again_at) {
        (void)convert_until(kind, again_at, HAPPENS_KILL); /* which may come to its end before */
        lose_power(partial);
        lose_power(journal_path);
    }
    must_convert(kind, digest);
    sum_file(sum);
    if (memcmp(digest, expected[0], SHA256_BYTES) || memcmp(sum, expected[1], SHA256_BYTES))
        fail_msg("%s, interrupted at call %u, has other bytes", kinds[kind].name, at);
}

static void test_interrupted(void **state)
{
    static const enum happening happenings[] = {HAPPENS_KILL, HAPPENS_TORN_KILL, HAPPENS_FULL};
    uint8_t expected[2][SHA256_BYTES];

    (void)state;
    for (size_t kind = 0; kind < KINDS; kind++) {
        clear();
        shared->calls = 0;
        must_convert(kind, expected[0]);
        sum_file(expected[1]);
        unsigned calls = shared->calls;
        assert_in_range(calls, 20, 100000);
        for (unsigned i = 0; i < POINTS; i++) {
            /* All over, and the last calls, which are sync, rename and unlink. */
            unsigned at = i < POINTS - 5 ? 1 + i * calls / (POINTS - 5) : calls - (POINTS - 1 - i);
            enum happening happening = happenings[i < POINTS - 5 ? i % 3 : 0];
            interrupt(kind, at, happening, i % 2 ? calls / 3 : 0, expected);
        }
    }
    assert_in_range(full_count, KINDS / 2, KINDS * POINTS);
    clear();
}

/* What is there is not redone: calls after an interruption near the end are few. */
static void test_goes_on(void **state)
{
    uint8_t digest[SHA256_BYTES];
    struct ferry_error err = {0};
    struct resume *r = NULL;
    uint64_t done;

    (void)state;
    for (size_t kind = 0; kind < KINDS; kind++) {
        clear();
        shared->calls = 0;
        must_convert(kind, digest);
        unsigned calls = shared->calls;
        clear();
        assert_true(WIFSIGNALED(convert_until(kind, calls - 5, HAPPENS_KILL)));
        json_t *what = what_of(kind);
        assert_int_equal(resume_open(dest, what, &r, &err), 0);
        assert_true(resume_goes_on(r, &done));
        assert_in_range(done, 4 * MIB, DISK_BYTES);
        assert_true(resume_is_kept(r));
        /* Nobody else may meanwhile. */
        struct resume *other = NULL;
        assert_int_equal(resume_open(dest, what, &other, &err), -EBUSY);
        resume_close(r);
        json_decref(what);
        shared->calls = 0;
        must_convert(kind, digest);
        assert_in_range(shared->calls, 1, calls * 3 / 4);
    }
    clear();
}

static void assert_refused(size_t kind, json_t *what, int code, const char *text)
{
    uint8_t digest[SHA256_BYTES];
    struct ferry_error err = {0};

    assert_int_equal(convert(kind, what, digest, &err), code);
    if (!strstr(err.message, text))
        fail_msg("'%s' does not say '%s'", err.message, text);
}

static void begin(size_t kind)
{
    clear();
    shared->calls = 0;
    uint8_t digest[SHA256_BYTES];
    must_convert(kind, digest);
    unsigned calls = shared->calls;
    clear();
    assert_true(WIFSIGNALED(convert_until(kind, calls - 5, HAPPENS_KILL)));
    assert_int_equal(access(partial, F_OK), 0);
}

static void test_other_options(void **state)
{
    uint8_t digest[SHA256_BYTES];

    (void)state;
    begin(0);
    json_t *what = what_of(0);
    json_object_set_new(what, "SRC's size", json_integer(78));
    assert_refused(0, what, -ESTALE, "was begun with SRC's size 77, now it is 78");
    json_object_del(what, "SRC's size");
    assert_refused(0, what, -ESTALE, "was begun with SRC's size 77, now it is none");
    json_object_set_new(what, "SRC's size", json_integer(77));
    json_object_set_new(what, "--codec", json_string("zlib"));
    assert_refused(0, what, -ESTALE, "was begun with --codec none, now it is 'zlib'");
    json_decref(what);
    must_convert(0, digest);
}

/* The same identity, but another content: sizes of what is read again tell. */
static void test_other_content(void **state)
{
    const size_t zlib = 3;
    uint8_t zeroes[70000] = {0}, before[70000];
    uint8_t digest[SHA256_BYTES];

    (void)state;
    begin(zlib);
    json_t *what = what_of(zlib);
    /* From where reading begins again, which is two MiB before the end at most. */
    for (uint64_t at = 4 * MIB + 1000; at + sizeof(zeroes) < DISK_BYTES; at += MIB) {
        assert_int_equal(pread_all(raw_fd, before, sizeof(before), at), 0);
        assert_int_equal(pwrite_all(raw_fd, zeroes, sizeof(zeroes), at), 0);
    }
    assert_refused(zlib, what, -ESTALE, "reads or compresses otherwise");
    json_decref(what);
    close(raw_fd);
    raw_fd = disk_sample_noise(DISK_BYTES);
    must_convert(zlib, digest);
}

static void write_file(const char *path, const char *text)
{
    CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write_all(fd, text, strlen(text)), 0);
}

/* Files that are not ours stay. */
static void test_strangers(void **state)
{
    json_t *what = what_of(0);
    struct stat st;

    (void)state;
    clear();
    write_file(journal_path, "a diary");
    assert_refused(0, what, -EEXIST, "not the journal of a conversion");
    write_file(partial, "a poem");
    assert_refused(0, what, -EBADMSG, "not the journal of a conversion");
    __real_unlink(journal_path);
    assert_refused(0, what, -EBADMSG, "not the journal of a conversion");
    assert_int_equal(stat(partial, &st), 0);
    assert_int_equal(st.st_size, 6);
    clear();
    assert_int_equal(symlink("/etc/passwd", journal_path), 0);
    assert_refused(0, what, -ELOOP, "cannot open");
    clear();
    assert_int_equal(symlink("elsewhere", partial), 0);
    assert_refused(0, what, -ELOOP, "cannot open");
    clear();
    assert_int_equal(mkfifo(dest, 0600), 0);
    assert_refused(0, what, -EEXIST, "not a regular file");
    clear();
    assert_int_equal(mkfifo(partial, 0600), 0);
    assert_refused(0, what, -EEXIST, "no plain file of yours");
    clear();
    write_file(dest, "an older one");
    assert_int_equal(link(dest, partial), 0);
    assert_refused(0, what, -EEXIST, "no plain file of yours");
    json_decref(what);
    clear();
}

/* A journal whose sums are right and whose units are not. */
static void forge(size_t kind, const struct disk_unit *units, size_t count, uint64_t done,
                  uint64_t unwritten)
{
    CLEANUP_FD int fd = open(journal_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    json_t *what = what_of(kind);
    struct journal j;

    assert_int_equal(journal_create(&j, fd, "forged", what, NULL), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(journal_add_unit(&j, &units[i], NULL), 0);
    assert_int_equal(journal_write(&j, done, unwritten, NULL), 0);
    journal_close(&j);
    write_file(partial, "short");
    assert_refused(kind, what, -EBADMSG, "begin anew");
    json_decref(what);
    clear();
}

static void test_forged(void **state)
{
    const struct disk_unit bad[] = {
        {.offset = 1536, .content_bytes = 65536, .stored_bytes = 512},
        {.content_bytes = 0, .stored_bytes = 512},
        {.content_bytes = 4 * MIB, .stored_bytes = 512},
        {.offset = 8 * MIB, .content_bytes = 65536, .stored_bytes = 512},
        {.offset = UINT64_MAX - 65535, .content_bytes = 65536, .stored_bytes = 512},
        {.content_bytes = 65536, .stored_bytes = UINT32_MAX},
    };
    const struct disk_unit again = {.offset = MIB, .content_bytes = 65536, .stored_bytes = 512};
    const struct disk_unit twice[] = {again, again};
    const uint64_t none = UINT64_MAX, end = 8 * MIB;
    const size_t zlib = 3;

    (void)state;
    clear();
    for (size_t kind = 0; kind < KINDS; kind++) {
        forge(kind, NULL, 0, DISK_BYTES + 1, none);
        forge(kind, NULL, 0, UINT64_MAX, none);
        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
            forge(kind, &bad[i], 1, end, none);
        forge(kind, twice, 2, end, none);
    }
    forge(zlib, &(struct disk_unit){.offset = 0, .content_bytes = 65536}, 1, end, none);
    /* A unit that is fine, in a file that is too short for it. */
    forge(0, &(struct disk_unit){.offset = 0, .content_bytes = 65536}, 1, end, none);
}

/* Each byte of a real journal changed: at worst it ends there. */
static void test_altered(void **state)
{
    const size_t zlib = 3;
    uint8_t digest[SHA256_BYTES], *good, *data;
    uint8_t expected[SHA256_BYTES], sum[SHA256_BYTES];
    size_t size, partial_size;

    (void)state;
    clear();
    must_convert(zlib, digest);
    sum_file(expected);
    begin(zlib);
    assert_int_equal(file_read(journal_path, MIB, &good, &size, NULL), 0);
    assert_int_equal(file_read(partial, 64 * MIB, &data, &partial_size, NULL), 0);
    for (size_t at = 0; at < size; at += size / 40 + 1) {
        uint8_t byte = good[at] ^ 0x41;
        clear();
        write_file(journal_path, "");
        write_file(partial, "");
        CLEANUP_FD int j = open(journal_path, O_RDWR | O_CLOEXEC);
        CLEANUP_FD int p = open(partial, O_RDWR | O_CLOEXEC);
        assert_int_equal(pwrite_all(j, good, size, 0), 0);
        assert_int_equal(pwrite_all(j, &byte, 1, at), 0);
        assert_int_equal(pwrite_all(p, data, partial_size, 0), 0);
        struct ferry_error err = {0};
        json_t *what = what_of(zlib);
        int error = convert(zlib, what, digest, &err);
        json_decref(what);
        if (error) {
            assert_int_equal(err.kind, FERRY_REFUSED);
            continue;
        }
        sum_file(sum);
        assert_memory_equal(sum, expected, SHA256_BYTES);
    }
    free(good);
    free(data);
    clear();
}

static int set_up(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || !mkdtemp(folder))
        return -1;
    snprintf(dest, sizeof(dest), "%s/disk", folder);
    snprintf(partial, sizeof(partial), "%s.partial", dest);
    snprintf(journal_path, sizeof(journal_path), "%s.resume", dest);
    raw_fd = disk_sample_noise(DISK_BYTES);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clear();
    close(raw_fd);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interrupted),   cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_other_options), cmocka_unit_test(test_other_content),
        cmocka_unit_test(test_strangers),     cmocka_unit_test(test_forged),
        cmocka_unit_test(test_altered),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

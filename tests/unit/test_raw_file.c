/* Raw disks: data, holes, zeroes, ownership, and what is no disk. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/block.h"

#define SIZE UINT64_C(0x100000)

struct bench {
    char folder[64], path[96];
    struct block *block;
};

static void make_file(const char *path, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static void bench_open(struct bench *bench)
{
    const char *base = getenv("TMPDIR");
    snprintf(bench->folder, sizeof(bench->folder), "%.40s/ferry-raw-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(bench->folder));
    snprintf(bench->path, sizeof(bench->path), "%s/disk.raw", bench->folder);
    make_file(bench->path, SIZE);
    assert_int_equal(raw_file_open(bench->path, false, 0, false, &bench->block, NULL), 0);
    assert_int_equal(bench->block->size_bytes, SIZE);
    assert_false(bench->block->active);
}

static void bench_activate(struct bench *bench)
{
    struct ferry_error err = {0};
    if (bench->block->ops->activate(bench->block, &err))
        fail_msg("%s %s", err.message, err.cause);
    assert_true(bench->block->active);
}

static void bench_close(struct bench *bench)
{
    bench->block->ops->close(bench->block);
    unlink(bench->path);
    assert_int_equal(rmdir(bench->folder), 0);
}

static int move(struct block *block, void *data, size_t size, uint64_t offset, bool write)
{
    /* in three pieces */
    uint8_t *bytes = data;
    const struct iovec iov[] = {
        {bytes, size / 4}, {bytes + size / 4, 0}, {bytes + size / 4, size - size / 4}};
    return write ? block->ops->write(block, iov, 3, offset)
                 : block->ops->read(block, iov, 3, offset);
}

static void test_random_io_matches_a_model(void **state)
{
    struct bench bench;
    (void)state;
    bench_open(&bench);
    bench_activate(&bench);
    struct block *block = bench.block;
    uint8_t *model = calloc(1, SIZE), *buffer = malloc(SIZE);
    assert_true(model && buffer);
    srand(5);
    for (unsigned round = 0; round < 2000; round++) {
        size_t size = 512 * (1 + (size_t)rand() % 64);
        uint64_t offset = 512 * ((uint64_t)rand() % ((SIZE - size) / 512 + 1));
        switch (rand() % 4) {
        case 0:
            assert_int_equal(move(block, buffer, size, offset, false), 0);
            assert_memory_equal(buffer, model + offset, size);
            break;
        case 1:
            assert_int_equal(block->ops->write_zeroes(block, offset, size, rand() & 1), 0);
            memset(model + offset, 0, size);
            break;
        default:
            for (size_t n = 0; n < size; n++)
                model[offset + n] = (uint8_t)rand();
            memcpy(buffer, model + offset, size);
            assert_int_equal(move(block, buffer, size, offset, true), 0);
        }
    }
    assert_int_equal(block->ops->flush(block), 0);
    assert_int_equal(move(block, buffer, SIZE, 0, false), 0);
    assert_memory_equal(buffer, model, SIZE);
    free(model);
    free(buffer);
    bench_close(&bench);
}

static void test_holes(void **state)
{
    struct bench bench;
    uint8_t buffer[8192];
    struct stat before, after;
    (void)state;
    bench_open(&bench);
    bench_activate(&bench);
    struct block *block = bench.block;
    memset(buffer, 1, sizeof(buffer));
    uint64_t start = 0, end = 0;
    assert_int_equal(block->ops->next_data(block, &start, &end), 0);
    assert_int_equal(move(block, buffer, 8192, SIZE / 2, true), 0);
    start = 0;
    assert_int_equal(block->ops->next_data(block, &start, &end), 1);
    assert_true(start <= SIZE / 2 && end >= SIZE / 2 + 8192 && end <= SIZE);
    start = SIZE;
    assert_int_equal(block->ops->next_data(block, &start, &end), 0);
    stat(bench.path, &before);
    assert_int_equal(block->ops->discard(block, SIZE / 2, 8192), 0);
    stat(bench.path, &after);
    assert_true(after.st_blocks < before.st_blocks);
    assert_int_equal(after.st_size, SIZE);
    bench_close(&bench);
}

static void test_ranges_past_the_end_are_refused(void **state)
{
    struct bench bench;
    uint8_t buffer[1024] = {0};
    (void)state;
    bench_open(&bench);
    bench_activate(&bench);
    struct block *block = bench.block;
    const uint64_t bad[] = {SIZE - 512, SIZE, SIZE + 512, UINT64_MAX - 511, UINT64_MAX};
    for (unsigned n = 0; n < 5; n++) {
        assert_int_equal(move(block, buffer, 1024, bad[n], false), -EINVAL);
        assert_int_equal(move(block, buffer, 1024, bad[n], true), -EINVAL);
        assert_int_equal(block->ops->discard(block, bad[n], 1024), -EINVAL);
        assert_int_equal(block->ops->write_zeroes(block, bad[n], 1024, true), -EINVAL);
    }
    assert_int_equal(truncate(bench.path, SIZE / 2), 0); /* the file shrinks below us */
    assert_true(move(block, buffer, 1024, SIZE - 1024, false) < 0);
    bench_close(&bench);
}

static void test_nothing_works_without_ownership(void **state)
{
    struct bench bench;
    uint8_t buffer[512] = {0};
    uint64_t start = 0, end;
    (void)state;
    bench_open(&bench);
    struct block *block = bench.block;
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(move(block, buffer, 512, 0, false), -EBADF);
        assert_int_equal(move(block, buffer, 512, 0, true), -EBADF);
        assert_int_equal(block->ops->flush(block), -EBADF);
        assert_int_equal(block->ops->discard(block, 0, 512), -EBADF);
        assert_int_equal(block->ops->write_zeroes(block, 0, 512, true), -EBADF);
        assert_int_equal(block->ops->next_data(block, &start, &end), -EBADF);
        assert_int_equal(block->ops->release(block, NULL), 0);
        bench_activate(&bench);
        bench_activate(&bench); /* idempotent */
        assert_int_equal(block->ops->release(block, NULL), 0);
        assert_false(block->active);
    }
    bench_close(&bench);
}

static void test_one_owner_at_a_time(void **state)
{
    struct bench bench;
    struct block *other, *reader[2];
    struct ferry_error err = {0};
    (void)state;
    bench_open(&bench);
    bench_activate(&bench);
    /* Looking at a locked disk is fine, owning it is not. */
    assert_int_equal(raw_file_open(bench.path, false, SIZE, false, &other, NULL), 0);
    assert_int_equal(other->ops->activate(other, &err), -EBUSY);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_string_equal(err.about, bench.path);
    assert_non_null(strstr(err.message, "in use by another machine"));
    assert_false(other->active);
    /* Opening and closing elsewhere does not drop the lock, as a POSIX lock would. */
    close(open(bench.path, O_RDWR | O_CLOEXEC));
    assert_int_equal(other->ops->activate(other, NULL), -EBUSY);
    for (unsigned n = 0; n < 2; n++) {
        assert_int_equal(raw_file_open(bench.path, true, SIZE, false, &reader[n], NULL), 0);
        assert_int_equal(reader[n]->ops->activate(reader[n], NULL), -EBUSY);
    }
    assert_int_equal(bench.block->ops->release(bench.block, NULL), 0);
    for (unsigned n = 0; n < 2; n++) /* readers may be many */
        assert_int_equal(reader[n]->ops->activate(reader[n], NULL), 0);
    assert_int_equal(other->ops->activate(other, NULL), -EBUSY);
    for (unsigned n = 0; n < 2; n++)
        reader[n]->ops->close(reader[n]);
    assert_int_equal(other->ops->activate(other, NULL), 0);
    other->ops->close(other);
    bench_close(&bench);
}

static void test_the_lock_dies_with_the_process(void **state)
{
    struct bench bench;
    int pipe_fds[2];
    char byte;
    (void)state;
    bench_open(&bench);
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* whatever becomes of the test */
        int rc = bench.block->ops->activate(bench.block, NULL);
        byte = rc ? 'n' : 'y';
        if (write(pipe_fds[1], &byte, 1) == 1)
            pause();
        _exit(0);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    assert_int_equal(bench.block->ops->activate(bench.block, NULL), -EBUSY);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    bench_activate(&bench);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    bench_close(&bench);
}

static void test_readonly(void **state)
{
    struct bench bench;
    struct block *block;
    uint8_t buffer[512] = {0};
    (void)state;
    bench_open(&bench);
    assert_int_equal(raw_file_open(bench.path, true, 0, false, &block, NULL), 0);
    assert_int_equal(block->ops->activate(block, NULL), 0);
    assert_int_equal(move(block, buffer, 512, 0, false), 0);
    assert_int_equal(move(block, buffer, 512, 0, true), -EROFS);
    assert_int_equal(block->ops->discard(block, 0, 512), -EROFS);
    assert_int_equal(block->ops->write_zeroes(block, 0, 512, false), -EROFS);
    assert_int_equal(block->ops->flush(block), 0);
    block->ops->close(block);
    bench_close(&bench);
}

static void test_what_is_no_disk(void **state)
{
    struct bench bench;
    struct block *block = NULL;
    struct ferry_error err = {0};
    char path[128];
    (void)state;
    bench_open(&bench);
    snprintf(path, sizeof(path), "%s/other", bench.folder);
    assert_int_equal(raw_file_open(path, false, 0, false, &block, &err), -ENOENT);
    assert_string_equal(err.about, path);
    assert_int_equal(raw_file_open(path, false, 0, true, &block, NULL), -ENOENT);
    assert_int_not_equal(raw_file_open(bench.folder, true, 0, false, &block, NULL), 0);
    assert_int_not_equal(raw_file_open("/dev/null", false, 0, false, &block, NULL), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_not_equal(raw_file_open(path, true, 0, false, &block, NULL), 0); /* and no hang */
    unlink(path);
    const size_t bad[] = {0, 1, 511, 513};
    for (unsigned n = 0; n < 4; n++) {
        make_file(path, bad[n]);
        assert_int_equal(raw_file_open(path, false, 0, false, &block, NULL), -EINVAL);
    }
    unlink(path);
    assert_null(block);
    bench_close(&bench);
}

static void test_another_size_is_refused(void **state)
{
    struct bench bench;
    struct block *block;
    struct ferry_error err = {0};
    (void)state;
    bench_open(&bench);
    assert_int_equal(raw_file_open(bench.path, false, SIZE + 512, false, &block, &err), -EINVAL);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_int_equal(truncate(bench.path, SIZE * 2), 0); /* between looking and owning */
    assert_int_equal(bench.block->ops->activate(bench.block, &err), -EINVAL);
    assert_false(bench.block->active);
    bench_close(&bench);
}

/* The descriptor that holds path; the disk's own. */
static int find_fd(const char *path)
{
    for (int fd = 3; fd < 256; fd++) {
        char link[64], target[128] = "";
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof(target) - 1) > 0 && strcmp(target, path) == 0)
            return fd;
    }
    fail_msg("%s is not open", path);
    return -1;
}

static void test_a_failed_flush_is_final(void **state)
{
    struct bench bench;
    struct ferry_error err = {0};
    int pipe_fds[2];
    (void)state;
    bench_open(&bench);
    bench_activate(&bench);
    struct block *block = bench.block;
    assert_int_equal(block->ops->flush(block), 0);
    int fd = find_fd(bench.path), kept = dup(fd);
    assert_true(kept >= 0);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(dup2(pipe_fds[0], fd), fd); /* nothing that could be flushed */
    assert_true(block->ops->flush(block) < 0);
    assert_int_equal(dup2(kept, fd), fd); /* all is well again, but what was lost stays lost */
    assert_true(block->ops->flush(block) < 0);
    assert_true(block->ops->release(block, &err) < 0);
    assert_true(block->active);
    assert_string_equal(err.about, bench.path);
    close(kept);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    bench_close(&bench);
}

/* The destination of a move: the file comes to be while it waits. */
static void test_absent_until_activated(void **state)
{
    struct bench bench;
    struct block *block;
    char path[128];
    (void)state;
    bench_open(&bench);
    snprintf(path, sizeof(path), "%s/later", bench.folder);
    assert_int_equal(raw_file_open(path, false, SIZE, true, &block, NULL), 0);
    assert_int_equal(block->size_bytes, SIZE);
    assert_int_equal(block->ops->activate(block, NULL), -ENOENT);
    make_file(path, SIZE);
    assert_int_equal(block->ops->activate(block, NULL), 0);
    block->ops->close(block);
    unlink(path);
    bench_close(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_io_matches_a_model),
        cmocka_unit_test(test_holes),
        cmocka_unit_test(test_ranges_past_the_end_are_refused),
        cmocka_unit_test(test_nothing_works_without_ownership),
        cmocka_unit_test(test_one_owner_at_a_time),
        cmocka_unit_test(test_the_lock_dies_with_the_process),
        cmocka_unit_test(test_readonly),
        cmocka_unit_test(test_what_is_no_disk),
        cmocka_unit_test(test_another_size_is_refused),
        cmocka_unit_test(test_a_failed_flush_is_final),
        cmocka_unit_test(test_absent_until_activated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

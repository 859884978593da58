/* Files: whole transfers, and files that appear complete or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"

static char folder[] = "/tmp/ferry-test-file-XXXXXX";
static char path[64];

static int make_folder(void **unused)
{
    (void)unused;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/it", folder);
    return 0;
}

static int remove_folder(void **unused)
{
    (void)unused;
    unlink(path);
    return rmdir(folder); /* fails, and so does the group, if anything was left behind */
}

static int count_entries(void)
{
    DIR *d = opendir(folder);
    int count = 0;
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return count;
}

static void expect_content(const char *text)
{
    CLEANUP_FREE uint8_t *data = NULL;
    size_t size;
    assert_int_equal(file_read(path, 1000, &data, &size, NULL), 0);
    assert_int_equal(size, strlen(text));
    assert_string_equal((char *)data, text);
}

static void test_appears_on_commit_only(void **unused)
{
    (void)unused;
    struct atomic_file f;
    struct ferry_error err;
    struct stat st;
    assert_int_equal(atomic_file_open(&f, path, &err), 0);
    assert_int_equal(write_all(f.fd, "one", 3), 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(atomic_file_commit(&f, &err), 0);
    expect_content("one");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_abandon_keeps_the_old(void **unused)
{
    (void)unused;
    struct atomic_file f;
    assert_int_equal(atomic_file_write(path, "old", 3, NULL), 0);
    assert_int_equal(atomic_file_open(&f, path, NULL), 0);
    assert_int_equal(write_all(f.fd, "new", 3), 0);
    atomic_file_abandon(&f);
    atomic_file_abandon(&f);
    expect_content("old");
}

static void test_fresh_replaces_nothing(void **unused)
{
    (void)unused;
    struct atomic_file f;
    unlink(path);
    assert_int_equal(atomic_file_open(&f, path, NULL), 0);
    f.fresh = true;
    assert_int_equal(write_all(f.fd, "first", 5), 0);
    assert_int_equal(atomic_file_commit(&f, NULL), 0);
    expect_content("first");
    assert_int_equal(atomic_file_open(&f, path, NULL), 0);
    f.fresh = true;
    assert_int_equal(write_all(f.fd, "second", 6), 0);
    assert_int_equal(atomic_file_commit(&f, NULL), -EEXIST);
    expect_content("first");
    assert_int_equal(count_entries(), 1); /* and the temporary name is gone */
}

static void test_only_files_are_replaced(void **unused)
{
    (void)unused;
    struct atomic_file f;
    struct stat st;
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(atomic_file_open(&f, path, NULL), -EEXIST);
    assert_int_equal(f.fd, -1);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(atomic_file_write(path, "x", 1, NULL), -EEXIST);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(unlink(path), 0);
}

/* A child writes the file piece by piece under a size limit and dies of it, or is killed. */
static void die_while_writing(rlim_t limit)
{
    pid_t child = fork();
    if (!child) {
        const struct rlimit most = {limit, limit};
        struct atomic_file f;
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &most) || atomic_file_open(&f, path, NULL))
            _exit(1);
        int error = 0;
        for (int i = 0; i < 8 && !error; i++)
            error = write_all(f.fd, "12345678", 8);
        if (error) {
            atomic_file_abandon(&f);
            _exit(error == -EFBIG ? 0 : 2);
        }
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(limit < 64 ? WIFEXITED(status) && !WEXITSTATUS(status) : WIFSIGNALED(status));
}

static void test_full_disk_and_kill_keep_the_old(void **unused)
{
    (void)unused;
    assert_int_equal(atomic_file_write(path, "old", 3, NULL), 0);
    for (rlim_t limit = 1; limit < 64; limit += 7)
        die_while_writing(limit);
    expect_content("old");
    die_while_writing(1000);
    expect_content("old");
    assert_int_equal(count_entries(), 1); /* not even SIGKILL leaves anything */
}

static void test_bad_paths(void **unused)
{
    (void)unused;
    struct atomic_file f;
    struct ferry_error err;
    char text[600];
    assert_int_equal(atomic_file_open(&f, "/nonexistent-folder/x", &err), -ENOENT);
    assert_non_null(strstr(ferry_error_text(&err, text, sizeof(text)), "/nonexistent-folder"));
    assert_int_equal(atomic_file_open(&f, "/tmp/..", &err), -EISDIR);
    assert_int_equal(atomic_file_open(&f, "/", &err), -EISDIR);
    assert_int_equal(f.fd, -1);
}

static void test_file_read_limits(void **unused)
{
    (void)unused;
    uint8_t *data = NULL;
    size_t size;
    struct ferry_error err;
    assert_int_equal(atomic_file_write(path, "12345", 5, NULL), 0);
    assert_int_equal(file_read(path, 4, &data, &size, &err), -EFBIG);
    assert_int_equal(file_read(folder, 100, &data, &size, &err), -EINVAL);
    assert_int_equal(file_read("/nonexistent", 4, &data, &size, &err), -ENOENT);
    assert_null(data);
}

static void test_whole_transfers(void **unused)
{
    (void)unused;
    int fds[2];
    char got[12];
    char a[] = "hello", b[] = "", c[] = " world";
    struct iovec iov[3] = {{a, 5}, {b, 0}, {c, 6}};
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(writev_all(fds[1], iov, 3), 0);
    assert_int_equal(read_all(fds[0], got, 11), 0);
    assert_memory_equal(got, "hello world", 11);
    assert_int_equal(write_all(fds[1], "abc", 3), 0);
    close(fds[1]);
    assert_int_equal(read_all(fds[0], got, 4), -ENODATA);
    close(fds[0]);
    CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(pwrite_all(fd, "xyz", 3, 100), 0);
    assert_int_equal(pread_all(fd, got, 3, 100), 0);
    assert_memory_equal(got, "xyz", 3);
    assert_int_equal(pread_all(fd, got, 4, 100), -ENODATA);
    assert_int_equal(pread_all(-1, got, 4, 100), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appears_on_commit_only),
        cmocka_unit_test(test_abandon_keeps_the_old),
        cmocka_unit_test(test_fresh_replaces_nothing),
        cmocka_unit_test(test_only_files_are_replaced),
        cmocka_unit_test(test_full_disk_and_kill_keep_the_old),
        cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_file_read_limits),
        cmocka_unit_test(test_whole_transfers),
    };
    return cmocka_run_group_tests_name("file", tests, make_folder, remove_folder);
}

/* Folders that appear complete or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/atomic_folder.h"
#include "common/cleanup.h"

static char scratch[] = "/tmp/ferry-test-folder-XXXXXX";
static char path[64];

static int make_scratch(void **unused)
{
    (void)unused;
    if (!mkdtemp(scratch))
        return -1;
    snprintf(path, sizeof(path), "%s/it", scratch);
    return 0;
}

static int remove_scratch(void **unused)
{
    (void)unused;
    return rmdir(scratch); /* fails, and so does the group, if anything was left behind */
}

static int count_entries(void)
{
    DIR *d = opendir(scratch);
    int count = 0;

    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        count += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return count;
}

/* Two levels of folders, a file in each. */
static void fill(int fd)
{
    CLEANUP_FD int file = openat(fd, "file", O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    assert_int_equal(mkdirat(fd, "inner", 0700), 0);
    CLEANUP_FD int inner = openat(fd, "inner/file", O_CREAT | O_WRONLY, 0600);
    assert_true(inner >= 0);
}

static void test_appears_on_commit_only(void **unused)
{
    struct atomic_folder f;
    struct ferry_error err;
    char text[128];

    (void)unused;
    assert_int_equal(atomic_folder_open(&f, path, &err), 0);
    fill(f.fd);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(atomic_folder_commit(&f, &err), 0);
    snprintf(text, sizeof(text), "%s/inner/file", path);
    assert_int_equal(access(text, F_OK), 0);
    assert_int_equal(count_entries(), 1);

    /* There is one now: it is never replaced. */
    assert_int_equal(atomic_folder_open(&f, path, &err), -EEXIST);
    assert_non_null(strstr(err.message, "is there already"));
    assert_int_equal(unlink(text), 0);
    snprintf(text, sizeof(text), "%s/inner", path);
    assert_int_equal(rmdir(text), 0);
    snprintf(text, sizeof(text), "%s/file", path);
    assert_int_equal(unlink(text), 0);
    assert_int_equal(rmdir(path), 0);
}

static void test_abandon_leaves_nothing(void **unused)
{
    struct atomic_folder f;

    (void)unused;
    assert_int_equal(atomic_folder_open(&f, path, NULL), 0);
    fill(f.fd);
    assert_int_equal(count_entries(), 1);
    atomic_folder_abandon(&f);
    assert_int_equal(count_entries(), 0);
    atomic_folder_abandon(&f);
}

/* Something takes the name meanwhile: that stays, and ours goes. */
static void test_name_taken_meanwhile(void **unused)
{
    struct atomic_folder f;
    struct ferry_error err;

    (void)unused;
    assert_int_equal(atomic_folder_open(&f, path, NULL), 0);
    fill(f.fd);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(atomic_folder_commit(&f, &err), -EEXIST);
    assert_int_equal(count_entries(), 1);
    assert_int_equal(rmdir(path), 0);
}

static void test_bad_names(void **unused)
{
    struct atomic_folder f;

    (void)unused;
    assert_int_equal(atomic_folder_open(&f, "/", NULL), -EISDIR);
    assert_int_equal(atomic_folder_open(&f, "..", NULL), -EISDIR);
    assert_int_equal(atomic_folder_open(&f, "/nowhere/at/all", NULL), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appears_on_commit_only),
        cmocka_unit_test(test_abandon_leaves_nothing),
        cmocka_unit_test(test_name_taken_meanwhile),
        cmocka_unit_test(test_bad_names),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}

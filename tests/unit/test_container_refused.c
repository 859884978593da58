/* Containers: what must be refused in one, and one with very many members. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "imagefmt/foreign/container.h"
#include "imagefmt/foreign/source.h"
#include "imagefmt/foreign/stream.h"
#include "tests/support/test_folder.h"

static void ok(int result, const struct ferry_error *err)
{
    if (result)
        fail_msg("%d: %s: %s (%s)", result, err->about, err->message, err->cause);
}

static struct stream *stream_of(int fd)
{
    struct stream *stream;

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(stream_of_fd(fd, "stream", &stream, NULL), 0);
    return stream;
}

static void refuse_index(int fd, bool is_folder, const char *says)
{
    CLEANUP(source_cleanup) struct source *source = NULL;
    struct container_index *index = NULL;
    struct ferry_error err = {0};

    if (!is_folder)
        assert_int_equal(source_of_fd(fd, "tar", &source, NULL), 0);
    int error = is_folder ? container_index_folder(fd, "folder", 4, &index, &err)
                          : container_index_tar(source, 4, &index, &err);
    if (error >= 0 || err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("%d, kind %d: '%s' does not say '%s'", error, err.kind, err.message, says);
}

static void refuse_stream(int fd, const char *says)
{
    CLEANUP(stream_cleanup) struct stream *file = stream_of(fd);
    struct container_stream *s = NULL;
    struct container_member m;
    struct ferry_error err = {0};

    int more = container_stream_open(file, 4, &s, &err);
    if (!more)
        do
            more = container_stream_next(s, &m, &err);
        while (more > 0);
    container_stream_close(s);
    if (more >= 0 || err.kind != FERRY_REFUSED || !strstr(err.message, says))
        fail_msg("%d, kind %d: '%s' does not say '%s'", more, err.kind, err.message, says);
}

static void __attribute__((format(printf, 2, 3))) refuse(const char *says, const char *format, ...)
{
    char script[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(script, sizeof(script), format, arguments);
    va_end(arguments);
    assert_int_equal(shell("rm -rf a.tar in; mkdir in; cd in; echo text > t; %s", script), 0);
    CLEANUP_FD int fd = test_folder_open("a.tar", O_RDONLY);
    refuse_index(fd, false, says);
    refuse_stream(fd, says);
}

static void test_refused_members(void **state)
{
    (void)state;
    refuse("symbolic link", "ln -s t l; tar -cf ../a.tar t l");
    refuse("hard link", "ln t l; tar -cf ../a.tar t l");
    refuse("fifo", "mkfifo f; tar -cf ../a.tar t f");
    refuse("device", "tar -cf ../a.tar t --transform 's,^null,n,' -C /dev null");
    refuse("absolute", "tar -P -cf ../a.tar t --transform 's,^t,/tmp/t,'");
    refuse("leads elsewhere", "tar -P -cf ../a.tar t --transform 's,^t,x/../../t,'");
    refuse("leads elsewhere", "tar -P -cf ../a.tar t --transform 's,^t,..,'");
    refuse("leads elsewhere", "tar -P -cf ../a.tar t --transform 's,^t,x//y,'");
    refuse("control", "f=$(printf 'x\\ay'); cp t \"$f\"; tar -cf ../a.tar \"$f\"");
    refuse("two members", "cp t u; tar --hard-dereference -cf ../a.tar t u t");
    refuse("two members", "tar --hard-dereference -cf ../a.tar t ./t");
    refuse("more than 4", "touch u v w x; tar -cf ../a.tar t u v w x");
    refuse("more than 4", "mkdir u v w x; tar -cf ../a.tar t u v w x");
    refuse("1025 bytes", "tar -cf ../a.tar t --transform \"s,^t,$(printf '%%1025s' | tr ' ' n),\"");
    refuse("sparse", "truncate -s 1M s; echo x >> s; tar --format=gnu -S -cf ../a.tar s");
    refuse("sparse", "truncate -s 1M s; echo x >> s; tar --format=pax -S --sparse-version=1.0 "
                     "-cf ../a.tar s");
    refuse("sparse", "truncate -s 1M s; echo x >> s; tar --format=pax -S --sparse-version=0.1 "
                     "-cf ../a.tar s");
    refuse("sparse", "truncate -s 1M s; echo x >> s; tar --format=pax -S --sparse-version=0.0 "
                     "-cf ../a.tar s t");
    refuse("tar", "gzip < t > ../a.tar");
    refuse("tar", ": > ../a.tar");
}

/* In GNU's way for sparse files, but without a hole, and shorter than what is stored. */
static void test_refused_without_holes(void **state)
{
    const char *script =
        "python3 -c 'import io, tarfile\n"
        "t = tarfile.open(\"../a.tar\", \"w\", format=tarfile.PAX_FORMAT)\n"
        "i = tarfile.TarInfo(\"t\"); i.size = 1536; i.pax_headers = {\"GNU.sparse.major\": \"1\", "
        "\"GNU.sparse.minor\": \"0\", \"GNU.sparse.name\": \"t\", "
        "\"GNU.sparse.realsize\": \"100\"}\n"
        "t.addfile(i, io.BytesIO(b\"1\\n0\\n1024\\n\".ljust(512, b\"\\0\") + b\"x\" * 1024))\n"
        "t.close()'";

    (void)state;
    assert_int_equal(shell("mkdir in; cd in; %s", script), 0);
    CLEANUP_FD int fd = test_folder_open("a.tar", O_RDONLY);
    refuse_index(fd, false, "not stored plainly");
    refuse_stream(fd, "sparse");
}

static void test_refused_ends(void **state)
{
    (void)state;
    /* header, 1 block, header, 1 block, mark */
    refuse("cut short", "cp t u; tar -cf - t u | head -c 2048 > ../a.tar");
    refuse("tar", "cp t u; tar -cf - t u | head -c 2000 > ../a.tar");
    refuse("tar", "cp t u; tar -cf - t u | head -c 1300 > ../a.tar");
    refuse("tar", "cp t u; tar -cf - t u | head -c 700 > ../a.tar");
    refuse("tar", "tar -cf - t | head -c 100 > ../a.tar");
    /* a broken sum of a header */
    refuse("tar", "cp t u; tar -cf ../a.tar t u; printf X | dd of=../a.tar bs=1 seek=1100 "
                  "conv=notrunc status=none");
}

static void test_refused_folders(void **state)
{
    static const struct {
        const char *script, *says;
    } cases[] = {
        {"ln -s ../t l", "neither"},
        {"mkfifo f", "neither"},
        {"mkdir -p a/b/c/d/e", "deeper"},
        {"touch 1 2 3 4 5", "more than 4"},
        {"touch \"$(printf 'x\\ny')\"", "control"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(shell("rm -rf in; mkdir in; cd in; %s", cases[i].script), 0);
        CLEANUP_FD int fd = test_folder_open("in", O_RDONLY | O_DIRECTORY);
        refuse_index(fd, true, cases[i].says);
    }
}

/* What was indexed is replaced by a link to elsewhere before it is opened. */
static void test_folder_that_changes(void **state)
{
    struct container_index *index = NULL;
    struct source *source = NULL;
    struct ferry_error err = {0};

    (void)state;
    assert_int_equal(shell("mkdir -p in/sub; echo text > in/sub/t; echo text > in/u"), 0);
    CLEANUP_FD int fd = test_folder_open("in", O_RDONLY | O_DIRECTORY);
    ok(container_index_folder(fd, "in", 4, &index, &err), &err);
    assert_int_equal(shell("mkdir out; echo text > out/t; rm -r in/sub; ln -s ../out in/sub; "
                           "echo more >> in/u"),
                     0);
    assert_int_equal(container_source(index, container_find(index, "sub/t"), &source, &err),
                     -ELOOP);
    assert_int_equal(container_source(index, container_find(index, "u"), &source, &err), -EAGAIN);
    container_index_close(index);
}

/* ---- Many members ---- */

#define MANY 300000

/* A tar of empty members whose names count up; the last one may be called as the first. */
struct many {
    struct source source;
    bool twice;
};

static int pread_many(struct source *source, uint64_t offset, void *data, size_t size,
                      struct ferry_error *err)
{
    const struct many *many = (const struct many *)source;
    uint8_t *at = data;

    (void)err;
    memset(data, 0, size);
    assert_true(offset % 512 == 0 && size % 512 == 0);
    for (; size && offset / 512 < MANY; size -= 512, offset += 512, at += 512) {
        uint64_t number = offset / 512;
        unsigned sum = 0;
        snprintf((char *)at, 100, "%07llu",
                 (unsigned long long)(many->twice && number == MANY - 1 ? 0 : number));
        snprintf((char *)at + 100, 8, "%07o", 0644);
        snprintf((char *)at + 124, 12, "%011o", 0);
        memset(at + 148, ' ', 8);
        at[156] = '0';
        snprintf((char *)at + 257, 6, "ustar");
        for (int i = 0; i < 512; i++)
            sum += at[i];
        snprintf((char *)at + 148, 8, "%06o", sum);
    }
    return 0;
}

static void test_many_members(void **state)
{
    struct many many = {
        .source = {.pread = pread_many, .size_bytes = (MANY + UINT64_C(2)) * 512, .about = "many"}};
    struct container_index *index = NULL;
    struct ferry_error err = {.code = 0};

    (void)state;
    assert_int_equal(container_index_tar(&many.source, LIMIT_MEMBERS, &index, &err), -E2BIG);
    ok(container_index_tar(&many.source, MANY, &index, &err), &err);
    assert_int_equal(container_members(index), MANY);
    assert_ptr_equal(container_find(index, "0277777"), container_member(index, 277777));
    container_index_close(index);
    many.twice = true;
    assert_int_equal(container_index_tar(&many.source, MANY, &index, &err), -EEXIST);
    CLEANUP(stream_cleanup) struct stream *stream = NULL;
    struct container_stream *s;
    struct container_member m;
    int more;
    ok(stream_of_source(&many.source, &stream, &err), &err);
    ok(container_stream_open(stream, MANY, &s, &err), &err);
    do
        more = container_stream_next(s, &m, &err);
    while (more == 1);
    container_stream_close(s);
    assert_int_equal(more, -EEXIST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_IN_FOLDER(test_refused_members),     TEST_IN_FOLDER(test_refused_without_holes),
        TEST_IN_FOLDER(test_refused_ends),        TEST_IN_FOLDER(test_refused_folders),
        TEST_IN_FOLDER(test_folder_that_changes), cmocka_unit_test(test_many_members),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

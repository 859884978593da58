/* Disks on web servers: what an answer says, and what of a URL may be shown.  (tests/cli/http.sh
 * has the rest, with a server.) */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "imagefmt/foreign/http.h"
#include "imagefmt/foreign/http_answer.h"
#include "imagefmt/foreign/http_url.h"

static struct http_answer answer_of(const char *line)
{
    struct http_answer a = {0};

    assert_true(http_answer_line(&a, "HTTP/1.1 206 Partial Content\r\n", 30));
    assert_true(http_answer_line(&a, line, strlen(line)));
    return a;
}

static void assert_range(const char *line, uint64_t from, uint64_t end, uint64_t total)
{
    const struct http_answer a = answer_of(line);

    assert_int_equal(a.status, 206);
    assert_true(a.ranged);
    assert_false(a.unsatisfied);
    assert_int_equal(a.from, from);
    assert_int_equal(a.end, end);
    assert_int_equal(a.total, total);
}

static void test_ranges(void **state)
{
    static const char *const senseless[] = {
        "Content-Range: bytes 5-4/10\r\n",
        "Content-Range: bytes 0-10/10\r\n",
        "Content-Range: bytes 0-/10\r\n",
        "Content-Range: bytes -9/10\r\n",
        "Content-Range: bytes 0-9\r\n",
        "Content-Range: bytes 0-9/\r\n",
        "Content-Range: bytes 0-9/10x\r\n",
        "Content-Range: bytes 0-9/10, bytes 0-9/10\r\n",
        "Content-Range: items 0-9/10\r\n",
        "Content-Range: bytes 0-18446744073709551615/*\r\n",
        "Content-Range: bytes 0-9/18446744073709551616\r\n",
        "Content-Range: bytes 0x0-9/10\r\n",
        "Content-Range: \r\n",
        "Content-Range:",
    };

    (void)state;
    assert_range("Content-Range: bytes 0-9/10\r\n", 0, 10, 10);
    assert_range("content-range:bytes 512-1023/1099511627776\n", 512, 1024, TIB);
    assert_range("CONTENT-RANGE: \t Bytes 7-7/*\r\n", 7, 8, HTTP_SIZE_UNKNOWN);
    struct http_answer none = answer_of("Content-Range: bytes */77\r\n");
    assert_true(none.ranged && none.unsatisfied);
    assert_int_equal(none.total, 77);
    for (size_t i = 0; i < sizeof(senseless) / sizeof(*senseless); i++)
        if (answer_of(senseless[i]).ranged)
            fail_msg("%s", senseless[i]);
}

static void test_validators(void **state)
{
    char line[400] = "ETag: ";

    (void)state;
    assert_string_equal(answer_of("ETag: \"abc\" \r\n").etag, "\"abc\"");
    assert_string_equal(answer_of("etag: W/\"abc\"\r\n").etag, "W/\"abc\"");
    assert_string_equal(answer_of("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n").modified,
                        "Mon, 01 Jan 2024 00:00:00 GMT");
    /* What would be another header if it were sent back, or is too long. */
    assert_string_equal(answer_of("ETag: \"a\"\rX: y\r\n").etag, "");
    assert_string_equal(answer_of("ETag: \"a\x7f\"\r\n").etag, "");
    assert_string_equal(answer_of("ETag: \"\xc3\xa4\"\r\n").etag, "");
    memset(line + 6, 'x', sizeof(line) - 7);
    assert_string_equal(answer_of(line).etag, "");
    assert_true(answer_of("Content-Encoding: gzip\r\n").encoded);
    assert_false(answer_of("Content-Encoding: Identity\r\n").encoded);
}

/* Only the last response counts, but the lines of all of them are limited. */
static void test_several(void **state)
{
    struct http_answer a = answer_of("ETag: \"first\"\r\n");
    char line[1000];
    int lines = 0;

    (void)state;
    assert_true(http_answer_line(&a, "HTTP/2 200 \r\n", 13));
    assert_int_equal(a.status, 200);
    assert_string_equal(a.etag, "");
    assert_true(http_answer_line(&a, "HTTP/1.1 9999\r\n", 15));
    assert_int_equal(a.status, 0);
    assert_true(http_answer_line(&a, "", 0));
    memset(line, 'x', sizeof(line));
    while (http_answer_line(&a, line, sizeof(line))) {
        assert_true(http_answer_line(&a, "HTTP/1.1 200\r\n", 14));
        assert_in_range(++lines, 1, LIMIT_HTTP_HEADER_BYTES / sizeof(line));
    }
}

static void test_urls(void **state)
{
    static const char *const bad[] = {
        "ftp://host/x",       "file:///etc/passwd", "http://", "disk.raw",
        "http://host:99999/", "http://a b/x",       "-"};
    struct http_url url;
    struct ferry_error err = {0};

    (void)state;
    assert_int_equal(
        http_url_parse("HTTPS://me:pa%20ss@Host.example:8443/a/b.raw?sign=secret#x", &url, &err),
        0);
    assert_string_equal(url.about, "https://Host.example:8443/a/b.raw?...");
    assert_string_equal(url.user, "me");
    assert_string_equal(url.password, "pa ss");
    assert_null(strstr(url.url, "pa"));
    assert_non_null(strstr(url.url, "?sign=secret"));
    assert_null(strchr(url.url, '#'));
    http_url_free(&url);
    assert_int_equal(http_url_parse("http://[::1]/x", &url, &err), 0);
    assert_string_equal(url.about, "http://[::1]/x");
    assert_null(url.user);
    http_url_free(&url);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(http_url_parse(bad[i], &url, &err), -EINVAL);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    char *long_one = calloc(1, LIMIT_URL_BYTES + 2);
    snprintf(long_one, LIMIT_URL_BYTES + 2, "http://host/%0*d", (int)LIMIT_URL_BYTES - 11, 0);
    assert_int_equal(http_url_parse(long_one, &url, &err), -EINVAL);
    free(long_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_validators),
        cmocka_unit_test(test_several),
        cmocka_unit_test(test_urls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

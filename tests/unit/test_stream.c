/* Addresses, listening and connecting: what is refused, and that sockets are left tidy. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/limits.h"
#include "transport/stream.h"
#include "transport/uri.h"

static void test_uris_that_are_fine(void **state)
{
    struct uri u;

    (void)state;
    assert_int_equal(uri_parse("unix:/run/x", &u, NULL), 0);
    assert_int_equal(u.kind, URI_UNIX);
    assert_string_equal(u.path, "/run/x");
    assert_int_equal(uri_parse("tcp://host.example:4444", &u, NULL), 0);
    assert_int_equal(u.kind, URI_TCP);
    assert_string_equal(u.host, "host.example");
    assert_int_equal(u.port, 4444);
    assert_int_equal(uri_parse("tcp://[fe80::1]:1", &u, NULL), 0);
    assert_string_equal(u.host, "fe80::1");
    assert_int_equal(u.port, 1);
    assert_int_equal(uri_parse("tcp://:0", &u, NULL), 0);
    assert_string_equal(u.host, "");
}

static void test_uris_that_are_refused(void **state)
{
    static const char *const bad[] = {
        "",           "unix:",          "/run/x",      "tcp:host:1",   "tcp://host",
        "tcp://h:",   "tcp://h:65536",  "tcp://h:-1",  "tcp://h:1x",   "tcp://::1:80",
        "tcp://[::1", "tcp://[::1]80",  "tcp://[::1]", "ftp://host:1", "unix",
        "TCP://h:1",  "tls://host:123", "ssh://host",
    };
    char path[200];
    struct uri u;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ferry_error err = {0};
        if (uri_parse(bad[i], &u, &err) != -EINVAL)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_int_equal(err.kind, FERRY_USAGE);
    }
    memset(path, 'a', sizeof(path));
    path[sizeof(path) - 1] = 0;
    memcpy(path, "unix:/", 6);
    assert_int_equal(uri_parse(path, &u, NULL), -EINVAL);
}

static void test_tcp_beyond_loopback_needs_insecure(void **state)
{
    struct ferry_error err = {0};
    struct listener *l;
    struct stream *s;

    (void)state;
    assert_int_equal(listener_open("tcp://0.0.0.0:0", false, &l, &err), -EPERM);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "--insecure"));
    assert_int_equal(listener_open("tcp://:0", false, &l, &err), -EPERM);
    assert_int_equal(listener_open("tcp://[::]:0", false, &l, &err), -EPERM);
    err = (struct ferry_error){0};
    assert_int_equal(stream_connect("tcp://192.0.2.1:9", false, 10, &s, &err), -EPERM);
    assert_int_equal(err.kind, FERRY_REFUSED);
    assert_non_null(strstr(err.message, "--insecure"));
    assert_int_equal(stream_connect("tcp://127.0.0.1:0", false, 10, &s, &err), -EINVAL);
    assert_int_equal(listener_open("tcp://0.0.0.0:0", true, &l, NULL), 0);
    listener_close(l);
}

static void talk(struct listener *l)
{
    struct stream *client, *server;
    char said[] = "hello";
    struct iovec hello = {said, 5};
    char text[6] = "";

    assert_int_equal(stream_connect(listener_uri(l), false, 1000, &client, NULL), 0);
    assert_int_equal(listener_accept(l, &server, NULL), 0);
    assert_int_equal(client->ops->writev(client, &hello, 1, 1000), 5);
    assert_int_equal(server->ops->read(server, text, 5, 1000), 5);
    assert_string_equal(text, "hello");
    assert_int_equal(server->ops->read(server, text, 5, 1), -ETIMEDOUT);
    assert_true(server->ops->peer(server)[0]);
    stream_close(client);
    assert_int_equal(server->ops->read(server, text, 5, 1000), 0);
    stream_close(server);
}

static void test_tcp_with_a_port_of_the_kernels(void **state)
{
    struct listener *l;

    (void)state;
    assert_int_equal(listener_open("tcp://127.0.0.1:0", false, &l, NULL), 0);
    assert_null(strstr(listener_uri(l), ":0\0"));
    talk(l);
    listener_close(l);
}

static void test_unix_socket_is_private_and_removed(void **state)
{
    char folder[] = "/tmp/ferry-stream-XXXXXX", uri[96], path[64];
    struct stat st;
    struct listener *l, *second;
    struct ferry_error err = {0};

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/s", folder);
    snprintf(uri, sizeof(uri), "unix:%s", path);
    assert_int_equal(listener_open(uri, false, &l, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    talk(l);
    /* One that is served is not replaced. */
    assert_int_equal(listener_open(uri, false, &second, &err), -EADDRINUSE);
    listener_close(l);
    assert_int_equal(stat(path, &st), -1);

    /* A stale one is. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    struct stream *s;
    assert_int_equal(stream_connect(uri, false, 100, &s, &err), -ECONNREFUSED);
    assert_int_equal(listener_open(uri, false, &l, NULL), 0);
    talk(l);
    listener_close(l);

    /* A file is left alone. */
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(listener_open(uri, false, &l, &err), -EEXIST);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    unlink(path);
    assert_int_equal(stream_connect(uri, false, 100, &s, &err), -ENOENT);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uris_that_are_fine),
        cmocka_unit_test(test_uris_that_are_refused),
        cmocka_unit_test(test_tcp_beyond_loopback_needs_insecure),
        cmocka_unit_test(test_tcp_with_a_port_of_the_kernels),
        cmocka_unit_test(test_unix_socket_is_private_and_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The control socket: honest clients, hostile lines, answers that come late, descriptors. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/file.h"
#include "common/limits.h"
#include "vmm/control.h"

struct fixture {
    char folder[64];
    char path[128];
    struct loop *loop;
    struct control *control;
    pthread_t thread;
    struct control_call *late; /* of the command "late" */
    int gone;                  /* hang-ups noticed */
};

/* ---- Commands ---- */

static void echo(struct control_call *call, void *opaque)
{
    (void)opaque;
    control_reply(call, json_deep_copy(control_arguments(call)));
}

static void refuse(struct control_call *call, void *opaque)
{
    struct ferry_error err;

    (void)opaque;
    ferry_refuse(&err, -EBUSY, "about", "message");
    control_reply_error(call, &err);
}

static void *answer_later(void *opaque)
{
    struct control_call *call = opaque;

    control_progress(call, "PROGRESS", json_pack("{s:i}", "n", 1));
    control_reply(call, NULL);
    return NULL;
}

static void threaded(struct control_call *call, void *opaque)
{
    pthread_t thread;

    (void)opaque;
    assert_int_equal(pthread_create(&thread, NULL, answer_later, call), 0);
    pthread_detach(thread);
}

static void noticed(void *opaque)
{
    struct fixture *f = opaque;
    struct control_call *call = f->late;

    f->gone++;
    f->late = NULL;
    control_reply(call, NULL); /* into nothing */
    control_event(f->control, "GONE", NULL);
}

static void late(struct control_call *call, void *opaque)
{
    struct fixture *f = opaque;

    f->late = call;
    control_on_hangup(call, noticed, f);
    control_progress(call, "STARTED", NULL);
}

/* Writes "hello" into the descriptor that came along. */
static void use_fd(struct control_call *call, void *opaque)
{
    int fd = control_take_fd(call);

    (void)opaque;
    if (fd >= 0) {
        assert_int_equal(write(fd, "hello", 5), 5);
        close(fd);
    }
    control_reply(call, json_pack("{s:b}", "fd", fd >= 0));
}

static void large(struct control_call *call, void *opaque)
{
    size_t size = LIMIT_CONTROL_LINE_BYTES / 2;
    char *text = malloc(size + 1);

    (void)opaque;
    memset(text, 'x', size);
    text[size] = 0;
    control_reply(call, json_pack("{s:s}", "text", text));
    free(text);
}

static void quit(struct control_call *call, void *opaque)
{
    struct fixture *f = opaque;

    control_reply(call, NULL);
    loop_stop(f->loop);
}

static const struct control_command commands[] = {
    {"echo", echo},     {"refuse", refuse}, {"threaded", threaded}, {"late", late},
    {"use-fd", use_fd}, {"large", large},   {"quit", quit},
};

/* ---- The server, in a thread of its own ---- */

static void *serve(void *opaque)
{
    struct fixture *f = opaque;

    assert_int_equal(loop_run(f->loop, NULL), 0);
    return NULL;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->folder, sizeof(f->folder), "/tmp/ferry-control.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    snprintf(f->path, sizeof(f->path), "%s/control.sock", f->folder);
    assert_int_equal(loop_create(&f->loop, NULL), 0);
    assert_int_equal(control_create(f->loop, f->path, commands,
                                    sizeof(commands) / sizeof(commands[0]), f, NULL, &f->control,
                                    NULL),
                     0);
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    control_destroy(f->control);
    loop_destroy(f->loop);
    assert_int_equal(access(f->path, F_OK), -1); /* the socket is gone */
    assert_int_equal(rmdir(f->folder), 0);
    free(f);
    return 0;
}

/* ---- The client ---- */

static int client(const struct fixture *f)
{
    struct timeval patience = {.tv_sec = 20};
    int fd = control_connect(f->path);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(write_all(fd, text, strlen(text)), 0);
}

/* One line; NULL at the end of the connection. */
static json_t *hear(int fd)
{
    size_t size = 0, room = 4096;
    char *line = malloc(room);

    for (;;) {
        ssize_t got = read(fd, line + size, 1);
        if (got == 0 || (got < 0 && errno == ECONNRESET)) {
            free(line);
            return NULL;
        }
        assert_int_equal(got, 1);
        if (line[size++] == '\n')
            break;
        if (size == room) {
            char *grown = realloc(line, room *= 2);
            assert_non_null(grown);
            line = grown;
        }
    }
    json_t *value = json_loadb(line, size, 0, NULL);
    free(line);
    assert_non_null(value);
    return value;
}

static void expect_return(int fd)
{
    json_t *answer = hear(fd);

    assert_non_null(json_object_get(answer, "return"));
    json_decref(answer);
}

static void expect_error(int fd, const char *class, const char *text)
{
    json_t *answer = hear(fd);
    const json_t *error = json_object_get(answer, "error");

    assert_non_null(error);
    assert_string_equal(json_string_value(json_object_get(error, "class")), class);
    assert_non_null(strstr(json_string_value(json_object_get(error, "desc")), text));
    json_decref(answer);
}

/* The server still serves. */
static void expect_alive(const struct fixture *f)
{
    int fd = client(f);

    say(fd, "{\"execute\": \"echo\"}\n");
    expect_return(fd);
    close(fd);
}

/* ---- Honest clients ---- */

static void test_call_and_answer(void **state)
{
    int fd = client(*state);

    say(fd, "{\"execute\": \"echo\", \"arguments\": {\"a\": [1, \"\\u00e4\"]}, \"id\": \"x\"}\n");
    json_t *answer = hear(fd);
    json_t *expected =
        json_loads("{\"return\": {\"a\": [1, \"\\u00e4\"]}, \"id\": \"x\"}", 0, NULL);
    assert_true(json_equal(answer, expected));
    json_decref(answer);
    json_decref(expected);
    say(fd, "\r\n\n{\"execute\": \"refuse\"}\r\n"); /* empty lines are nothing */
    expect_error(fd, "refused", "about: message");
    close(fd);
}

static void test_socket_is_private(void **state)
{
    const struct fixture *f = *state;
    struct stat st;

    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_lines_in_one_write_and_one_line_in_many(void **state)
{
    const char *text = "{\"execute\": \"echo\", \"id\": 1}\n";
    int fd = client(*state);

    say(fd, "{\"execute\": \"threaded\"}\n{\"execute\": \"echo\"}\n{\"execute\": \"nothing\"}\n");
    json_t *event = hear(fd);
    assert_string_equal(json_string_value(json_object_get(event, "event")), "PROGRESS");
    json_decref(event);
    expect_return(fd); /* in order, though the first is answered later */
    expect_return(fd);
    expect_error(fd, "usage", "no command 'nothing'");
    for (; *text; text++)
        assert_int_equal(write(fd, text, 1), 1);
    expect_return(fd);
    close(fd);
}

static void test_answer_after_the_client_shut_its_side(void **state)
{
    int fd = client(*state);

    say(fd, "{\"execute\": \"threaded\"}\n{\"execute\": \"large\"}\n");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    json_decref(hear(fd));
    expect_return(fd);
    expect_return(fd);
    assert_null(hear(fd)); /* then the server closes */
    close(fd);
}

static void test_events_reach_all_and_hangup_is_noticed(void **state)
{
    const struct fixture *f = *state;
    int watcher = client(f), fd = client(f);

    say(watcher, "{\"execute\": \"echo\"}\n"); /* it is connected for certain */
    expect_return(watcher);
    say(fd, "{\"execute\": \"late\"}\n");
    json_decref(hear(fd)); /* STARTED */
    close(fd);
    json_t *event = hear(watcher);
    assert_string_equal(json_string_value(json_object_get(event, "event")), "GONE");
    json_decref(event);
    assert_int_equal(f->gone, 1);
    close(watcher);
}

static void test_quit_is_answered(void **state)
{
    struct fixture *f = *state;
    int fd = client(f);

    say(fd, "{\"execute\": \"quit\"}\n");
    pthread_join(f->thread, NULL); /* the loop has ended, the answer is on its way */
    control_destroy(f->control);
    expect_return(fd);
    assert_null(hear(fd));
    close(fd);
    assert_int_equal(control_create(f->loop, f->path, commands, 1, f, NULL, &f->control, NULL), 0);
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

/* ---- Descriptors ---- */

static void say_with_fds(int fd, const char *text, const int *fds, size_t count)
{
    char space[CMSG_SPACE(4 * sizeof(int))] = {0};
    char line[64];
    struct iovec iov = {line, strlen(text)};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = space,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);

    snprintf(line, sizeof(line), "%s", text);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    assert_int_equal(sendmsg(fd, &message, 0), (ssize_t)strlen(text));
}

static void test_descriptor_comes_along(void **state)
{
    int fd = client(*state), ends[2];
    char text[6] = "";

    assert_int_equal(pipe(ends), 0);
    say_with_fds(fd, "{\"execute\": \"use-fd\"}\n", &ends[1], 1);
    json_t *answer = hear(fd);
    assert_true(json_is_true(json_object_get(json_object_get(answer, "return"), "fd")));
    json_decref(answer);
    close(ends[1]);
    assert_int_equal(read(ends[0], text, 5), 5);
    assert_string_equal(text, "hello");
    assert_int_equal(read(ends[0], text, 1), 0); /* nobody holds the other end any more */
    close(ends[0]);
    say(fd, "{\"execute\": \"use-fd\"}\n"); /* the next line has none */
    answer = hear(fd);
    assert_true(json_is_false(json_object_get(json_object_get(answer, "return"), "fd")));
    json_decref(answer);
    close(fd);
}

/* What nobody takes is closed: the pipe comes to its end. */
static void test_unwanted_descriptors_are_closed(void **state)
{
    int fd = client(*state), ends[2];
    char byte;

    assert_int_equal(pipe(ends), 0);
    say_with_fds(fd, "{\"execute\": \"echo\"}\n", (int[]){ends[1], ends[1], ends[1]}, 3);
    expect_return(fd);
    say_with_fds(fd, "{\"execute\": ", &ends[1], 1);
    close(ends[1]);
    close(fd);
    assert_int_equal(read(ends[0], &byte, 1), 0);
    close(ends[0]);
}

/* ---- Hostile clients ---- */

static void test_bad_lines(void **state)
{
    static const char *const bad[] = {
        "x\n",
        "{\n",
        "[]\n",
        "42\n",
        "\"execute\"\n",
        "{}\n",
        "{\"execute\": 1}\n",
        "{\"execute\": \"echo\", \"arguments\": []}\n",
        "{\"execute\": \"echo\"} x\n",
        "{\"execute\": \"echo\", \"execute\": \"quit\"}\n",
        "{\"execute\": \"\xff\xfe\"}\n",
    };
    int fd = client(*state);

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        say(fd, bad[i]);
        expect_error(fd, "usage", "control socket");
    }
    say(fd, "{\"execute\": \"echo\"}\n"); /* and the connection still works */
    expect_return(fd);
    close(fd);
}

static void test_nul_bytes(void **state)
{
    int fd = client(*state);

    assert_int_equal(write(fd, "\0\0{}\0\n", 6), 6);
    expect_error(fd, "usage", "control socket");
    close(fd);
}

static void test_deep_nesting(void **state)
{
    char line[2 * LIMIT_JSON_DEPTH + 128];
    int fd = client(*state);
    size_t length = (size_t)sprintf(line, "{\"execute\": \"echo\", \"arguments\": {\"a\": ");

    memset(line + length, '[', LIMIT_JSON_DEPTH);
    length += LIMIT_JSON_DEPTH;
    memset(line + length, ']', LIMIT_JSON_DEPTH);
    memcpy(line + length + LIMIT_JSON_DEPTH, "}}\n", sizeof("}}\n"));
    say(fd, line);
    expect_error(fd, "usage", "deeper");
    /* brackets in a string are no nesting */
    length = (size_t)sprintf(line, "{\"execute\": \"echo\", \"arguments\": {\"a\": \"\\\"");
    memset(line + length, '[', LIMIT_JSON_DEPTH + 8);
    memcpy(line + length + LIMIT_JSON_DEPTH + 8, "\"}}\n", sizeof("\"}}\n"));
    say(fd, line);
    expect_return(fd);
    close(fd);
}

static void test_line_too_long(void **state)
{
    size_t size = LIMIT_CONTROL_LINE_BYTES + 65536;
    char *line = malloc(size);
    int fd = client(*state);

    memset(line, ' ', size);
    (void)!send(fd, line, size, MSG_NOSIGNAL); /* the server may close in the middle */
    expect_error(fd, "usage", "longer");
    assert_null(hear(fd));
    close(fd);
    free(line);
    expect_alive(*state);
}

static void test_too_many_clients(void **state)
{
    int fds[LIMIT_CONTROL_CLIENTS];

    for (int i = 0; i < LIMIT_CONTROL_CLIENTS; i++) {
        fds[i] = client(*state);
        say(fds[i], "{\"execute\": \"echo\"}\n");
        expect_return(fds[i]);
    }
    int extra = client(*state);
    assert_null(hear(extra)); /* turned away */
    close(extra);
    say(fds[3], "{\"execute\": \"echo\"}\n");
    expect_return(fds[3]);
    for (int i = 0; i < LIMIT_CONTROL_CLIENTS; i++)
        close(fds[i]);
}

static void test_client_that_never_reads(void **state)
{
    int fd = client(*state);

    for (int i = 0; i < 64; i++)
        if (send(fd, "{\"execute\": \"large\"}\n", 21, MSG_NOSIGNAL) < 0)
            break;
    expect_alive(*state);
    close(fd);
    expect_alive(*state);
}

/* ---- The address ---- */

static void test_served_socket_is_not_taken(void **state)
{
    const struct fixture *f = *state;
    struct loop *loop;
    struct control *second;

    assert_int_equal(loop_create(&loop, NULL), 0);
    assert_int_equal(control_create(loop, f->path, commands, 1, NULL, NULL, &second, NULL),
                     -EADDRINUSE);
    loop_destroy(loop);
    expect_alive(f);
}

static void test_stale_socket_is_replaced_and_long_path_works(void **state)
{
    const struct fixture *f = *state;
    char folder[300], path[320];
    struct loop *loop;
    struct control *control;

    snprintf(folder, sizeof(folder), "%s/%0150d", f->folder, 0);
    snprintf(path, sizeof(path), "%s/s", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(loop_create(&loop, NULL), 0);
    assert_int_equal(control_connect(path), -ENOENT);
    assert_int_equal(control_create(loop, path, commands, 1, NULL, NULL, &control, NULL), 0);
    char keep[330];
    snprintf(keep, sizeof(keep), "%s.old", path);
    assert_int_equal(link(path, keep), 0); /* what kill -9 leaves behind */
    control_destroy(control);
    assert_int_equal(rename(keep, path), 0);
    assert_int_equal(control_connect(path), -ECONNREFUSED);
    assert_int_equal(control_create(loop, path, commands, 1, NULL, NULL, &control, NULL), 0);
    control_destroy(control);
    loop_destroy(loop);
    assert_int_equal(rmdir(folder), 0);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_call_and_answer),
        TEST(test_socket_is_private),
        TEST(test_lines_in_one_write_and_one_line_in_many),
        TEST(test_answer_after_the_client_shut_its_side),
        TEST(test_events_reach_all_and_hangup_is_noticed),
        TEST(test_quit_is_answered),
        TEST(test_descriptor_comes_along),
        TEST(test_unwanted_descriptors_are_closed),
        TEST(test_bad_lines),
        TEST(test_nul_bytes),
        TEST(test_deep_nesting),
        TEST(test_line_too_long),
        TEST(test_too_many_clients),
        TEST(test_client_that_never_reads),
        TEST(test_served_socket_is_not_taken),
        TEST(test_stale_socket_is_replaced_and_long_path_works),
    };

    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}

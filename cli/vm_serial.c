/*
 * COM1.  What the guest prints goes into one ring; each output (stdio, consoles) has a place in it
 * up to which it has written, so that a slow one costs nothing but its own losses:
 *
 *  - file:  written by the vCPU thread itself, nothing is ever lost;
 *  - stdio: when the reader is a whole ring behind, the vCPU waits for it, 100 ms at most; after
 *           that the reader counts as stalled, the guest goes on and the oldest bytes are lost
 *           until the reader has read something (a pause or a move never waits for a pipe);
 *  - console: never waited for, loses the oldest bytes.
 *
 * Outputs are written by the loop's thread, never so that it could block: sockets are non-blocking;
 * stdout may share its open file with others, so it is asked by poll for each piece of at most
 * PIPE_BUF bytes.  What is typed waits in a small buffer while COM1's FIFO is full; as long as
 * something waits there, no source is read.
 */
#include "cli/vm_serial.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/terminal.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/file.h"

#define RING_BYTES     ((size_t)256 * 1024)
#define REPLAY_BYTES   ((size_t)64 * 1024)
#define CONSOLES_MAX   8
#define OUTPUTS_MAX    (CONSOLES_MAX + 1)
#define INPUT_BYTES    1024
#define STALL_MS       100
#define INPUT_AGAIN_NS 2000000u  /* COM1's FIFO was full: when to try again */
#define UNPOLLED_NS    10000000u /* stdin that epoll cannot watch: when to look */
#define FAREWELL_MS    2000
#define ESCAPE         0x01 /* Ctrl-A, as QEMU and picocom have it */

struct output {
    struct vm_serial *serial;
    int in_fd;      /* -1: nothing is typed here */
    int out_fd;     /* -1: the slot is free; never equal to in_fd */
    bool console;   /* a socket of ours, held twice; else stdio */
    bool watched;   /* in the loop, for input */
    bool writing;   /* in the loop, for room */
    bool escaped;   /* the escape key was the last one */
    uint64_t at;    /* written up to here (ring position) */
    uint64_t until; /* end here (log only); UINT64_MAX: never */
};

struct vm_serial {
    struct loop *loop;
    struct machine *machine; /* NULL: input is not taken */
    void (*quit)(void *opaque);
    void *opaque;
    int file_fd; /* -1: none */
    pthread_mutex_t mutex;
    pthread_cond_t room;
    uint8_t *ring;
    uint64_t head;                      /* bytes printed since the start */
    bool stalled;                       /* stdio's reader does not read */
    bool posted;                        /* the loop has been told to flush */
    struct output outputs[OUTPUTS_MAX]; /* [0]: stdio */
    uint8_t input[INPUT_BYTES];
    size_t input_size;
    bool input_timer;
    bool stdin_timer;
};

static void close_output(struct output *output);
static void flush_output(struct output *output);
static void watch_inputs(struct vm_serial *serial);

/* ---- Output, vCPU side ---- */

static void append(struct vm_serial *serial, const uint8_t *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t place = serial->head % RING_BYTES;
        size_t part = size - done < RING_BYTES - place ? size - done : RING_BYTES - place;
        memcpy(serial->ring + place, data + done, part);
        serial->head += part;
        done += part;
    }
}

static bool stdio_is_full(const struct vm_serial *serial, size_t size)
{
    const struct output *stdio = &serial->outputs[0];

    return stdio->out_fd >= 0 && serial->head + size - stdio->at > RING_BYTES;
}

static void flush_posted(void *opaque)
{
    struct vm_serial *serial = opaque;
    {
        LOCK_SCOPE(&serial->mutex);
        serial->posted = false;
    }
    for (int i = 0; i < OUTPUTS_MAX; i++)
        flush_output(&serial->outputs[i]);
}

void vm_serial_output(void *opaque, const uint8_t *data, size_t size)
{
    struct vm_serial *serial = opaque;
    LOCK_SCOPE(&serial->mutex);

    if (serial->file_fd >= 0)
        (void)write_all(serial->file_fd, data, size); /* a full disk must not stop the guest */
    if (stdio_is_full(serial, size) && !serial->stalled) {
        struct timespec deadline;
        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_nsec += STALL_MS * 1000000L;
        deadline.tv_sec += deadline.tv_nsec / 1000000000L;
        deadline.tv_nsec %= 1000000000L;
        while (stdio_is_full(serial, size) && !serial->stalled)
            serial->stalled =
                pthread_cond_timedwait(&serial->room, &serial->mutex, &deadline) == ETIMEDOUT;
    }
    append(serial, data, size);
    if (!serial->posted && !loop_post(serial->loop, flush_posted, serial))
        serial->posted = true;
}

/* ---- Output, loop side ---- */

/* The next piece for an output, copied out of the ring; 0: it is up to date. */
static size_t next_piece(struct output *output, uint8_t *piece, size_t room)
{
    struct vm_serial *serial = output->serial;
    LOCK_SCOPE(&serial->mutex);

    if (serial->head - output->at > RING_BYTES)
        output->at = serial->head - RING_BYTES; /* too slow: the oldest is gone */
    uint64_t end = serial->head < output->until ? serial->head : output->until;
    size_t place = output->at % RING_BYTES;
    size_t size = output->at < end ? (size_t)(end - output->at) : 0;
    if (size > room)
        size = room;
    if (size > RING_BYTES - place)
        size = RING_BYTES - place;
    memcpy(piece, serial->ring + place, size);
    return size;
}

static void advance(struct output *output, size_t size)
{
    struct vm_serial *serial = output->serial;
    LOCK_SCOPE(&serial->mutex);

    output->at += size;
    if (!output->console) {
        serial->stalled = false;
        pthread_cond_broadcast(&serial->room);
    }
}

/* As write(2), but -EAGAIN instead of waiting. */
static ssize_t write_some(const struct output *output, const uint8_t *data, size_t size)
{
    struct pollfd ready = {.fd = output->out_fd, .events = POLLOUT};
    ssize_t put;

    if (output->console)
        put = send(output->out_fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (poll(&ready, 1, 0) != 1 || !(ready.revents & (POLLOUT | POLLERR | POLLHUP)))
        return -EAGAIN;
    else
        put = write(output->out_fd, data, size);
    return put < 0 ? -errno : put;
}

static void output_ready(void *opaque, uint32_t events)
{
    struct output *output = opaque;

    (void)events;
    loop_remove(output->serial->loop, output->out_fd);
    output->writing = false;
    flush_output(output);
}

/* An output that has no room: come back when it has. */
static void wait_for_room(struct output *output)
{
    struct loop *loop = output->serial->loop;

    if (!output->writing)
        output->writing = !loop_add(loop, output->out_fd, EPOLLOUT, output_ready, output);
}

static void flush_output(struct output *output)
{
    uint8_t piece[PIPE_BUF];

    while (output->out_fd >= 0) {
        size_t size = next_piece(output, piece, sizeof(piece));
        if (!size)
            break;
        ssize_t put = write_some(output, piece, size);
        if (put == -EINTR)
            continue;
        if (put == -EAGAIN) {
            wait_for_room(output);
            return;
        }
        if (put < 0) {
            close_output(output);
            return;
        }
        advance(output, (size_t)put);
    }
    if (output->out_fd >= 0 && output->at >= output->until)
        close_output(output);
}

/* Nothing more is typed here. */
static void stop_input(struct output *output)
{
    if (output->watched)
        loop_remove(output->serial->loop, output->in_fd);
    output->watched = false;
    if (output->console && output->in_fd >= 0)
        close(output->in_fd);
    output->in_fd = -1;
}

static void close_output(struct output *output)
{
    struct vm_serial *serial = output->serial;

    if (output->writing)
        loop_remove(serial->loop, output->out_fd);
    output->writing = false;
    if (output->console) {
        stop_input(output); /* while stdin goes on without a stdout */
        close(output->out_fd);
    }
    LOCK_SCOPE(&serial->mutex); /* a vCPU may wait for stdio, which is gone now */
    output->out_fd = -1;
    pthread_cond_broadcast(&serial->room);
}

/* ---- Input ---- */

static void push_input(void *opaque);

static void offer_input(struct vm_serial *serial)
{
    if (!serial->machine) {
        serial->input_size = 0;
        return;
    }
    size_t taken = machine_serial_input(serial->machine, serial->input, serial->input_size);
    memmove(serial->input, serial->input + taken, serial->input_size - taken);
    serial->input_size -= taken;
    if (serial->input_size && !serial->input_timer)
        serial->input_timer = !loop_after(serial->loop, INPUT_AGAIN_NS, push_input, serial);
}

static void push_input(void *opaque)
{
    struct vm_serial *serial = opaque;

    serial->input_timer = false;
    offer_input(serial);
    watch_inputs(serial);
}

/* Ctrl-A and what follows it.  True if the key is for the guest. */
static bool escape_key(struct output *output, uint8_t key)
{
    if (!output->escaped) {
        output->escaped = key == ESCAPE;
        return !output->escaped;
    }
    output->escaped = false;
    switch (key) {
    case 'x':
        output->serial->quit(output->serial->opaque);
        return false;
    case 'h':
        output_note(
            "Ctrl-A x ends the machine, Ctrl-A Ctrl-A types a Ctrl-A, Ctrl-A h is this help");
        return false;
    default:
        return key == ESCAPE;
    }
}

static void take_input(struct output *output, const uint8_t *data, size_t size)
{
    struct vm_serial *serial = output->serial;

    for (size_t i = 0; i < size; i++)
        if (output->console || escape_key(output, data[i]))
            serial->input[serial->input_size++] = data[i];
    offer_input(serial);
}

static void input_ready(void *opaque, uint32_t events)
{
    struct output *output = opaque;
    struct vm_serial *serial = output->serial;
    uint8_t data[256];
    size_t room = INPUT_BYTES - serial->input_size;

    ssize_t got = read(output->in_fd, data, room < sizeof(data) ? room : sizeof(data));
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got > 0)
        take_input(output, data, (size_t)got);
    else if (output->console && (got < 0 || events & EPOLLHUP))
        close_output(output);
    else
        stop_input(output); /* the end of what is typed; it may go on reading */
    watch_inputs(serial);
}

static void look_at_stdin(void *opaque)
{
    struct vm_serial *serial = opaque;

    serial->stdin_timer = false;
    if (serial->outputs[0].in_fd >= 0 && serial->machine && !serial->input_size)
        input_ready(&serial->outputs[0], EPOLLIN);
}

static void watch_input(struct output *output)
{
    struct loop *loop = output->serial->loop;

    if (output->watched || output->in_fd < 0)
        return;
    int error = loop_add(loop, output->in_fd, EPOLLIN, input_ready, output);
    output->watched = !error;
    if (error == -EPERM && !output->serial->stdin_timer) /* a file, /dev/null: always ready */
        output->serial->stdin_timer = !loop_after(loop, UNPOLLED_NS, look_at_stdin, output->serial);
}

/* Read from the sources only while nothing that was typed waits. */
static void watch_inputs(struct vm_serial *serial)
{
    for (int i = 0; i < OUTPUTS_MAX; i++) {
        struct output *output = &serial->outputs[i];
        if (serial->machine && !serial->input_size) {
            watch_input(output);
        } else if (output->watched) {
            loop_remove(serial->loop, output->in_fd);
            output->watched = false;
        }
    }
}

/* ---- Life ---- */

int vm_serial_check(const char *how, struct ferry_error *err)
{
    if (!strcmp(how, "stdio") || !strcmp(how, "none") || (!strncmp(how, "file:", 5) && how[5]))
        return 0;
    return ferry_usage(err, "--serial", "'%.80s' is not stdio, none or file:PATH", how);
}

/* "file:PATH" with %n replaced by the name. */
static int open_file(const char *path, const char *name, struct ferry_error *err)
{
    char full[LIMIT_PATH_BYTES];
    size_t length = 0;

    for (const char *p = path; *p; p++) {
        bool is_name = p[0] == '%' && p[1] == 'n';
        int put = snprintf(full + length, sizeof(full) - length, "%.*s", is_name ? INT_MAX : 1,
                           is_name ? name : p);
        if (put < 0 || (size_t)put >= sizeof(full) - length)
            return ferry_usage(err, "--serial", "the path is too long");
        length += (size_t)put;
        p += is_name;
    }
    int fd = open(full, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0)
        return ferry_fail_sys(err, -errno, full, "cannot open for the serial port");
    return fd;
}

static void init_locks(struct vm_serial *serial)
{
    pthread_condattr_t monotonic;

    pthread_mutex_init(&serial->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&serial->room, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

int vm_serial_create(struct loop *loop, const char *how, const char *name,
                     void (*quit)(void *opaque), void *opaque, struct vm_serial **out,
                     struct ferry_error *err)
{
    struct vm_serial *serial = calloc(1, sizeof(*serial));
    uint8_t *ring = malloc(RING_BYTES);

    if (!serial || !ring) {
        free(serial);
        free(ring);
        return ferry_fail(err, -ENOMEM, "serial port", "out of memory");
    }
    *serial = (struct vm_serial){
        .loop = loop, .quit = quit, .opaque = opaque, .file_fd = -1, .ring = ring};
    init_locks(serial);
    for (int i = 0; i < OUTPUTS_MAX; i++)
        serial->outputs[i] = (struct output){
            .serial = serial, .in_fd = -1, .out_fd = -1, .console = i > 0, .until = UINT64_MAX};
    if (!strncmp(how, "file:", 5)) {
        serial->file_fd = open_file(how + 5, name, err);
        if (serial->file_fd < 0) {
            int error = serial->file_fd;
            vm_serial_destroy(serial);
            return error;
        }
    } else if (!strcmp(how, "stdio")) {
        serial->outputs[0].in_fd = STDIN_FILENO;
        serial->outputs[0].out_fd = STDOUT_FILENO;
    }
    *out = serial;
    return 0;
}

void vm_serial_attach(struct vm_serial *serial, struct machine *machine)
{
    serial->machine = machine;
    if (serial->outputs[0].in_fd >= 0)
        terminal_raw();
    watch_inputs(serial);
}

int vm_serial_add_console(struct vm_serial *serial, int fd, bool log_only, struct ferry_error *err)
{
    struct output *output = NULL;

    for (int i = 1; i < OUTPUTS_MAX && !output; i++)
        if (serial->outputs[i].out_fd < 0)
            output = &serial->outputs[i];
    int in_fd = log_only || !output ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (!output || (in_fd < 0 && !log_only)) {
        close(fd);
        return output ? ferry_fail_sys(err, -errno, "console", "cannot attach")
                      : ferry_fail(err, -EBUSY, "console", "%d are attached already", CONSOLES_MAX);
    }
    {
        LOCK_SCOPE(&serial->mutex);
        *output =
            (struct output){.serial = serial,
                            .in_fd = in_fd,
                            .out_fd = fd,
                            .console = true,
                            .until = log_only ? serial->head : UINT64_MAX,
                            .at = serial->head > REPLAY_BYTES ? serial->head - REPLAY_BYTES : 0};
    }
    flush_output(output);
    watch_inputs(serial);
    return 0;
}

void vm_serial_detach(struct vm_serial *serial)
{
    serial->machine = NULL;
    serial->input_size = 0;
    watch_inputs(serial);
}

/* What was printed last is what people look for: wait a moment for slow readers. */
static void say_farewell(struct output *output, uint64_t deadline_ns)
{
    flush_output(output);
    while (output->out_fd >= 0 && output->at < output->serial->head) {
        uint64_t now = monotonic_ns();
        struct pollfd room = {.fd = output->out_fd, .events = POLLOUT};
        if (now >= deadline_ns || poll(&room, 1, (int)((deadline_ns - now) / 1000000) + 1) <= 0)
            return;
        flush_output(output);
    }
}

void vm_serial_destroy(struct vm_serial *serial)
{
    if (!serial)
        return;
    uint64_t deadline = monotonic_ns() + FAREWELL_MS * UINT64_C(1000000);
    for (int i = 0; i < OUTPUTS_MAX; i++) {
        struct output *output = &serial->outputs[i];
        say_farewell(output, deadline);
        stop_input(output);
        if (output->out_fd >= 0)
            close_output(output);
    }
    terminal_restore();
    if (serial->file_fd >= 0)
        close(serial->file_fd);
    pthread_cond_destroy(&serial->room);
    pthread_mutex_destroy(&serial->mutex);
    free(serial->ring);
    free(serial);
}

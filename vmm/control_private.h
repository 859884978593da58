/* What control.c (connections) and control_call.c (messages and calls) share. */
#ifndef FERRY_VMM_CONTROL_PRIVATE_H
#define FERRY_VMM_CONTROL_PRIVATE_H

#include <pthread.h>

#include "common/bytes.h"
#include "common/limits.h"
#include "vmm/control.h"

#define CONTROL_OUTPUT_BYTES                                            \
    (4 * LIMIT_CONTROL_LINE_BYTES) /* unread by a client: it is dropped \
                                    */

struct control_client;

struct control_call {
    struct control *control;
    struct control_client *client;
    json_t *arguments;
    json_t *id; /* NULL: none given */
    int fd;     /* sent along, -1: none */
    void (*gone)(void *opaque);
    void *gone_opaque;
};

struct control_client {
    int fd; /* -1: hung up */
    bool input_ended;
    bool closing; /* close when all output is out */
    struct writer in;
    int passed_fd; /* waits for the line it came with */
    /* Under the mutex: */
    struct writer out;
    size_t out_sent;
    struct control_call *call;
    struct control *control;
    struct control_client *next;
};

struct control {
    struct loop *loop;
    char *path;
    const struct control_command *commands;
    size_t command_count;
    void *opaque;
    const struct log *log;
    int listen_fd;
    int wake_fd;
    bool deaf; /* out of descriptors: not accepting until a client leaves */
    pthread_mutex_t mutex;
    struct control_client *clients;
    unsigned client_count;
};

/* Serve from a socket at path; returns the fd or a negative errno (control_socket.c). */
int control_bind(const char *path);
/* Let the loop's thread look at all clients.  Any thread. */
void control_wake(const struct control *control);
/* A line of the client's, without its end: run the command or say what is wrong with it. */
void control_run_line(struct control_client *client, const char *text, size_t size);
/* Tell a client that has no call what is wrong. */
void control_complain(struct control_client *client, const struct ferry_error *err);
void control_free_call(struct control_call *call);

#endif

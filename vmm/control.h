/*
 * The control socket of a machine: a unix stream socket, mode 0600, that speaks one JSON object a
 * line, shaped as QMP is: {"execute", "arguments", "id"} -> {"return", "id"} or {"error":
 * {"class", "desc", "about", "message", "cause", "code"}, "id"}, and {"event", "data",
 * "timestamp"} in between.  It serves a table of commands that its owner fills in; a command may
 * answer at once or later, from any thread.  One client has one command at a time under way; what
 * it sends meanwhile waits.
 */
#ifndef FERRY_VMM_CONTROL_H
#define FERRY_VMM_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/error.h"
#include "common/log.h"
#include "vmm/loop.h"

struct control;
struct control_call;

struct control_command {
    const char *name;
    /* On the loop's thread.  Must lead to exactly one control_reply or control_reply_error. */
    void (*run)(struct control_call *call, void *opaque);
};

/*
 * Bind path (an old socket that nobody serves is replaced) and listen.  commands, opaque and log
 * stay the caller's.  -EADDRINUSE: somebody serves it.
 */
int control_create(struct loop *loop, const char *path, const struct control_command *commands,
                   size_t count, void *opaque, const struct log *log, struct control **out,
                   struct ferry_error *err);
/* No more clients, and the socket is gone; those who are there stay. */
void control_close(struct control *control);
/*
 * control_close, then give clients a moment to read what was sent, and close them.  Calls
 * that were not answered are gone afterwards, so no other thread may hold one.  NULL is fine.
 */
void control_destroy(struct control *control);

const json_t *control_arguments(const struct control_call *call); /* an object, maybe empty */
/* A descriptor that the client sent along (SCM_RIGHTS), -1: none.  The caller owns it. */
int control_take_fd(struct control_call *call);
/* Call gone(opaque) once on the loop's thread if the client hangs up before the reply. */
void control_on_hangup(struct control_call *call, void (*gone)(void *opaque), void *opaque);
/* To this call's client, before the reply.  Any thread.  Steals data. */
void control_progress(struct control_call *call, const char *event, json_t *data);
/* End the call.  Any thread.  Steals result (NULL: empty object); call is gone afterwards. */
void control_reply(struct control_call *call, json_t *result);
void control_reply_error(struct control_call *call, const struct ferry_error *err);
/* To every client.  Any thread.  Steals data. */
void control_event(struct control *control, const char *event, json_t *data);

/*
 * For clients: connect to the socket at path, however long the path is.  Returns the fd or a
 * negative errno.
 */
int control_connect(const char *path);

#endif

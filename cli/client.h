/* A connection to the control socket of a machine, as the commands use it. */
#ifndef FERRY_CLI_CLIENT_H
#define FERRY_CLI_CLIENT_H

#include <jansson.h>

#include "cli/progress.h"
#include "common/bytes.h"
#include "common/error.h"

struct client {
    int fd;
    char name[64];
    struct writer in; /* received, not yet read as lines */
};

#define CLIENT_NONE ((struct client){.fd = -1})

/* -ENOENT with "no machine 'x' is running" if nobody serves. */
int client_connect(const char *name, struct client *out, struct ferry_error *err);
void client_close(struct client *client); /* also the cleanup function */
/*
 * One command and its answer.  Steals arguments (NULL: none).  pass_fd: a descriptor to send along,
 * -1: none; stays the caller's.  view: shows PROGRESS events, may be NULL.  timeout_ms: of silence,
 * -1: none.  *result (may be NULL) is the caller's.  An error of the machine arrives as it was.
 */
int client_call(struct client *client, const char *command, json_t *arguments, int pass_fd,
                struct progress_view *view, int timeout_ms, json_t **result,
                struct ferry_error *err);
/* Wait until the machine's process hangs up.  -ETIMEDOUT. */
int client_wait_end(struct client *client, uint64_t timeout_ns, struct ferry_error *err);
/* Connect, call without progress, close. */
int client_ask(const char *name, const char *command, json_t *arguments, int timeout_ms,
               json_t **result, struct ferry_error *err);

#endif

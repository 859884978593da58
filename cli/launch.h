/*
 * Starting a machine's process: in the foreground it is this one, with --detach a child that goes
 * on by itself once it is ready.
 */
#ifndef FERRY_CLI_LAUNCH_H
#define FERRY_CLI_LAUNCH_H

#include <stdbool.h>

#include <jansson.h>

#include "common/error.h"

struct launch {
    bool detach;
    bool quiet_stdout; /* in the foreground stdout is the guest's: results for people to stderr */
    int ready_fd;      /* to the parent; -1: none */
    int keep_fd;       /* of the caller's, in use until all is ready; -1: none */
};

/*
 * Before any thread and any descriptor but keep_fd (-1: none).  Returns 0 in the process that
 * becomes the machine (and goes on), 1 in the parent when the machine has reported that it is
 * ready, or an error: in the parent that of the child, which has told the person already (empty
 * message).
 */
int launch_begin(struct launch *launch, bool detach, int keep_fd, struct ferry_error *err);
/*
 * The machine is ready: give its result (JSON, stolen, or text if json is NULL) to whoever started
 * it.  A detached process lets go of stdin, stdout and stderr here.
 */
int launch_ready(struct launch *launch, json_t *json, const char *text, struct ferry_error *err);

/* stdin, stdout and stderr to /dev/null. */
int launch_let_go(struct ferry_error *err);

#endif

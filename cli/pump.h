/*
 * A pipe that somebody else writes and this process copies to stdout: if this process ends, the
 * writer notices, even when whoever reads stdout does not read.
 */
#ifndef FERRY_CLI_PUMP_H
#define FERRY_CLI_PUMP_H

#include <pthread.h>

#include "common/error.h"

struct pump {
    int write_fd; /* to hand to the writer; -1: none */
    int read_fd;
    int error; /* of the copying */
    pthread_t thread;
};

#define PUMP_NONE ((struct pump){.write_fd = -1, .read_fd = -1})

/* A thread of its own copies from here on. */
int pump_start(struct pump *pump, struct ferry_error *err);
/* Close our end for writing, wait until all is copied; nothing for PUMP_NONE. */
int pump_finish(struct pump *pump, struct ferry_error *err);
void pump_cleanup(struct pump *pump); /* CLEANUP(pump_cleanup): finish, whatever comes of it */

#endif

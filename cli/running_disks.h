/* The disks of a running machine, as an image of one that is switched off that comes by a pipe. */
#ifndef FERRY_CLI_RUNNING_DISKS_H
#define FERRY_CLI_RUNNING_DISKS_H

#include <pthread.h>

#include "cli/client.h"

struct running_disks {
    struct client client;
    int read_fd; /* the image comes out here */
    int write_fd;
    pthread_t thread; /* waits for the machine's answer */
    bool started;
    int error;
    struct ferry_error err;
};

#define RUNNING_DISKS_NONE \
    ((struct running_disks){.client = CLIENT_NONE, .read_fd = -1, .write_fd = -1})

/*
 * Ask the machine of this name for them: as of now, while its guest goes on (ferry snapshot
 * --disks-only).  out must not be copied.
 */
int running_disks_open(const char *name, struct running_disks *out, struct ferry_error *err);
/* Is this the name of a machine that runs?  FERRY_USAGE: it is, and a file has that name, too. */
int running_disks_find(const char *name, bool *running, struct ferry_error *err);
/* After the image could not be used, with this error in err: the machine's own word on it, unless
 * that is only that nobody read on.  Returns the code that counts. */
int running_disks_explain(struct running_disks *disks, int error, struct ferry_error *err);
/* When the image has been read to its end: what the machine says of it.  Once. */
int running_disks_finish(struct running_disks *disks, struct ferry_error *err);
/* Before its end, this cancels it.  Whoever reads has ended. */
void running_disks_close(struct running_disks *disks);

#endif

/*
 * A machine that runs the payload guest (tests/guest/), with what it says on COM1 kept line by
 * line: for tests of snapshots and moves.
 */
#ifndef FERRY_TESTS_SUPPORT_PAYLOAD_MACHINE_H
#define FERRY_TESTS_SUPPORT_PAYLOAD_MACHINE_H

#include <pthread.h>

#include "snapshot/snapshot.h"

struct payload {
    struct machine *machine;
    struct machine_config config; /* of a new machine, to be changed before payload_create */
    const char *disks[LIMIT_DISKS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *text; /* all output so far */
    size_t size;
    int event; /* last enum machine_event, -1: none */
    /* of a restore: */
    bool in_image[LIMIT_DISKS];
    int disk_fds[LIMIT_DISKS];
};

/* Why no payload can run here (no /dev/kvm, not built), NULL: it can. */
const char *payload_impossible(void);
/* One vCPU, 64 MiB, no disk. */
void payload_init(struct payload *p, const char *name);
/* What this host gives a machine: output and events of p, blocks on p->disks. */
int payload_host(struct payload *p, const struct machine_config *config, struct machine_host *host,
                 struct ferry_error *err);
/* Complete the configuration, create, own the disks, boot with these options, run. */
int payload_start(struct payload *p, const char *options, struct ferry_error *err);
/*
 * snapshot_load into p, which has no machine yet; content of disks goes to new files p->disks[i].
 * The machine is paused and does not own its disks afterwards.
 */
int payload_restore(struct payload *p, int fd, struct progress *progress,
                    struct restore_result *result, struct ferry_error *err);
/* Wait until the output has text; false after 60 seconds or when the machine has failed. */
bool payload_wait(struct payload *p, const char *text);
/* The part of line "tick N " that depends on N and the options only, malloc'd; NULL: no such. */
char *payload_tick(struct payload *p, unsigned tick);
/* The machine and the output; p may be initialised again. */
void payload_destroy(struct payload *p);

#endif

/*
 * Two hosts in one process: two runtime folders, each with its ticket log, and a payload guest that
 * moves between them.  The arriving side is a thread; its stream can be made faulty, which strikes
 * both directions of the move.
 */
#ifndef FERRY_TESTS_SUPPORT_TWO_HOSTS_H
#define FERRY_TESTS_SUPPORT_TWO_HOSTS_H

#include <pthread.h>

#include "migrate/migrate.h"
#include "migrate/ticket.h"
#include "tests/support/payload_machine.h"
#include "transport/faulty_stream.h"

struct host {
    char dir[64];
    char uri[96];
    struct ticket_store *tickets;
    struct payload payload; /* .machine NULL: it is not here */
    const char *refuse;     /* why create refuses, NULL: it does not */
};

struct two_hosts {
    struct host host[2];
    unsigned here; /* where the guest is */
    unsigned cpus; /* of the guest, and its options */
    const char *options;
    char *said; /* by the guest on hosts that it has left */
    size_t said_size;
    struct payload reference; /* a guest that is never moved */
};

/* What one connection to a host came to. */
struct arrival {
    pthread_t thread;
    struct host *host;
    struct listener *listener;
    const struct fault *faults;
    unsigned fault_count; /* the faults strike the first connection */
    unsigned connections; /* to serve; results are the last one's */
    uint64_t timeout_ns;
    struct progress progress;
    struct receive_result result;
    struct ferry_error err;
    int error;
    uint64_t frames[2]; /* seen in each enum fault_direction */
};

void two_hosts_open(struct two_hosts *t);
void two_hosts_close(struct two_hosts *t);

/* Boot the guest on host 0.  Skips the test where no guest can run. */
void two_hosts_start(struct two_hosts *t, unsigned cpus, const char *options);
struct payload *two_hosts_guest(struct two_hosts *t);
bool two_hosts_runs(const struct two_hosts *t, unsigned host);
/* The machine at host is no more, as when its process ends.  t->here is not changed. */
void two_hosts_leave(struct two_hosts *t, unsigned host);
/* The guest at t->here ticks on, or the test fails. */
void two_hosts_go_on(struct two_hosts *t);
/* All that the guest has said is what one says that was never moved.  Ends the guest. */
void two_hosts_match_undisturbed(struct two_hosts *t);
/* Fails the test with the error's text unless error is 0. */
void must(int error, const struct ferry_error *err);

/* Serve connections to host, in a thread of its own, until arrival_join. */
void arrival_start(struct arrival *a, struct host *host, const struct fault *faults,
                   unsigned fault_count, unsigned connections, uint64_t timeout_ns);
void arrival_join(struct arrival *a);

/* Move the guest from t->here to the other host.  Both sides' results are filled in; t->here is not
 * changed. */
int move_once(struct two_hosts *t, struct arrival *a, const struct fault *faults,
              unsigned fault_count, struct migrate_options *options, struct progress *progress,
              struct migrate_result *result, struct ferry_error *err);
struct migrate_options move_options(struct two_hosts *t, uint64_t timeout_ns);

#endif

/*
 * The move as its two callers see it: migrate_out on the source, migrate_in on the destination.
 * PROTOCOL.md has the bytes, handover.h the table of states that both sides run.
 */
#ifndef FERRY_MIGRATE_MIGRATE_H
#define FERRY_MIGRATE_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/progress.h"
#include "transport/stream.h"
#include "vmm/machine.h"

struct ticket_store; /* migrate/ticket.h: the fsynced log of who owns which machine */

struct migrate_options {
    const char *uri;      /* of the destination's `ferry receive`; must outlive the call only */
    bool insecure;        /* tcp beyond loopback */
    uint64_t downtime_ns; /* wish; 0: the default of 100 ms */
    uint64_t bandwidth;   /* bytes a second at most; 0: no limit */
    unsigned rounds_max;  /* 0: the default (30) */
    uint64_t timeout_ns;  /* of silence from the other side; 0: the default (10 s) */
    struct ticket_store *tickets;
    const struct log *log;
};

enum migrate_outcome {
    MIGRATE_KEPT,     /* not moved; the guest goes on here as before */
    MIGRATE_MOVED,    /* runs on the other side; release this machine */
    MIGRATE_IN_DOUBT, /* nobody knows yet: stay paused, call migrate_query until it is decided */
};

struct migrate_result {
    enum migrate_outcome outcome;
    const char *mode; /* "pre-copy" */
    unsigned rounds;
    uint64_t total_ns;
    uint64_t downtime_ns; /* last guest instruction here to first there, as far as known */
    uint64_t predicted_total_ns;
    uint64_t predicted_downtime_ns;
    uint64_t bytes_sent;
    uint64_t bytes_raw;  /* of these, page content as it is */
    uint64_t bytes_zero; /* RAM that was sent as a mark only */
    uint64_t bytes_state;
    uint64_t bytes_absent; /* RAM never touched: not sent at all */
};

/*
 * Move the machine.  Returns 0 with outcome MOVED, or an error with outcome KEPT (the guest runs on
 * if it ran before) or IN_DOUBT.  Cancelled through progress->cancelled up to COMMIT.
 */
int migrate_out(struct machine *machine, const struct migrate_options *options,
                struct progress *progress, struct migrate_result *result, struct ferry_error *err);
/*
 * Ask the other side once what became of the move that is in doubt: 0 and outcome MOVED; 0 and KEPT
 * (the machine owns its disks again and runs if it did, at a higher epoch); or an error, still in
 * doubt.  options->uri NULL: where the move went.
 */
int migrate_query(struct machine *machine, const struct migrate_options *options,
                  struct migrate_result *result, struct ferry_error *err);
/*
 * The same for a machine of which only the ticket is left (ticket.h: HANDOVER, process not alive):
 * 0 and MOVED; 0 and KEPT, which then means that the guest died here and runs nowhere
 * (TICKET_LOST).
 */
int migrate_query_orphan(const uint8_t vm_id[16], const struct migrate_options *options,
                         struct migrate_result *result, struct ferry_error *err);
/*
 * The operator's word in the last resort, without asking anybody.  keep: the other side is dead for
 * certain, the guest goes on here (machine) or is given up (NULL: only the ticket is left);
 * otherwise: the other side has it for certain.  Wrong words make two runners.
 */
int migrate_resolve(struct machine *machine, const uint8_t vm_id[16], bool keep,
                    const struct migrate_options *options, struct migrate_result *result,
                    struct ferry_error *err);

struct receive_host {
    void *opaque;
    /* HELLO has been read: refuse, or create a paused machine (disks not yet owned).  Collect every
     * reason for a refusal in *err.  config may be changed (name). */
    int (*create)(void *opaque, struct machine_config *config, struct machine **out,
                  struct ferry_error *err);
    struct ticket_store *tickets;
    const struct log *log;
    uint64_t timeout_ns; /* of silence from the source; 0: the default (10 s) */
};

struct receive_result {
    uint64_t total_ns;
    uint64_t bytes_received;
    uint64_t epoch;
    bool answered_only; /* the peer only asked for the state of an earlier move; there is no machine
                         */
    bool source_released; /* the source has confirmed that it is gone: nobody will ask again; also
                           * after answered_only */
};

/*
 * Serve one connection.  0 and *out: the machine is owned here and runs (if it ran there before,
 * else it is paused), RUNNING has been sent.  0 and *out NULL: answered_only.  An error: nothing
 * runs here (and never will for that epoch), and what create made is destroyed.
 * The stream stays the caller's; a cancel counts until COMMIT has come.
 */
int migrate_in(struct stream *stream, const struct receive_host *host, struct progress *progress,
               struct machine **out, struct receive_result *result, struct ferry_error *err);

#endif

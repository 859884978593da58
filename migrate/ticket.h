/*
 * The log of who owns which machine: one file for each vm id in RUNTIME_DIR/.tickets/, replaced
 * atomically and durably, read and written under one lock, so that all ferry processes of this
 * runtime folder agree at every instant.  `.tickets/host-id` names the folder as a host; it goes
 * when the log goes, so that a host that has forgotten is not taken for one that knows.
 *
 * Epochs only grow.  The destination's word about an epoch is final once it is OWNED or ABORTED.
 */
#ifndef FERRY_MIGRATE_TICKET_H
#define FERRY_MIGRATE_TICKET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/limits.h"

#define TICKET_ID_BYTES  16
#define TICKET_URI_BYTES 320 /* of the other side, with terminator */

struct ticket_store;

enum ticket_role { TICKET_SOURCE, TICKET_DESTINATION };

enum ticket_state {
    TICKET_NONE,
    TICKET_HANDOVER, /* source: COMMIT may have been sent; in doubt until settled */
    TICKET_KEPT,     /* source: the other side aborted; owned here at epoch + 1 */
    TICKET_RELEASED, /* source: the other side owns it */
    TICKET_LOST,     /* source: the other side aborted, but the guest had died here */
    TICKET_INCOMING, /* destination: undecided */
    TICKET_OWNED,    /* destination: owned here since this epoch */
    TICKET_ABORTED,  /* destination: never ran and never will */
    TICKET_UNKNOWN,  /* only as an answer: older than what the log remembers */
};

struct ticket_record {
    enum ticket_role role;
    enum ticket_state state;
    uint8_t vm_id[TICKET_ID_BYTES];
    uint64_t epoch;
    char name[LIMIT_NAME_BYTES + 1]; /* of the machine, here */
    char peer_uri[TICKET_URI_BYTES]; /* source: where the destination answers */
    uint8_t peer_host[TICKET_ID_BYTES];
    pid_t pid;            /* the process that holds or held the machine */
    uint64_t pid_start;   /* its start time in clock ticks since boot (proc(5), stat, 22) */
    uint64_t realtime_ns; /* of the last change */
    bool running;         /* source: the guest ran before the move, so it is to run again */
    bool process_alive;   /* as of now; filled in by ticket_find and ticket_list */
};

/* Creates runtime_dir/.tickets (0700) and the host id if need be. */
int ticket_store_open(const char *runtime_dir, struct ticket_store **out, struct ferry_error *err);
void ticket_store_close(struct ticket_store *store);                /* NULL is fine */
const uint8_t *ticket_store_host(const struct ticket_store *store); /* TICKET_ID_BYTES */

/*
 * Destination: log INCOMING for an epoch, for this process.  If it is not later than all that is
 * logged: -ESTALE, and *logged is the latest.  An undecided earlier epoch is thereby aborted.
 */
int ticket_reserve(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                   const char *name, const uint8_t source_host[TICKET_ID_BYTES], uint64_t *logged,
                   struct ferry_error *err);
/* Destination: log OWNED over INCOMING of the same epoch.  -ESTALE: the log says otherwise.  After
 * any error it is not owned, whatever anybody reads. */
int ticket_own(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
               struct ferry_error *err);
/* Destination's host: log ABORTED; fine if it is logged already.  -ESTALE: OWNED is logged, or the
 * epoch is older than the log remembers. */
int ticket_abort(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                 struct ferry_error *err);
/* Destination's host: what is logged of an epoch: TICKET_NONE, INCOMING, OWNED, ABORTED, UNKNOWN.
 */
int ticket_look(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                enum ticket_state *state, struct ferry_error *err);

/*
 * Get ready to log OWNED (HANDOVER) soon: the new file is written and made durable under another
 * name, so that logging it costs a rename and one more sync: the guest stands still meanwhile.  It
 * changes nothing, is used only if the log has not changed since, and a failure costs only time.
 */
void ticket_draft_own(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES]);
void ticket_draft_hand_over(struct ticket_store *store, const struct ticket_record *record);
void ticket_draft_drop(struct ticket_store *store);

/* Source: log HANDOVER, for this process.  Of record only vm_id, epoch, name, running and peer_*
 * are used.
 */
int ticket_hand_over(struct ticket_store *store, const struct ticket_record *record,
                     struct ferry_error *err);
/* Source: KEPT, RELEASED or LOST over HANDOVER of the same epoch; fine if it is logged already.
 * -ESTALE: the log says otherwise. */
int ticket_settle(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES], uint64_t epoch,
                  enum ticket_state state, struct ferry_error *err);

/* -ENOENT: nothing is logged of this machine in this role. */
int ticket_find(struct ticket_store *store, const uint8_t vm_id[TICKET_ID_BYTES],
                enum ticket_role role, struct ticket_record *record, struct ferry_error *err);
/* All records, malloc'd for the caller.  A machine whose source record is HANDOVER and whose
 * process is not alive is in doubt and only `resolve` can settle it. */
int ticket_list(struct ticket_store *store, struct ticket_record **records, size_t *count,
                struct ferry_error *err);
const char *ticket_state_name(enum ticket_state state); /* "HANDOVER", ... */

#endif

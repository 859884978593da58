/* Tickets in doubt without a process. */
#include "cli/orphans.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "common/hash.h"

static void close_store(struct ticket_store **store)
{
    ticket_store_close(*store);
}

int orphan_list(struct ticket_record **records, size_t *count, struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;
    CLEANUP(close_store) struct ticket_store *store = NULL;
    size_t all = 0;

    *records = NULL;
    *count = 0;
    int error = runtime_base(&base, err);
    if (!error)
        error = ticket_store_open(base, &store, err);
    if (!error)
        error = ticket_list(store, records, &all, err);
    if (error)
        return error;
    for (size_t i = 0; i < all; i++) {
        const struct ticket_record *record = &(*records)[i];
        if (record->role == TICKET_SOURCE && record->state == TICKET_HANDOVER &&
            !record->process_alive)
            (*records)[(*count)++] = *record;
    }
    return 0;
}

int orphan_find(const char *name, struct ticket_record *record, struct ferry_error *err)
{
    CLEANUP_FREE struct ticket_record *records = NULL;
    size_t count, found = 0;
    char id[2 * TICKET_ID_BYTES + 1];

    int error = orphan_list(&records, &count, err);
    for (size_t i = 0; i < count && !error; i++) {
        hex_encode(records[i].vm_id, TICKET_ID_BYTES, id);
        if (!strcmp(name, records[i].name) || !strcmp(name, id)) {
            *record = records[i];
            found++;
        }
    }
    if (error || found == 1)
        return error;
    if (found)
        return ferry_fail(err, -EEXIST, name,
                          "%zu machines in doubt have this name; give the vm "
                          "id that 'ferry ps --json' shows",
                          found);
    return machine_missing(name, err);
}

json_t *orphan_status(const struct ticket_record *record)
{
    char id[2 * TICKET_ID_BYTES + 1];

    hex_encode(record->vm_id, TICKET_ID_BYTES, id);
    return json_pack("{s:s, s:i, s:s, s:I, s:s, s:s}", "name", record->name, "pid", 0, "state",
                     "in-doubt", "epoch", (json_int_t)record->epoch, "vm_id", id, "peer",
                     record->peer_uri);
}

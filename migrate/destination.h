/* What destination.c and answer.c share. */
#ifndef FERRY_MIGRATE_DESTINATION_H
#define FERRY_MIGRATE_DESTINATION_H

#include "migrate/message.h"
#include "migrate/migrate.h"
#include "migrate/ticket.h"

#define DESTINATION_TIMEOUT_NS (10 * UINT64_C(1000000000))

#define GONE_WAIT_NS (2 * UINT64_C(1000000000)) /* for the source's last word */

/* Answer the STATUS in frame out of the log; what is undecided is decided by it. */
int answer_status(struct channel *channel, const struct frame *frame, struct ticket_store *tickets,
                  const struct log *log, bool *source_released, struct ferry_error *err);

#endif

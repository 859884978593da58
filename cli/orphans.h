/*
 * Machines of which only the ticket of a move is left: the process that held the guest died before
 * anybody knew who owns it.
 */
#ifndef FERRY_CLI_ORPHANS_H
#define FERRY_CLI_ORPHANS_H

#include <jansson.h>

#include "migrate/ticket.h"

/* All of them, malloc'd for the caller. */
int orphan_list(struct ticket_record **records, size_t *count, struct ferry_error *err);
/*
 * By the name of the machine or its vm id in hexadecimal.  -ENOENT: there is none, with the message
 * that no such machine is running; -EEXIST: several have the name.
 */
int orphan_find(const char *name, struct ticket_record *record, struct ferry_error *err);
/* As `ferry status` of a live machine, as far as it goes. */
json_t *orphan_status(const struct ticket_record *record);

#endif

/*
 * The vm's part in moves: its tickets, moving out, the state of doubt, arriving, and a listener
 * that answers a source which has not heard that its machine arrived here.
 */
#ifndef FERRY_CLI_VM_MOVES_H
#define FERRY_CLI_VM_MOVES_H

#include "cli/vm.h"
#include "migrate/migrate.h"
#include "transport/stream.h"

int vm_moves_create(struct vm *vm, struct ferry_error *err);
void vm_moves_destroy(struct vm *vm);
struct ticket_store *vm_tickets(struct vm *vm);

void vm_migrate_command(struct control_call *call, void *opaque);
void vm_resolve_command(struct control_call *call, void *opaque);

#endif

/*
 * COM1 of a machine and where it leads: a ring of what was printed lately, standard input and
 * output, a file, and consoles that attach by the control socket.
 */
#ifndef FERRY_CLI_VM_SERIAL_H
#define FERRY_CLI_VM_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "vmm/loop.h"
#include "vmm/machine.h"

struct vm_serial;

/*
 * how: "stdio", "file:PATH" (appended to; "%n" stands for the machine's name), "none" (the ring
 * and consoles only).  quit(opaque): the person typed the escape to end the machine.
 */
int vm_serial_create(struct loop *loop, const char *how, const char *name,
                     void (*quit)(void *opaque), void *opaque, struct vm_serial **out,
                     struct ferry_error *err);
/* Check `how` before anything is made: FERRY_USAGE. */
int vm_serial_check(const char *how, struct ferry_error *err);
/* The machine that takes what is typed; from here on stdin is read. */
void vm_serial_attach(struct vm_serial *serial, struct machine *machine);
/* Bytes the guest wrote, from a vCPU thread: machine_host.serial_output with opaque = serial. */
void vm_serial_output(void *opaque, const uint8_t *data, size_t size);
/*
 * A console on a connected stream socket, which is taken over (also on an error): it gets what the
 * ring holds of the last 64 KiB and what follows, and types into the machine.  log_only: the ring,
 * then the end.
 */
int vm_serial_add_console(struct vm_serial *serial, int fd, bool log_only, struct ferry_error *err);
/* No more input is taken: the machine goes. */
void vm_serial_detach(struct vm_serial *serial);
/* Give what is still to be written a moment, let go of all descriptors.  NULL is fine. */
void vm_serial_destroy(struct vm_serial *serial);

#endif

/*
 * /dev/kvm: opening it, asking whether it can do what ferry needs, and making the bare VM.
 * Sources: Documentation/virt/kvm/api.rst of Linux; the ioctl is named at each function.
 */
#ifndef FERRY_VMM_KVM_H
#define FERRY_VMM_KVM_H

#include <stdbool.h>

#include "common/error.h"

/*
 * Open /dev/kvm and check API version and capabilities (KVM_CHECK_EXTENSION).  The descriptor is
 * the caller's.  Errors say what to do: no such device, no permission, busy, a kernel too old.
 */
int kvm_open(int *fd, struct ferry_error *err);
/*
 * A bare VM (KVM_CREATE_VM) with manual clearing of the dirty log.  The descriptor is the caller's.
 */
int kvm_create_vm(int kvm_fd, int *vm_fd, struct ferry_error *err);
/*
 * Interrupt controllers and timer in the kernel (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR,
 * KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2).  Before the memory slots, although each slot then costs
 * some milliseconds (KVM waits for SRCU readers): slots first is an order that no other VMM uses,
 * and with it kvm-amd of Linux 6.1 in an emulated machine corrupted that machine's own memory in
 * one of three boots of a Linux guest; in this order none of twenty-three did.
 */
int kvm_create_chips(int vm_fd, struct ferry_error *err);
/* KVM_CHECK_EXTENSION on either descriptor: its value, 0: not there. */
int kvm_capability(int fd, unsigned capability);

#endif

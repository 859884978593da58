/*
 * The run loop of one vCPU.
 *
 * Stopping: whoever wants it sets `stopping` and kvm_run.immediate_exit and sends the signal.  An
 * exit to user space leaves its access half done: the next KVM_RUN completes it.  So the loop ends
 * only where KVM_RUN, entered with immediate_exit set, reports EINTR: by then KVM has completed
 * what was pending (api.rst, section 5, immediate_exit), and a further access that it needed (the
 * next part of a string instruction, the other half of a split MMIO) has been served as well.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "vmm/vcpu_internal.h"

#define EMULATION_BYTES 15 /* of an instruction, as KVM reports them */

static void fail(struct vcpu *vcpu, const char *text)
{
    struct ferry_error failure;
    struct kvm_regs regs = {0};
    char about[32];

    snprintf(about, sizeof(about), "vCPU %u", vcpu->index);
    (void)ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    ferry_fail(&failure, -EIO, about, "%s (rip 0x%llx)", text, (unsigned long long)regs.rip);
    vcpu_failed(vcpu, &failure);
}

static void fail_internal(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    char text[256];
    int n = snprintf(text, sizeof(text), "KVM internal error, suberror %u", run->internal.suberror);

    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        n = snprintf(text, sizeof(text), "KVM cannot emulate an instruction of the guest");
        unsigned size = run->emulation_failure.insn_size;
        if (run->emulation_failure.ndata < 3 ||
            !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
            size = 0;
        if (size > EMULATION_BYTES)
            size = EMULATION_BYTES;
        for (unsigned i = 0; i < size; i++)
            n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%02x", i ? " " : ": ",
                          run->emulation_failure.insn_bytes[i]);
    } else {
        for (unsigned i = 0; i < run->internal.ndata && i < 4; i++)
            n += snprintf(text + n, sizeof(text) - (size_t)n, "%s0x%llx", i ? " " : ": ",
                          (unsigned long long)run->internal.data[i]);
    }
    fail(vcpu, text);
}

static void serve_pio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_IN)
            bus_read(vcpu->vcpus->host.pio, run->io.port, data, run->io.size);
        else
            bus_write(vcpu->vcpus->host.pio, run->io.port, data, run->io.size);
    }
}

static void serve_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    if (run->mmio.is_write)
        bus_write(vcpu->vcpus->host.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(vcpu->vcpus->host.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static void serve_system_event(struct vcpu *vcpu)
{
    switch (vcpu->run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        vcpus_request_stop(vcpu->vcpus, VCPU_STOP_POWEROFF);
        break;
    case KVM_SYSTEM_EVENT_RESET:
        vcpus_request_stop(vcpu->vcpus, VCPU_STOP_RESET);
        break;
    default:
        fail(vcpu, "the guest reports that it has crashed");
    }
}

static void serve_exit(struct vcpu *vcpu)
{
    char text[96];

    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        serve_pio(vcpu);
        break;
    case KVM_EXIT_MMIO:
        serve_mmio(vcpu);
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_SHUTDOWN: /* a triple fault: a PC resets */
        vcpus_request_stop(vcpu->vcpus, VCPU_STOP_RESET);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        serve_system_event(vcpu);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        fail_internal(vcpu);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, sizeof(text), "the CPU refuses to enter the guest, hardware reason 0x%llx",
                 (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason);
        fail(vcpu, text);
        break;
    default:
        snprintf(text, sizeof(text), "KVM exit %u, which ferry does not know",
                 vcpu->run->exit_reason);
        fail(vcpu, text);
    }
}

/* A run that ended with an error.  True: the vCPU can go no further, or shall not. */
static bool run_ended(struct vcpu *vcpu, int error)
{
    char text[96];

    /* EAGAIN: an AP took its INIT, or SIPI, and asks to be run again. */
    if (error == EAGAIN)
        return false;
    if (error == EINTR)
        return atomic_load(&vcpu->vcpus->stopping);
    if (vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        fail_internal(vcpu);
    else {
        snprintf(text, sizeof(text), "KVM_RUN failed: %s", strerror(error));
        fail(vcpu, text);
    }
    return true;
}

void vcpu_run(struct vcpu *vcpu)
{
    struct vcpus *vcpus = vcpu->vcpus;
    uint64_t none = 0;

    if (!atomic_load_explicit(&vcpus->started_at_ns, memory_order_relaxed))
        atomic_compare_exchange_strong(&vcpus->started_at_ns, &none, monotonic_ns());
    for (;;) {
        vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
        if (ioctl(vcpu->fd, KVM_RUN, 0ul) == 0)
            serve_exit(vcpu);
        else if (run_ended(vcpu, errno))
            return;
    }
}

/*
 * Saving: the TSC of vCPU 0 is read between two looks at the real time; the others follow from
 * their offsets to it, which KVM knows exactly.  Loading: the same reading on the new vCPU 0 says
 * by how much to shift all offsets, so that the differences between vCPUs stay as they were.  The
 * time that has passed comes from CLOCK_REALTIME of both hosts; if the new host's clock is behind,
 * none has passed.  A host whose clock is wrong by a minute gives the guest that minute: keep the
 * hosts' clocks in step.
 *
 * kvm_pvm (KVM without virtualisation hardware) shows the guest the host's TSC and ignores what is
 * set; nothing here fails there, but the guest's TSC is then the host's.
 */
#include "vmm/clock_state.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/clock.h"
#include "vmm/kvm.h"
#include "vmm/msr.h"

#define TOLERANCE_PPM 250 /* tsc_tolerance_ppm of KVM */

#define S struct clock_state
static const struct state_field clock_fields[] = {
    STATE_SCALAR(STATE_U64, S, kvmclock_ns, 1, 1),
    STATE_SCALAR(STATE_U64, S, realtime_ns, 2, 1),
    STATE_COUNTED(STATE_U64, S, tsc, tsc_count, 3, 1),
};
#undef S

const struct state_table clock_table = {
    .name = "clock",
    .version = 1,
    .size = sizeof(struct clock_state),
    .fields = clock_fields,
    .field_count = sizeof(clock_fields) / sizeof(clock_fields[0]),
};

/* A guest's TSC and the real time of the reading. */
struct tsc_reading {
    uint64_t tsc;
    uint64_t realtime_ns;
};

static int read_tsc(int fd, struct tsc_reading *out, struct ferry_error *err)
{
    const uint32_t index = MSR_TSC;
    struct msr_value value;

    uint64_t before = realtime_ns();
    int rc = msr_get(fd, &index, 1, &value, err);
    uint64_t after = realtime_ns();
    *out = (struct tsc_reading){value.value, before + (after - before) / 2};
    return rc;
}

static struct kvm_device_attr offset_attr(uint64_t *offset)
{
    return (struct kvm_device_attr){
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
}

static int get_offset(int fd, uint64_t *offset, struct ferry_error *err)
{
    struct kvm_device_attr attr = offset_attr(offset);
    if (ioctl(fd, KVM_GET_DEVICE_ATTR, &attr))
        return ferry_fail_sys(err, -errno, "clock", "cannot read a vCPU's TSC offset");
    return 0;
}

static int set_offset(int fd, uint64_t offset, struct ferry_error *err)
{
    struct kvm_device_attr attr = offset_attr(&offset);
    if (ioctl(fd, KVM_SET_DEVICE_ATTR, &attr))
        return ferry_fail_sys(err, -errno, "clock", "cannot set a vCPU's TSC offset");
    return 0;
}

/* kHz times ns is 1e6 times a count of ticks; 128 bits, because ns may be years. */
static uint64_t ticks_of(uint64_t ns, uint32_t tsc_khz)
{
    return (uint64_t)((unsigned __int128)ns * tsc_khz / 1000000);
}

static int capture(void *opaque, void *out, struct ferry_error *err)
{
    const struct clock_source *source = opaque;
    struct clock_state *state = out;
    struct kvm_clock_data data = {0};
    struct tsc_reading first;
    uint64_t offset0 = 0;

    if (ioctl(source->vm_fd, KVM_GET_CLOCK, &data))
        return ferry_fail_sys(err, -errno, "clock", "KVM_GET_CLOCK failed");
    state->realtime_ns = data.flags & KVM_CLOCK_REALTIME ? data.realtime : realtime_ns();
    state->kvmclock_ns = data.clock;
    int rc = read_tsc(vcpus_fd(source->vcpus, 0), &first, err);
    if (rc)
        return rc;
    /* Back to the instant of kvmclock, a few microseconds before. */
    uint64_t late_ns =
        first.realtime_ns > state->realtime_ns ? first.realtime_ns - state->realtime_ns : 0;
    uint64_t tsc0 = first.tsc - ticks_of(late_ns, source->tsc_khz);
    state->tsc_count = vcpus_count(source->vcpus);
    for (uint32_t i = 0; !rc && i < state->tsc_count; i++) {
        uint64_t offset = 0;
        rc = get_offset(vcpus_fd(source->vcpus, i), &offset, err);
        if (i == 0)
            offset0 = offset;
        state->tsc[i] = tsc0 + offset - offset0;
    }
    return rc;
}

static int accept(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct clock_source *source = opaque;
    const struct clock_state *state = loaded;

    if (state->tsc_count == vcpus_count(source->vcpus))
        return 0;
    return ferry_refuse(err, -EBADMSG, "clock", "tsc: it counts %u vCPUs, the machine has %u",
                        state->tsc_count, vcpus_count(source->vcpus));
}

static int set_tscs(const struct clock_source *source, const struct clock_state *state,
                    struct ferry_error *err)
{
    struct tsc_reading now;
    uint64_t offset0;
    int fd0 = vcpus_fd(source->vcpus, 0);

    int rc = read_tsc(fd0, &now, err);
    if (!rc)
        rc = get_offset(fd0, &offset0, err);
    if (rc)
        return rc;
    uint64_t elapsed_ns =
        now.realtime_ns > state->realtime_ns ? now.realtime_ns - state->realtime_ns : 0;
    uint64_t shift = state->tsc[0] + ticks_of(elapsed_ns, source->tsc_khz) - now.tsc;
    for (uint32_t i = 0; !rc && i < state->tsc_count; i++)
        rc = set_offset(vcpus_fd(source->vcpus, i),
                        offset0 + shift + (state->tsc[i] - state->tsc[0]), err);
    return rc;
}

static int set_kvmclock(int vm_fd, const struct clock_state *state, struct ferry_error *err)
{
    struct kvm_clock_data data = {.clock = state->kvmclock_ns};
    uint64_t now = realtime_ns();

    if (kvm_capability(vm_fd, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) {
        data.flags = KVM_CLOCK_REALTIME; /* KVM adds the time that has passed, if any */
        data.realtime = state->realtime_ns;
    } else if (now > state->realtime_ns) {
        data.clock += now - state->realtime_ns;
    }
    if (ioctl(vm_fd, KVM_SET_CLOCK, &data))
        return ferry_fail_sys(err, -errno, "clock", "KVM_SET_CLOCK failed");
    return 0;
}

/* TSCs first: KVM_SET_CLOCK then makes every vCPU compute its kvmclock anew from them. */
static int commit(void *opaque, const void *loaded, struct ferry_error *err)
{
    const struct clock_source *source = opaque;
    int rc = set_tscs(source, loaded, err);
    return rc ? rc : set_kvmclock(source->vm_fd, loaded, err);
}

void clock_part(struct clock_source *source, struct part *part)
{
    *part = (struct part){.table = &clock_table,
                          .opaque = source,
                          .capture = capture,
                          .accept = accept,
                          .commit = commit};
    snprintf(part->name, sizeof(part->name), "clock");
}

int clock_frequency(int vcpu_fd, uint32_t *tsc_khz, struct ferry_error *err)
{
    int khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0ul);
    if (khz <= 0)
        return ferry_fail_sys(err, khz ? -errno : -EIO, "clock", "KVM_GET_TSC_KHZ failed");
    *tsc_khz = (uint32_t)khz;
    return 0;
}

int clock_set_frequency(int vm_fd, int vcpu_fd, uint32_t tsc_khz, struct ferry_error *err)
{
    uint32_t host = 0;
    int rc = clock_frequency(vcpu_fd, &host, err);
    if (rc || !tsc_khz || tsc_khz == host)
        return rc;
    /* Ask the capability first: without it KVM_SET_TSC_KHZ may succeed and do nothing. */
    if (kvm_capability(vm_fd, KVM_CAP_TSC_CONTROL) &&
        ioctl(vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)tsc_khz) == 0)
        return 0;
    uint64_t difference = tsc_khz > host ? tsc_khz - host : host - tsc_khz;
    if (difference * 1000000 <= (uint64_t)host * TOLERANCE_PPM)
        return 0;
    return ferry_refuse(err, -ENOTSUP, "clock",
                        "the machine's TSC runs at %u kHz, this host's at %u kHz, and its CPU "
                        "cannot scale it",
                        tsc_khz, host);
}

/*
 * The whole machine as sections, and back.
 *
 * All that has state is a `struct part` in one array: clock, vCPUs, interrupt controllers, then the
 * devices in the order of their making.  Saving walks it.  Loading parses and checks each section
 * into a scratch struct of its part as it comes; the commit first sees that none is missing, keeps
 * a copy of everything as it is, and then commits part after part in the order of the array, which
 * is the order that KVM needs.  If KVM refuses one half-way, the copy is put back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "vmm/irqchip_state.h"
#include "vmm/machine_internal.h"
#include "vmm/vcpu_state.h"

/* ---- the parts ---- */

static int capture_device(void *opaque, void *state, struct ferry_error *err)
{
    struct device *device = opaque;
    (void)err;
    device->ops->capture(device, state);
    return 0;
}

static int accept_device(void *opaque, const void *state, struct ferry_error *err)
{
    struct device *device = opaque;
    return device->ops->accept ? device->ops->accept(device, state, err) : 0;
}

static int commit_device(void *opaque, const void *state, struct ferry_error *err)
{
    struct device *device = opaque;
    return device->ops->commit(device, state, err);
}

static void device_part(struct device *device, struct part *part)
{
    *part = (struct part){.table = device->table,
                          .opaque = device,
                          .capture = capture_device,
                          .accept = accept_device,
                          .commit = commit_device};
    snprintf(part->name, sizeof(part->name), "%s", device->name);
}

static size_t count_parts(const struct machine *machine)
{
    size_t count = 1 + machine->config.cpus + 3; /* clock, vCPUs, three controllers */
    for (const struct device *d = machine->devices; d; d = d->next)
        count++;
    return count;
}

/* Made when first needed: a machine that only runs does not pay for it. */
static int make_parts(struct machine *machine, struct ferry_error *err)
{
    if (machine->parts)
        return 0;
    int rc = msr_list_fill(machine->kvm_fd, vcpus_fd(machine->vcpus, 0), &machine->msrs, err);
    if (rc)
        return rc;
    struct part *parts CLEANUP_FREE = calloc(count_parts(machine), sizeof(*parts));
    struct vcpu_source *sources CLEANUP_FREE = calloc(machine->config.cpus, sizeof(*sources));
    if (!parts || !sources)
        return ferry_fail_sys(err, -ENOMEM, "machine", "cannot handle its state");
    size_t n = 0;
    clock_part(&machine->clock, &parts[n++]);
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        sources[i] = (struct vcpu_source){.vm_fd = machine->vm_fd,
                                          .fd = vcpus_fd(machine->vcpus, i),
                                          .index = i,
                                          .msrs = &machine->msrs};
        vcpu_part(&sources[i], &parts[n++]);
    }
    pic_part(&machine->vm_fd, &parts[n++]);
    ioapic_part(&machine->vm_fd, &parts[n++]);
    pit_part(&machine->vm_fd, &parts[n++]);
    for (struct device *d = machine->devices; d; d = d->next)
        device_part(d, &parts[n++]);
    machine->part_count = n;
    machine->parts = take_ptr(&parts);
    machine->vcpu_sources = take_ptr(&sources);
    return 0;
}

void machine_free_parts(struct machine *machine)
{
    machine_load_abandon(machine);
    free(machine->parts);
    free(machine->vcpu_sources);
    machine->parts = NULL;
    machine->vcpu_sources = NULL;
    machine->part_count = 0;
}

/* Where a controller or vCPU goes back to at reset; the clock goes on, devices have a reset. */
static bool has_power_on(const struct machine *machine, size_t index)
{
    return index >= 1 && index < 1 + machine->config.cpus + 3;
}

static int check_idle(struct machine *machine, struct ferry_error *err)
{
    if (vcpus_running(machine->vcpus) || machine->devices_live)
        return ferry_fail(err, -EBUSY, "machine",
                          "its state can only be handled while it is "
                          "paused");
    return make_parts(machine, err);
}

/* ---- save ---- */

static int save_part(const struct part *part, struct writer *out, struct ferry_error *err)
{
    void *state CLEANUP_FREE = calloc(1, part->table->size);
    if (!state)
        return ferry_fail_sys(err, -ENOMEM, part->name, "cannot take its state");
    int rc = part->capture(part->opaque, state, err);
    if (!rc)
        rc = state_save(part->table, state, out, err);
    if (!rc && out->error)
        rc = ferry_fail_sys(err, out->error, part->name, "cannot write down its state");
    return rc;
}

int machine_save(struct machine *machine, machine_sink sink, void *opaque, struct ferry_error *err)
{
    struct writer out CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);

    int rc = check_idle(machine, err);
    if (!rc && vcpus_reason(machine->vcpus) != VCPU_STOP_NONE)
        rc = ferry_fail(err, -ESHUTDOWN, "machine",
                        "it has switched itself off or failed: there is nothing to save");
    for (size_t i = 0; !rc && i < machine->part_count; i++) {
        const struct part *part = &machine->parts[i];
        writer_reset(&out);
        rc = save_part(part, &out, err);
        if (rc)
            break;
        const struct machine_section section = {.name = part->name,
                                                .version = part->table->version,
                                                .data = out.data,
                                                .size = out.size};
        rc = sink(opaque, &section, err);
    }
    return rc;
}

/* ---- load ---- */

static bool ram_contains(const void *opaque, uint64_t gpa, uint64_t size)
{
    return memory_contains(opaque, (struct gpa){gpa}, size);
}

static struct part *find_part(struct machine *machine, const char *name)
{
    for (size_t i = 0; i < machine->part_count; i++)
        if (strcmp(machine->parts[i].name, name) == 0)
            return &machine->parts[i];
    return NULL;
}

static int parse(const struct machine *machine, const struct part *part, uint16_t version,
                 const void *data, size_t size, void **out, struct ferry_error *err)
{
    const struct state_context context = {.ram_contains = ram_contains, .opaque = machine->memory};
    void *scratch CLEANUP_FREE = calloc(1, part->table->size);

    if (!scratch)
        return ferry_fail_sys(err, -ENOMEM, part->name, "cannot load its state");
    int rc = state_load(part->table, version, data, size, &context, scratch, err);
    if (!rc)
        *out = take_ptr(&scratch);
    return rc;
}

int machine_load_section(struct machine *machine, const struct machine_section *section,
                         struct ferry_error *err)
{
    void *scratch CLEANUP_FREE = NULL;

    int rc = check_idle(machine, err);
    if (rc)
        return rc;
    struct part *part = find_part(machine, section->name);
    if (!part)
        return ferry_refuse(err, -EBADMSG, section->name,
                            "the machine has no such device: this state is not its own, or of a "
                            "newer ferry");
    if (part->scratch)
        return ferry_refuse(err, -EBADMSG, part->name, "its state comes twice");
    rc = parse(machine, part, section->version, section->data, section->size, &scratch, err);
    if (!rc && part->accept)
        rc = part->accept(part->opaque, scratch, err);
    if (rc)
        return rc;
    part->scratch = take_ptr(&scratch);
    return 0;
}

static void free_states(void **states, size_t count)
{
    for (size_t i = 0; states && i < count; i++)
        free(states[i]);
    free(states);
}

/* All parts as they are now; NULL on failure. */
static void **capture_all(const struct machine *machine, struct ferry_error *err)
{
    void **states = calloc(machine->part_count + 1, sizeof(*states));
    int rc = states ? 0 : -ENOMEM;

    for (size_t i = 0; !rc && i < machine->part_count; i++) {
        const struct part *part = &machine->parts[i];
        states[i] = calloc(1, part->table->size);
        rc = states[i] ? part->capture(part->opaque, states[i], err) : -ENOMEM;
    }
    if (!rc)
        return states;
    if (rc == -ENOMEM)
        ferry_fail_sys(err, rc, "machine", "cannot load its state");
    free_states(states, machine->part_count);
    return NULL;
}

static int commit_all(struct machine *machine, struct ferry_error *err)
{
    int rc = 0;
    size_t done = 0;
    void **before = capture_all(machine, err);
    if (!before)
        return -EIO;
    while (!rc && done < machine->part_count) {
        const struct part *part = &machine->parts[done++];
        rc = part->commit(part->opaque, part->scratch, err);
        if (rc && err && !strstr(err->about, part->name))
            rc = ferry_wrap(err, part->name, "its state cannot be loaded");
    }
    for (size_t i = 0; rc && i < done; i++)
        (void)machine->parts[i].commit(machine->parts[i].opaque, before[i], NULL);
    free_states(before, machine->part_count);
    return rc;
}

int machine_load_commit(struct machine *machine, struct ferry_error *err)
{
    int rc = check_idle(machine, err);
    for (size_t i = 0; !rc && i < machine->part_count; i++)
        if (!machine->parts[i].scratch)
            rc = ferry_refuse(err, -EBADMSG, machine->parts[i].name, "its state is missing");
    if (!rc)
        rc = machine_remember_power_on(machine, err);
    if (!rc)
        rc = commit_all(machine, err);
    if (rc)
        return rc;
    machine_load_abandon(machine);
    vcpus_forgive(machine->vcpus);
    return 0;
}

void machine_load_abandon(struct machine *machine)
{
    for (size_t i = 0; i < machine->part_count; i++) {
        free(machine->parts[i].scratch);
        machine->parts[i].scratch = NULL;
    }
}

/* ---- power on ---- */

int machine_remember_power_on(struct machine *machine, struct ferry_error *err)
{
    struct writer all CLEANUP(writer_free) = writer_init(LIMIT_STATE_BYTES);
    struct writer one CLEANUP(writer_free) = writer_init(LIMIT_SECTION_BYTES);

    if (machine->power_on)
        return 0;
    int rc = check_idle(machine, err);
    for (size_t i = 0; !rc && i < machine->part_count; i++) {
        if (!has_power_on(machine, i))
            continue;
        writer_reset(&one);
        rc = save_part(&machine->parts[i], &one, err);
        writer_u32(&all, (uint32_t)one.size);
        writer_copy(&all, one.data, one.size);
    }
    if (!rc && all.error)
        rc = ferry_fail_sys(err, all.error, "machine", "cannot keep its power-on state");
    if (rc)
        return rc;
    machine->power_on = take_ptr(&all.data);
    machine->power_on_bytes = all.size;
    return 0;
}

int machine_restore_power_on(struct machine *machine, struct ferry_error *err)
{
    struct reader in = reader_init(machine->power_on, machine->power_on_bytes);

    int rc = check_idle(machine, err);
    if (!rc && !machine->power_on)
        return ferry_fail(err, -EINVAL, "machine", "it has never run: there is nothing to reset");
    for (size_t i = 0; !rc && i < machine->part_count; i++) {
        const struct part *part = &machine->parts[i];
        void *state CLEANUP_FREE = NULL;
        if (!has_power_on(machine, i))
            continue;
        struct reader section = reader_sub(&in, reader_u32(&in));
        rc = parse(machine, part, part->table->version, section.cur, reader_left(&section), &state,
                   err);
        if (!rc)
            rc = part->commit(part->opaque, state, err);
    }
    return rc;
}

/* ---- without a machine ---- */

int machine_section_to_json(const struct machine_section *section, json_t **out,
                            struct ferry_error *err)
{
    const struct state_table *table = machine_table_of(section->name);
    if (!table)
        return ferry_refuse(err, -ENOENT, section->name, "no device of this ferry is called so");
    void *state CLEANUP_FREE = calloc(1, table->size);
    if (!state)
        return ferry_fail_sys(err, -ENOMEM, section->name, "cannot show its state");
    int rc = state_load(table, section->version, section->data, section->size, NULL, state, err);
    if (rc)
        return rc;
    *out = state_to_json(table, state);
    return *out ? 0 : ferry_fail_sys(err, -ENOMEM, section->name, "cannot show its state");
}

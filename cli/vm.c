/*
 * The life of a machine's process.  What the guest does (power off, reset, failure) arrives from
 * vCPU threads as bits and is handled on the loop's thread, after a job under way has ended.  The
 * end is always the same: the guest stops, disks are let go, the folder goes, clients are told.
 */
#include "cli/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "cli/disks.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "cli/vm_job.h"
#include "cli/vm_moves.h"
#include "cli/vm_receive.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/units.h"

/* ---- The end ---- */

void vm_end(struct vm *vm, const struct ferry_error *err)
{
    if (!vm->ending) {
        vm->ending = true;
        vm->end_code = err ? err->code : 0;
        if (err)
            vm->end_err = *err;
    }
    if (vm->job)
        atomic_store(&vm->job->progress.cancelled, true); /* its end is ours */
    else
        loop_stop(vm->loop);
}

static void quit_by_key(void *opaque)
{
    vm_end(opaque, NULL);
}

static void signal_came(void *opaque, uint32_t events)
{
    struct vm *vm = opaque;
    struct ferry_error err;
    uint64_t count;

    (void)events;
    if (read(signals_fd(), &count, sizeof(count)) < 0)
        return;
    if (vm->ending) { /* asked twice: do not wait for a job any longer */
        terminal_restore();
        machine_dir_release(&vm->dir);
        _exit(FERRY_FAILED);
    }
    ferry_fail(&err, -EINTR, vm->dir.name, "ended by %s; its guest was switched off",
               strsignal(signals_came()));
    vm_end(vm, &err);
}

/* ---- What the guest does ---- */

static int reboot(struct vm *vm, struct ferry_error *err)
{
    int error = machine_reset(vm->machine, err);

    if (!error)
        error = machine_boot(vm->machine, &vm->boot, err);
    if (!error)
        error = machine_resume(vm->machine, err);
    return error;
}

static void guest_reset(struct vm *vm)
{
    struct ferry_error err;

    control_event(vm->control, "RESET", NULL);
    if (vm->no_reboot || !vm->boot.kernel) {
        if (!vm->no_reboot)
            output_note("%s: the guest asked for a reset; its kernel is not known here, so it ends",
                        vm->dir.name);
        vm_end(vm, NULL);
        return;
    }
    if (reboot(vm, &err)) {
        ferry_wrap(&err, vm->dir.name, "cannot boot again after a reset");
        vm_end(vm, &err);
    }
}

static void guest_failed(struct vm *vm)
{
    struct ferry_error err = *machine_failure(vm->machine);
    char text[512];

    ferry_wrap(&err, vm->dir.name, "the machine gave up");
    control_event(vm->control, "FAILED",
                  json_pack("{s:s}", "desc", ferry_error_text(&err, text, sizeof(text))));
    if (vm->foreground)
        vm_end(vm, &err);
    vm->stopped = true; /* in the background it stays to say why: ferry status */
}

/* A job that only reads disks must not keep a guest from booting again; a machine that ends by it
 * waits. */
static void look_beside_job(struct vm *vm)
{
    const unsigned reset = 1u << MACHINE_EVENT_RESET;
    unsigned events = atomic_load(&vm->guest_events);

    if (events && !vm->job->guest_may_stop) {
        atomic_store(&vm->job->progress.cancelled, true);
    } else if (events == reset && atomic_load(&vm->job->guest_is_free) && !vm->ending &&
               !vm->no_reboot && vm->boot.kernel) {
        atomic_fetch_and(&vm->guest_events, ~reset);
        guest_reset(vm);
    }
}

void vm_look_at_guest(struct vm *vm)
{
    if (!vm->machine || !vm->control)
        return; /* comes again when the machine is served */
    if (vm->job) {
        look_beside_job(vm);
        return; /* comes again when the job is done */
    }
    unsigned events = atomic_exchange(&vm->guest_events, 0);
    if (events & 1u << MACHINE_EVENT_FAILED) {
        guest_failed(vm);
    } else if (events & 1u << MACHINE_EVENT_POWEROFF) {
        control_event(vm->control, "SHUTDOWN", NULL);
        vm_end(vm, NULL);
    } else if (events & 1u << MACHINE_EVENT_RESET) {
        guest_reset(vm);
    }
}

static void look_at_guest(void *opaque)
{
    vm_look_at_guest(opaque);
}

/* From any thread. */
static void guest_event(void *opaque, enum machine_event event)
{
    struct vm *vm = opaque;

    atomic_fetch_or(&vm->guest_events, 1u << event);
    (void)loop_post(vm->loop, look_at_guest, vm);
}

static void guest_prints(void *opaque, const uint8_t *data, size_t size)
{
    const struct vm *vm = opaque;

    vm_serial_output(vm->serial, data, size);
}

/* ---- Making ---- */

int vm_create(struct vm **out, struct ferry_error *err)
{
    CLEANUP(vm_cleanup) struct vm *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    vm->dir = MACHINE_DIR_NONE;
    vm->started_ns = monotonic_ns();
    int error = signals_setup(err);
    if (!error)
        error = loop_create(&vm->loop, err);
    if (!error)
        error = vm_moves_create(vm, err);
    if (error)
        return error;
    *out = take_ptr(&vm);
    return 0;
}

/* A guest that this host cannot hold would die later, at the worst moment. */
static int check_memory(const struct machine_config *config, struct ferry_error *err)
{
    struct sysinfo host;
    char asked[32], there[32];

    if (sysinfo(&host))
        return 0;
    uint64_t bytes = ((uint64_t)host.totalram + host.totalswap) * host.mem_unit;
    if (config->memory_bytes <= bytes)
        return 0;
    return ferry_fail(err, -ENOMEM, "memory", "the machine wants %s, this host has %s with swap",
                      format_size(config->memory_bytes, asked, sizeof(asked)),
                      format_size(bytes, there, sizeof(there)));
}

static int claim_and_open(struct vm *vm, const struct machine_config *config, const char *serial,
                          bool unique, struct ferry_error *err)
{
    int error = check_memory(config, err);

    if (!error)
        error = machine_dir_claim(config->name, config->vm_id, unique, &vm->dir, err);
    if (!error)
        error = vm_serial_create(vm->loop, serial, config->name, quit_by_key, vm, &vm->serial, err);
    return error;
}

int vm_make_machine(struct vm *vm, const struct machine_config *config,
                    struct block *disks[LIMIT_DISKS], const char *serial, bool unique,
                    struct machine **out, struct ferry_error *err)
{
    int error = claim_and_open(vm, config, serial, unique, err);

    if (error) {
        disks_close(disks);
        return error;
    }
    struct machine_host host = {
        .log = output_log(), .serial_output = guest_prints, .event = guest_event, .opaque = vm};
    vm->config = *config;
    memcpy(host.disks, disks, sizeof(host.disks));
    memset(disks, 0, sizeof(host.disks)); /* the machine's from here on, also if it fails */
    signals_block();
    error = machine_create(config, &host, out, err);
    signals_unblock();
    return error;
}

void vm_adopt(struct vm *vm, struct machine *machine)
{
    vm->machine = machine;
    vm_serial_attach(vm->serial, machine);
}

void vm_set_boot(struct vm *vm, const char *kernel, const char *initrd)
{
    vm->boot = (struct boot_source){kernel, initrd, machine_config(vm->machine)->append};
}

int vm_serve(struct vm *vm, struct ferry_error *err)
{
    int error = control_create(vm->loop, vm->dir.socket_path, vm_commands, vm_command_count, vm,
                               output_log(), &vm->control, err);

    return error ? error : loop_post(vm->loop, look_at_guest, vm);
}

int vm_run(struct vm *vm, struct ferry_error *err)
{
    int error = loop_add(vm->loop, signals_fd(), EPOLLIN, signal_came, vm);

    if (error)
        return ferry_fail_sys(err, error, "signals", "cannot wait for them");
    error = loop_run(vm->loop, err);
    if (!error && vm->end_code) {
        *err = vm->end_err;
        error = vm->end_code;
    }
    return error;
}

void vm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    if (vm->serial)
        vm_serial_detach(vm->serial);
    machine_destroy(vm->machine);
    vm_answer_destroy(vm);
    vm_moves_destroy(vm);
    if (vm->control)
        control_close(vm->control);
    /* Before clients see the end: who waited for it finds nothing left. */
    machine_dir_release(&vm->dir);
    vm_serial_destroy(vm->serial);
    control_destroy(vm->control);
    loop_destroy(vm->loop);
    free(vm);
}

void vm_cleanup(struct vm **vm)
{
    vm_destroy(*vm);
}

/* ---- What it looks like from outside ---- */

const char *vm_state(const struct vm *vm)
{
    if (!vm->machine)
        return "incoming";
    if (vm->in_doubt)
        return "in-doubt";
    if (vm->stopped)
        return "stopped";
    return machine_is_running(vm->machine) ? "running" : "paused";
}

int vm_is_free(const struct vm *vm, struct ferry_error *err)
{
    if (vm->job && !vm->ending)
        return ferry_fail(err, -EBUSY, vm->dir.name, "is busy: %s is under way", vm->job->name);
    return vm_guest_is_free(vm, err);
}

int vm_guest_is_free(const struct vm *vm, struct ferry_error *err)
{
    const char *name = vm->dir.name;

    if (vm->ending)
        return ferry_fail(err, -EBUSY, name, "is ending");
    if (vm->job && !atomic_load(&vm->job->guest_is_free))
        return ferry_fail(err, -EBUSY, name, "is busy: %s is under way", vm->job->name);
    if (!vm->machine)
        return ferry_fail(err, -EBUSY, name, "has not arrived yet");
    if (vm->in_doubt)
        return ferry_refuse(
            err, -EBUSY, name,
            "is in doubt: the other side of a move may own it; see 'ferry resolve'");
    if (vm->stopped)
        return ferry_fail(err, -EBUSY, name, "has stopped for good; 'ferry status' says why");
    return 0;
}

static json_t *disks_to_json(const struct machine_config *config)
{
    json_t *disks = json_array();

    for (uint32_t i = 0; i < config->disk_count; i++)
        json_array_append_new(
            disks, json_pack("{s:s, s:I, s:b, s:s}", "device", config->disks[i].device,
                             "size_bytes", (json_int_t)config->disks[i].size_bytes, "readonly",
                             config->disks[i].readonly, "file_name", config->disks[i].file_name));
    return disks;
}

json_t *vm_status(struct vm *vm)
{
    const struct machine_config *config = vm->machine ? machine_config(vm->machine) : &vm->config;
    char id[33], generation[33], text[512];

    hex_encode(config->vm_id, sizeof(config->vm_id), id);
    hex_encode(config->generation, sizeof(config->generation), generation);
    json_t *status =
        json_pack("{s:s, s:i, s:s, s:I, s:s, s:s, s:i, s:s, s:I, s:o, s:o}", "name", vm->dir.name,
                  "pid", (int)getpid(), "state", vm_state(vm), "epoch", (json_int_t)config->epoch,
                  "vm_id", id, "generation", generation, "cpus", (int)config->cpus, "cpu_model",
                  config->cpu_model, "memory_bytes", (json_int_t)config->memory_bytes, "uptime_ms",
                  output_ms(monotonic_ns() - vm->started_ns), "disks", disks_to_json(config));
    if (status && vm->job)
        json_object_set_new(status, "job", json_string(vm->job->name));
    if (status && vm->stopped)
        json_object_set_new(
            status, "failure",
            json_string(ferry_error_text(machine_failure(vm->machine), text, sizeof(text))));
    return status;
}

/*
 * Moving out.  A move is a job; when it ends in doubt the machine stays paused and the other side
 * is asked every two seconds (and when the operator says so) until it is known who owns the guest.
 */
#include "cli/vm_moves.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "cli/vm_job.h"
#include "common/cleanup.h"
#include "migrate/ticket.h"

#define ASK_AGAIN_NS UINT64_C(2000000000)

struct vm_moves {
    struct ticket_store *tickets;
    char *uri; /* of the last move */
    bool insecure;
    bool ask_timer;
};

struct move_job {
    struct vm_job job; /* first: the two are one pointer */
    struct migrate_options options;
    struct migrate_result result;
    char *word; /* operator's: "run-here", "gone"; NULL: ask the other side */
};

int vm_moves_create(struct vm *vm, struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;

    vm->moves = calloc(1, sizeof(*vm->moves));
    if (!vm->moves)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = runtime_base(&base, err);
    return error ? error : ticket_store_open(base, &vm->moves->tickets, err);
}

void vm_moves_destroy(struct vm *vm)
{
    if (!vm->moves)
        return;
    ticket_store_close(vm->moves->tickets);
    free(vm->moves->uri);
    free(take_ptr(&vm->moves));
}

struct ticket_store *vm_tickets(struct vm *vm)
{
    return vm->moves->tickets;
}

static json_t *result_to_json(const struct migrate_result *r)
{
    return json_pack("{s:s, s:i, s:o, s:o, s:I, s:{s:I, s:I, s:I, s:I}, s:o, s:o}", "mode",
                     r->mode ? r->mode : "", "rounds", (int)r->rounds, "total_ms",
                     output_ms(r->total_ns), "downtime_ms", output_ms(r->downtime_ns), "bytes_sent",
                     (json_int_t)r->bytes_sent, "bytes_by_kind", "raw", (json_int_t)r->bytes_raw,
                     "zero", (json_int_t)r->bytes_zero, "state", (json_int_t)r->bytes_state,
                     "absent", (json_int_t)r->bytes_absent, "predicted_total_ms",
                     output_ms(r->predicted_total_ns), "predicted_downtime_ms",
                     output_ms(r->predicted_downtime_ns));
}

static void destroy(struct vm_job *job)
{
    struct move_job *m = (struct move_job *)job;

    free(m->word);
    free(m);
}

/* ---- In doubt ---- */

static int ask(struct vm_job *job, struct ferry_error *err)
{
    struct move_job *m = (struct move_job *)job;

    if (m->word)
        return migrate_resolve(job->vm->machine, machine_config(job->vm->machine)->vm_id,
                               !strcmp(m->word, "run-here"), &m->options, &m->result, err);
    return migrate_query(job->vm->machine, &m->options, &m->result, err);
}

static void ask_later(struct vm *vm);

static void answered(struct vm_job *job)
{
    const struct move_job *m = (struct move_job *)job;
    struct vm *vm = job->vm;
    const char *outcome = m->result.outcome == MIGRATE_MOVED ? "moved" : "kept";

    if (job->error) {
        vm_job_reply_error(job);
        ask_later(vm);
        return;
    }
    vm->in_doubt = false;
    control_event(vm->control, "RESOLVED", json_pack("{s:s}", "outcome", outcome));
    if (job->call)
        control_reply(job->call, json_pack("{s:s}", "outcome", outcome));
    job->call = NULL;
    if (m->result.outcome == MIGRATE_MOVED)
        vm_end(vm, NULL);
}

static int start_asking(struct vm *vm, struct control_call *call, const char *word,
                        struct ferry_error *err)
{
    struct move_job *m = calloc(1, sizeof(*m));

    if (!m || (word && !(m->word = strdup(word)))) {
        free(m);
        return ferry_fail(err, -ENOMEM, "resolve", "out of memory");
    }
    m->job = (struct vm_job){.name = "question to the other side",
                             .guest_may_stop = true,
                             .work = ask,
                             .done = answered,
                             .destroy = destroy,
                             .call = call};
    m->options = (struct migrate_options){.uri = vm->moves->uri,
                                          .insecure = vm->moves->insecure,
                                          .tickets = vm->moves->tickets,
                                          .log = output_log()};
    int error = vm_job_start(vm, &m->job, err);
    if (error)
        destroy(&m->job);
    return error;
}

static void ask_now(void *opaque)
{
    struct vm *vm = opaque;

    vm->moves->ask_timer = false;
    if (!vm->in_doubt || vm->ending || vm->job)
        return; /* a job under way asks, or its end comes here again */
    if (start_asking(vm, NULL, NULL, NULL))
        ask_later(vm);
}

static void ask_later(struct vm *vm)
{
    if (!vm->moves->ask_timer)
        vm->moves->ask_timer = !loop_after(vm->loop, ASK_AGAIN_NS, ask_now, vm);
}

void vm_resolve_command(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;
    const char *word = json_string_value(json_object_get(control_arguments(call), "word"));
    int error = 0;

    if (!vm->in_doubt)
        error = ferry_usage(&err, vm->dir.name, "is not in doubt: there is nothing to resolve");
    else if (vm->job || vm->ending)
        error =
            ferry_fail(&err, -EBUSY, vm->dir.name, "the other side is just being asked; try again");
    else if (word && strcmp(word, "run-here") && strcmp(word, "gone"))
        error = ferry_usage(&err, "resolve", "the word is run-here or gone");
    if (!error)
        error = start_asking(vm, call, word, &err);
    if (error)
        control_reply_error(call, &err);
}

/* ---- Moving out ---- */

static int move(struct vm_job *job, struct ferry_error *err)
{
    struct move_job *m = (struct move_job *)job;

    return migrate_out(job->vm->machine, &m->options, &job->progress, &m->result, err);
}

static void moved(struct vm_job *job)
{
    const struct move_job *m = (struct move_job *)job;
    struct vm *vm = job->vm;

    if (!job->error) {
        control_event(vm->control, "MOVED", json_pack("{s:s}", "uri", m->options.uri));
        control_reply(job->call, result_to_json(&m->result));
        vm_end(vm, NULL);
        return;
    }
    if (m->result.outcome == MIGRATE_IN_DOUBT) {
        vm->in_doubt = true;
        job->err.kind = FERRY_REFUSED;
        control_event(vm->control, "IN_DOUBT", NULL);
        ask_later(vm);
    }
    vm_job_reply_error(job);
}

static uint64_t number(const json_t *arguments, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(arguments, key));

    return value > 0 ? (uint64_t)value : 0;
}

static int start_move(struct vm *vm, struct control_call *call, struct ferry_error *err)
{
    const json_t *arguments = control_arguments(call);
    const char *uri = json_string_value(json_object_get(arguments, "uri"));
    struct vm_moves *moves = vm->moves;
    char *copy = uri ? strdup(uri) : NULL;
    struct move_job *m = calloc(1, sizeof(*m));

    if (!copy || !m) {
        free(copy);
        free(m);
        return uri ? ferry_fail(err, -ENOMEM, "migrate", "out of memory")
                   : ferry_usage(err, "migrate", "wants a uri");
    }
    free(moves->uri);
    moves->uri = copy;
    moves->insecure = json_is_true(json_object_get(arguments, "insecure"));
    m->job = (struct vm_job){
        .name = "migrate", .work = move, .done = moved, .destroy = destroy, .call = call};
    m->options = (struct migrate_options){.uri = moves->uri,
                                          .insecure = moves->insecure,
                                          .downtime_ns = number(arguments, "downtime_ns"),
                                          .bandwidth = number(arguments, "bandwidth"),
                                          .rounds_max = (unsigned)number(arguments, "rounds"),
                                          .tickets = moves->tickets,
                                          .log = output_log()};
    int error = vm_job_start(vm, &m->job, err);
    if (error)
        destroy(&m->job);
    return error;
}

/* The other host opens a disk by its file's name: an image with an overlay cannot be found so. */
static int check_disks(const struct vm *vm, struct ferry_error *err)
{
    for (uint32_t i = 0; i < machine_disk_count(vm->machine); i++)
        if (machine_disk(vm->machine, i)->stays)
            return ferry_refuse(err, -ENOTSUP, machine_config(vm->machine)->disks[i].device,
                                "the disk stands on an image, which cannot move yet: 'ferry "
                                "snapshot' takes it along");
    return 0;
}

void vm_migrate_command(struct control_call *call, void *opaque)
{
    struct vm *vm = opaque;
    struct ferry_error err;

    int error = vm_is_free(vm, &err);
    if (!error)
        error = check_disks(vm, &err);
    if (!error)
        error = start_move(vm, call, &err);
    if (error)
        control_reply_error(call, &err);
}

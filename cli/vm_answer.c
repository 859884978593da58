/*
 * Answering after the arrival: a source that lost the connection at the last step asks what became
 * of its machine.  One connection at a time, each on a thread of its own, since peers are slow.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/signals.h"
#include "cli/vm_moves.h"
#include "cli/vm_receive.h"
#include "common/cleanup.h"

struct vm_answer {
    struct vm *vm;
    struct listener *listener;
    struct stream *stream; /* being answered, or NULL */
    struct progress progress;
    struct receive_result result;
    pthread_t thread;
    bool stopping;
};

static int refuse(void *opaque, struct machine_config *config, struct machine **out,
                  struct ferry_error *err)
{
    (void)opaque;
    (void)config;
    (void)out;
    return ferry_refuse(err, -EBUSY, NULL, "this receiver has its machine already");
}

static void listen_again(struct vm_answer *answer);

static void answered(void *opaque)
{
    struct vm_answer *answer = opaque;

    pthread_join(answer->thread, NULL);
    stream_close(take_ptr(&answer->stream));
    if (answer->result.source_released || answer->stopping)
        vm_answer_stop(answer->vm);
    else
        listen_again(answer);
}

static void *run(void *opaque)
{
    struct vm_answer *answer = opaque;
    const struct receive_host host = {
        .create = refuse, .tickets = vm_tickets(answer->vm), .log = output_log()};
    struct machine *machine = NULL;

    (void)migrate_in(answer->stream, &host, &answer->progress, &machine, &answer->result, NULL);
    while (loop_post(answer->vm->loop, answered, answer))
        usleep(10000);
    return NULL;
}

static void somebody_asks(void *opaque, uint32_t events)
{
    struct vm_answer *answer = opaque;

    (void)events;
    if (listener_accept(answer->listener, &answer->stream, NULL))
        return;
    loop_remove(answer->vm->loop, listener_fd(answer->listener));
    answer->result = (struct receive_result){0};
    signals_block();
    int error = pthread_create(&answer->thread, NULL, run, answer);
    signals_unblock();
    if (error) {
        stream_close(take_ptr(&answer->stream));
        listen_again(answer);
    }
}

static void listen_again(struct vm_answer *answer)
{
    (void)loop_add(answer->vm->loop, listener_fd(answer->listener), EPOLLIN, somebody_asks, answer);
}

int vm_answer_start(struct vm *vm, struct listener *listener, struct ferry_error *err)
{
    struct vm_answer *answer = calloc(1, sizeof(*answer));

    if (!answer) {
        listener_close(listener);
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    }
    *answer = (struct vm_answer){.vm = vm, .listener = listener};
    vm->answer = answer;
    listen_again(answer);
    return 0;
}

void vm_answer_stop(struct vm *vm)
{
    struct vm_answer *answer = vm->answer;

    if (!answer)
        return;
    if (answer->stream) { /* goes when its thread is done */
        answer->stopping = true;
        atomic_store(&answer->progress.cancelled, true);
        return;
    }
    vm->answer = NULL;
    loop_remove(vm->loop, listener_fd(answer->listener));
    listener_close(answer->listener);
    free(answer);
}

void vm_answer_destroy(struct vm *vm)
{
    struct vm_answer *answer = vm->answer;

    if (answer && answer->stream) {
        atomic_store(&answer->progress.cancelled, true);
        answer->stream->ops->cancel(answer->stream);
        pthread_join(answer->thread, NULL);
        stream_close(take_ptr(&answer->stream));
    }
    vm_answer_stop(vm);
}

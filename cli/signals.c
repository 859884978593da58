/* Ending by signal, in an orderly way. */
#include "cli/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
#define ENDING_COUNT (sizeof(ending) / sizeof(ending[0]))

static int event_fd = -1;
static atomic_int came;
static struct progress *_Atomic to_cancel;

static void ask_to_end(int number)
{
    const uint64_t one = 1;
    int saved = errno;
    struct progress *progress = atomic_load(&to_cancel);

    atomic_store(&came, number);
    if (progress)
        atomic_store(&progress->cancelled, true);
    if (write(event_fd, &one, sizeof(one)) < 0) {
        /* full: it is readable, which is all that is wanted */
    }
    errno = saved;
}

int signals_setup(struct ferry_error *err)
{
    struct sigaction action = {.sa_handler = ask_to_end};

    if (event_fd >= 0) /* of the parent: a signal to it is not for us */
        close(event_fd);
    atomic_store(&came, 0);
    event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd < 0)
        return ferry_fail_sys(err, -errno, "signals", "cannot set up");
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ENDING_COUNT; i++) {
        struct sigaction old;
        /* Under nohup the terminal's end is none of ours. */
        if (ending[i] == SIGHUP && !sigaction(SIGHUP, NULL, &old) && old.sa_handler == SIG_IGN)
            continue;
        sigaction(ending[i], &action, NULL);
    }
    return 0;
}

int signals_fd(void)
{
    return event_fd;
}

int signals_came(void)
{
    return atomic_load(&came);
}

void signals_cancel(struct progress *progress)
{
    atomic_store(&to_cancel, progress);
    if (progress && signals_came())
        atomic_store(&progress->cancelled, true);
}

static void mask(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ENDING_COUNT; i++)
        sigaddset(&set, ending[i]);
    pthread_sigmask(how, &set, NULL);
}

void signals_block(void)
{
    mask(SIG_BLOCK);
}

void signals_unblock(void)
{
    mask(SIG_UNBLOCK);
}

/* ferry stop: the power button, and patience. */
#include <errno.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "common/units.h"

#define ANSWER_MS    10000
#define KILL_WAIT_NS UINT64_C(5000000000)

struct stop_options {
    const char *name;
    uint64_t timeout_ns;
    bool force;
};

static const struct stop_options defaults = {.timeout_ns = UINT64_C(30000000000)};

static int run(void *parsed, struct ferry_error *err)
{
    const struct stop_options *o = parsed;
    CLEANUP(client_close) struct client client = CLIENT_NONE;
    char time[32];

    int error = client_connect(o->name, &client, err);
    if (!error)
        error = client_call(&client, "power-button", NULL, -1, NULL, ANSWER_MS, NULL, err);
    if (error)
        return error;
    error = client_wait_end(&client, o->timeout_ns, err);
    if (!error || error != -ETIMEDOUT)
        return error;
    if (!o->force)
        return ferry_fail(err, -ETIMEDOUT, o->name,
                          "the guest did not switch itself off within %s; 'ferry kill %s' does "
                          "not ask it",
                          format_duration(o->timeout_ns, time, sizeof(time)), o->name);
    error = client_call(&client, "quit", NULL, -1, NULL, ANSWER_MS, NULL, err);
    if (!error)
        error = client_wait_end(&client, KILL_WAIT_NS, err);
    return error ? machine_force_kill(o->name, err) : 0;
}

static const struct option_spec options[] = {
    OPTION("timeout", "TIME", OPTION_DURATION, struct stop_options, timeout_ns,
           "how long the guest may take (default: 30s)"),
    OPTION("force", NULL, OPTION_FLAG, struct stop_options, force,
           "kill it when the time is over, instead of failing"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct stop_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_stop = {
    .name = "stop",
    .summary = "Press the power button and wait until the guest is off",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct stop_options),
    .defaults = &defaults,
    .run = run,
};

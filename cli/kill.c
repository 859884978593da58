/* ferry kill: end a machine now, by its process if it does not listen. */
#include <string.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime_dir.h"
#include "common/cleanup.h"

#define ANSWER_MS 3000
#define WAIT_NS   UINT64_C(5000000000)

struct kill_options {
    const char *name;
};

static bool is_in_doubt(struct client *client)
{
    json_t *status = NULL;

    if (client_call(client, "status", NULL, -1, NULL, ANSWER_MS, &status, NULL))
        return false;
    const char *state = json_string_value(json_object_get(status, "state"));
    bool in_doubt = state && !strcmp(state, "in-doubt");
    json_decref(status);
    return in_doubt;
}

static int ask_to_quit(const char *name)
{
    CLEANUP(client_close) struct client client = CLIENT_NONE;

    int error = client_connect(name, &client, NULL);
    bool in_doubt = !error && is_in_doubt(&client);
    if (!error)
        error = client_call(&client, "quit", NULL, -1, NULL, ANSWER_MS, NULL, NULL);
    if (!error)
        error = client_wait_end(&client, WAIT_NS, NULL);
    if (!error && in_doubt)
        output_note("%s: its move is still in doubt: the other side may run it; 'ferry resolve %s' "
                    "asks there",
                    name, name);
    return error;
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct kill_options *o = parsed;

    if (!machine_is_alive(o->name))
        return machine_missing(o->name, err);
    if (!ask_to_quit(o->name) || !machine_is_alive(o->name))
        return 0;
    return machine_force_kill(o->name, err);
}

static const struct operand_spec operands[] = {
    OPERAND("NAME", struct kill_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_kill = {
    .name = "kill",
    .summary = "End a machine at once, as if its plug were pulled",
    .operands = operands,
    .parsed_size = sizeof(struct kill_options),
    .run = run,
};

/* ferry migrate: a machine to another host. */
#include <string.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "common/cleanup.h"
#include "common/units.h"
#include "transport/uri.h"

struct migrate_cli {
    const char *name;
    const char *uri;
    uint64_t downtime_ns;
    uint64_t bandwidth;
    uint64_t rounds;
    bool insecure;
    bool json;
    struct progress_options progress;
};

static int call(const struct migrate_cli *o, struct progress_view *view, json_t **result,
                struct ferry_error *err)
{
    CLEANUP(client_close) struct client client = CLIENT_NONE;
    struct uri uri;

    int error = uri_parse(o->uri, &uri, err);
    if (!error)
        error = client_connect(o->name, &client, err);
    if (error)
        return error;
    return client_call(&client, "migrate",
                       json_pack("{s:s, s:I, s:I, s:I, s:b}", "uri", o->uri, "downtime_ns",
                                 (json_int_t)o->downtime_ns, "bandwidth", (json_int_t)o->bandwidth,
                                 "rounds", (json_int_t)o->rounds, "insecure", o->insecure),
                       -1, view, -1, result, err);
}

static double number(const json_t *result, const char *key)
{
    return json_number_value(json_object_get(result, key));
}

static void print(const struct migrate_cli *o, const json_t *result)
{
    char total[32], down[32], bytes[32], predicted[32];

    format_duration((uint64_t)(number(result, "total_ms") * 1e6), total, sizeof(total));
    format_duration((uint64_t)(number(result, "downtime_ms") * 1e6), down, sizeof(down));
    format_duration((uint64_t)(number(result, "predicted_downtime_ms") * 1e6), predicted,
                    sizeof(predicted));
    format_size((uint64_t)number(result, "bytes_sent"), bytes, sizeof(bytes));
    output_text("%s: moved to %s in %s (%s, %d rounds), %s sent; downtime %s (predicted %s)",
                o->name, o->uri, total, json_string_value(json_object_get(result, "mode")),
                (int)number(result, "rounds"), bytes, down, predicted);
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct migrate_cli *o = parsed;
    struct progress_view view;
    json_t *result = NULL;

    int error = progress_view_init(&view, &o->progress, err);
    if (!error)
        error = call(o, &view, &result, err);
    if (error)
        return error;
    if (o->json)
        return output_json(result, err);
    print(o, result);
    json_decref(result);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("downtime", "TIME", OPTION_DURATION, struct migrate_cli, downtime_ns,
           "how long the guest may stand still (default: 100ms)"),
    OPTION("bandwidth", "SIZE", OPTION_SIZE, struct migrate_cli, bandwidth,
           "bytes a second to send at most (default: no limit)"),
    OPTION_RANGE("rounds", "N", struct migrate_cli, rounds, 1, 1000,
                 "rounds of copying at most, while the guest runs\n(default: 30)"),
    OPTION("insecure", NULL, OPTION_FLAG, struct migrate_cli, insecure,
           "allow tcp:// beyond this host: nothing is encrypted"),
    OPTION("json", NULL, OPTION_FLAG, struct migrate_cli, json, "print JSON"),
    PROGRESS_OPTIONS(struct migrate_cli, progress),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct migrate_cli, name, "the machine"),
    OPERAND("URI", struct migrate_cli, uri,
            "where 'ferry receive' waits: unix:PATH or tcp://HOST:PORT"),
    {.name = NULL},
};

const struct command command_migrate = {
    .name = "migrate",
    .summary = "Move a running machine to another host",
    .details =
        "Its memory is copied while it runs, in rounds; then it is paused, the rest is sent,\n"
        "and it goes on over there.  Ctrl-C cancels the move until the last step of it.  If\n"
        "nobody can tell whether that step was done, the machine stays paused, in doubt, and\n"
        "asks by itself; see ferry-resolve(1).",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct migrate_cli),
    .run = run,
};

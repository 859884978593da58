/*
 * ferry resolve: settle a move that is in doubt.  A live process asks for itself; a bare ticket,
 * whose process is gone, is asked about here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/orphans.h"
#include "cli/output.h"
#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "migrate/migrate.h"

struct resolve_options {
    const char *name;
    bool retry;
    bool run_here;
    bool gone;
    bool fenced;
    bool insecure;
    bool json;
};

static int check(const struct resolve_options *o, struct ferry_error *err)
{
    if (o->retry + o->run_here + o->gone > 1)
        return ferry_usage(err, "resolve", "give one of --retry, --run-here and --gone");
    if ((o->run_here || o->gone) && !o->fenced)
        return ferry_usage(err, "resolve",
                           "a wrong --%s makes two guests run, or none; if you have made sure of "
                           "the other side, say --i-fenced-the-other-side, too",
                           o->run_here ? "run-here" : "gone");
    return 0;
}

static int resolve_live(const struct resolve_options *o, char *outcome, size_t size,
                        struct ferry_error *err)
{
    json_t *result = NULL;
    json_t *arguments = json_object();

    if (o->run_here || o->gone)
        json_object_set_new(arguments, "word", json_string(o->run_here ? "run-here" : "gone"));
    int error = client_ask(o->name, "resolve", arguments, -1, &result, err);
    if (error)
        return error;
    const char *text = json_string_value(json_object_get(result, "outcome"));
    snprintf(outcome, size, "%s", text ? text : "");
    json_decref(result);
    return 0;
}

static void close_store(struct ticket_store **store)
{
    ticket_store_close(*store);
}

static int resolve_orphan(const struct resolve_options *o, char *outcome, size_t size,
                          struct ferry_error *err)
{
    CLEANUP_FREE char *base = NULL;
    CLEANUP(close_store) struct ticket_store *store = NULL;
    struct migrate_result result = {.outcome = MIGRATE_IN_DOUBT};
    struct ticket_record record;

    int error = orphan_find(o->name, &record, err);
    if (!error)
        error = runtime_base(&base, err);
    if (!error)
        error = ticket_store_open(base, &store, err);
    if (error)
        return error;
    const struct migrate_options options = {
        .insecure = o->insecure, .tickets = store, .log = output_log()};
    if (o->run_here || o->gone)
        error = migrate_resolve(NULL, record.vm_id, o->run_here, &options, &result, err);
    else
        error = migrate_query_orphan(record.vm_id, &options, &result, err);
    if (!error)
        snprintf(outcome, size, "%s", result.outcome == MIGRATE_MOVED ? "moved" : "lost");
    return error;
}

static const char *explain(const char *outcome)
{
    if (!strcmp(outcome, "moved"))
        return "moved: the other side owns it";
    if (!strcmp(outcome, "kept"))
        return "kept: it goes on here";
    return "lost: the other side never ran it, and it died here with its process; restore it from "
           "an image";
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct resolve_options *o = parsed;
    char outcome[32] = "";

    int error = check(o, err);
    if (!error)
        error = machine_is_alive(o->name) ? resolve_live(o, outcome, sizeof(outcome), err)
                                          : resolve_orphan(o, outcome, sizeof(outcome), err);
    if (error)
        return error;
    if (o->json)
        return output_json(json_pack("{s:s, s:s}", "name", o->name, "outcome", outcome), err);
    output_text("%s: %s", o->name, explain(outcome));
    return 0;
}

static const struct option_spec options[] = {
    OPTION("retry", NULL, OPTION_FLAG, struct resolve_options, retry,
           "ask the other side now (the default)"),
    OPTION("run-here", NULL, OPTION_FLAG, struct resolve_options, run_here,
           "ask nobody: the guest goes on here"),
    OPTION("gone", NULL, OPTION_FLAG, struct resolve_options, gone,
           "ask nobody: the other side has the guest"),
    OPTION("i-fenced-the-other-side", NULL, OPTION_FLAG, struct resolve_options, fenced,
           "yes, I know for certain: needed with --run-here and\n--gone"),
    OPTION("insecure", NULL, OPTION_FLAG, struct resolve_options, insecure,
           "the move went over tcp:// beyond this host (bare ticket)"),
    OPTION("json", NULL, OPTION_FLAG, struct resolve_options, json, "print JSON"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct resolve_options, name, "the machine, or its vm id"),
    {.name = NULL},
};

const struct command command_resolve = {
    .name = "resolve",
    .summary = "Settle a move of which nobody knows how it ended",
    .details =
        "Asks the other side who owns the guest.  Only if it will never answer again is the\n"
        "operator's word the last resort.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct resolve_options),
    .run = run,
};

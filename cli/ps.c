/* ferry ps: the machines of this user on this host. */
#include <stdlib.h>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/orphans.h"
#include "cli/output.h"
#include "cli/runtime_dir.h"
#include "common/cleanup.h"
#include "common/units.h"

#define ANSWER_MS 2000

struct ps_options {
    bool json;
};

/* The status of one machine; of one that does not answer, what can be told. */
static json_t *look_at(const char *name)
{
    json_t *status = NULL;

    if (!client_ask(name, "status", NULL, ANSWER_MS, &status, NULL))
        return status;
    if (!machine_is_alive(name))
        return NULL; /* it ended just now */
    return json_pack("{s:s, s:i, s:s}", "name", name, "pid", (int)machine_pid(name), "state",
                     "unresponsive");
}

static json_int_t integer(const json_t *status, const char *key)
{
    return json_integer_value(json_object_get(status, key));
}

static void print_row(const json_t *status)
{
    char memory[32] = "-", uptime[32] = "-";
    const json_t *ms = json_object_get(status, "uptime_ms");

    if (json_object_get(status, "memory_bytes"))
        format_size((uint64_t)integer(status, "memory_bytes"), memory, sizeof(memory));
    if (ms)
        format_duration((uint64_t)(json_number_value(ms) * 1e6), uptime, sizeof(uptime));
    output_text("%-20s %8d %-10s %4d %10s %10s", json_string_value(json_object_get(status, "name")),
                (int)integer(status, "pid"), json_string_value(json_object_get(status, "state")),
                (int)integer(status, "cpus"), memory, uptime);
}

static int list_live(json_t *list, struct ferry_error *err)
{
    char **names = NULL;

    int count = machine_list(&names, err);
    for (int i = 0; i < count; i++) {
        json_t *one = look_at(names[i]);
        if (one)
            json_array_append_new(list, one);
        free(names[i]);
    }
    free(names);
    return count < 0 ? count : 0;
}

/* Moves in doubt whose process is gone. */
static int list_orphans(json_t *list, struct ferry_error *err)
{
    CLEANUP_FREE struct ticket_record *records = NULL;
    size_t count;

    int error = orphan_list(&records, &count, err);
    for (size_t i = 0; i < count && !error; i++)
        json_array_append_new(list, orphan_status(&records[i]));
    return error;
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct ps_options *o = parsed;
    json_t *list = json_array();

    int error = list_live(list, err);
    if (!error)
        error = list_orphans(list, err);
    if (!error && o->json)
        return output_json(list, err);
    if (!error) {
        output_text("%-20s %8s %-10s %4s %10s %10s", "NAME", "PID", "STATE", "CPUS", "MEMORY",
                    "UPTIME");
        for (size_t i = 0; i < json_array_size(list); i++)
            print_row(json_array_get(list, i));
    }
    json_decref(list);
    return error;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct ps_options, json, "print a JSON array"),
    {.name = NULL},
};

const struct command command_ps = {
    .name = "ps",
    .summary = "List the machines",
    .options = options,
    .parsed_size = sizeof(struct ps_options),
    .run = run,
};

/* ferry status: one machine. */
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/orphans.h"
#include "cli/output.h"
#include "cli/runtime_dir.h"
#include "common/units.h"

#define ANSWER_MS 10000

struct status_options {
    const char *name;
    bool json;
};

static const char *text(const json_t *status, const char *key)
{
    const char *value = json_string_value(json_object_get(status, key));

    return value ? value : "";
}

static json_int_t integer(const json_t *status, const char *key)
{
    return json_integer_value(json_object_get(status, key));
}

static void print(const json_t *status)
{
    const json_t *disks = json_object_get(status, "disks");
    char size[32];

    output_text("%s: %s (pid %d)", text(status, "name"), text(status, "state"),
                (int)integer(status, "pid"));
    output_text("  epoch       %lld", (long long)integer(status, "epoch"));
    output_text("  vm id       %s", text(status, "vm_id"));
    if (json_object_get(status, "peer")) {
        output_text("  moving to   %s\n  its process is gone; see 'ferry resolve'",
                    text(status, "peer"));
        return;
    }
    output_text("  generation  %s", text(status, "generation"));
    output_text("  cpus        %d (%s)", (int)integer(status, "cpus"), text(status, "cpu_model"));
    output_text("  memory      %s",
                format_size((uint64_t)integer(status, "memory_bytes"), size, sizeof(size)));
    for (size_t i = 0; i < json_array_size(disks); i++) {
        const json_t *disk = json_array_get(disks, i);
        output_text("  disk %s    %s, %s%s", text(disk, "device"),
                    format_size((uint64_t)integer(disk, "size_bytes"), size, sizeof(size)),
                    text(disk, "file_name"),
                    json_is_true(json_object_get(disk, "readonly")) ? ", read-only" : "");
    }
    if (json_object_get(status, "job"))
        output_text("  under way   %s", text(status, "job"));
    if (json_object_get(status, "failure"))
        output_text("  failure     %s", text(status, "failure"));
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct status_options *o = parsed;
    struct ticket_record record;
    json_t *status = NULL;
    int error = 0;

    if (machine_is_alive(o->name))
        error = client_ask(o->name, "status", NULL, ANSWER_MS, &status, err);
    else if (!(error = orphan_find(o->name, &record, err)))
        status = orphan_status(&record);
    if (error)
        return error;
    if (o->json)
        return output_json(status, err);
    print(status);
    json_decref(status);
    return 0;
}

static const struct option_spec options[] = {
    OPTION("json", NULL, OPTION_FLAG, struct status_options, json, "print JSON"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("NAME", struct status_options, name, "the machine"),
    {.name = NULL},
};

const struct command command_status = {
    .name = "status",
    .summary = "Tell how a machine is",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct status_options),
    .run = run,
};

/* ferry help, and the table of all commands. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/output.h"

const struct command *const commands[] = {
    &command_run,     &command_ps,      &command_status,  &command_console,  &command_pause,
    &command_resume,  &command_stop,    &command_kill,    &command_snapshot, &command_pack,
    &command_restore, &command_receive, &command_migrate, &command_resolve,  &command_inspect,
    &command_verify,  &command_sign,    &command_digest,  &command_diff,     &command_extract,
    &command_serve,   &command_flatten, &command_rebase,  &command_export,   &command_import,
    &command_convert, &command_formats, &command_version, &command_help,     NULL,
};

#define COMMANDS_MAX (sizeof(commands) / sizeof(commands[0]))

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

int command_unknown(const char *name, struct ferry_error *err)
{
    const char *names[COMMANDS_MAX] = {NULL};

    for (size_t i = 0; commands[i]; i++)
        names[i] = commands[i]->name;
    const char *better = options_suggest(name, names);
    if (better)
        return ferry_usage(err, NULL, "unknown command '%.60s'; did you mean '%s'?", name, better);
    return ferry_usage(err, NULL, "unknown command '%.60s'; see 'ferry help'", name);
}

struct help_options {
    const char *command;
};

static int run(void *parsed, struct ferry_error *err)
{
    const struct help_options *o = parsed;

    if (o->command) {
        const struct command *command = command_find(o->command);
        if (!command)
            return command_unknown(o->command, err);
        options_help(command, stdout);
        return 0;
    }
    output_text(
        "Usage: ferry COMMAND [ARGUMENT]... [OPTION]...\n\n"
        "ferry runs KVM virtual machines, writes them down, reads them back and moves them\n"
        "to other hosts while they run.\n\nCommands:");
    for (size_t i = 0; commands[i]; i++)
        output_text("  %-10s %s", commands[i]->name, commands[i]->summary);
    output_text("\n'ferry help COMMAND' explains one; ferry(1) has the whole.\n"
                "Sizes take K, M, G, T (binary), times take us, ms, s.\n"
                "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused.");
    return 0;
}

static const struct operand_spec operands[] = {
    OPTIONAL_OPERAND("COMMAND", struct help_options, command, "the command to explain"),
    {.name = NULL},
};

const struct command command_help = {
    .name = "help",
    .summary = "Explain ferry or one of its commands",
    .operands = operands,
    .parsed_size = sizeof(struct help_options),
    .run = run,
};

/* ferry: find the command, parse its arguments, do it, say what went wrong, give the status. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "common/cleanup.h"

static int run_command(const struct command *command, int argc, char **argv,
                       struct ferry_error *err)
{
    CLEANUP_FREE void *parsed = calloc(1, command->parsed_size ? command->parsed_size : 1);
    bool help;

    if (!parsed)
        return ferry_fail(err, -ENOMEM, NULL, "out of memory");
    int error = options_parse(command, argc, argv, parsed, &help, err);
    if (!error && help) {
        options_help(command, stdout);
        return output_flush(err);
    }
    if (!error)
        error = command->run(parsed, err);
    return error ? error : output_flush(err);
}

static int start(int argc, char **argv, struct ferry_error *err)
{
    char *help[] = {(char[]){"help"}, NULL};
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name)
        return ferry_usage(err, NULL, "a command is missing; see 'ferry help'");
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        return run_command(&command_help, 1, help, err);
    if (!strcmp(name, "--version"))
        return run_command(&command_version, argc - 1, argv + 1, err);
    const struct command *command = command_find(name);
    if (!command)
        return command_unknown(name, err);
    return run_command(command, argc - 1, argv + 1, err);
}

int main(int argc, char **argv)
{
    struct ferry_error err = {0};

    signal(SIGPIPE, SIG_IGN);
    int error = start(argc, argv, &err);
    terminal_restore();
    if (!error)
        return 0;
    output_error(&err);
    return err.kind ? (int)err.kind : FERRY_FAILED;
}

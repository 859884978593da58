/* All commands; one file each. */
#ifndef FERRY_CLI_COMMANDS_H
#define FERRY_CLI_COMMANDS_H

#include "cli/options.h"

extern const struct command command_run;
extern const struct command command_ps;
extern const struct command command_status;
extern const struct command command_console;
extern const struct command command_pause;
extern const struct command command_resume;
extern const struct command command_stop;
extern const struct command command_kill;
extern const struct command command_snapshot;
extern const struct command command_pack;
extern const struct command command_restore;
extern const struct command command_receive;
extern const struct command command_migrate;
extern const struct command command_resolve;
extern const struct command command_inspect;
extern const struct command command_sign;
extern const struct command command_verify;
extern const struct command command_digest;
extern const struct command command_diff;
extern const struct command command_extract;
extern const struct command command_serve;
extern const struct command command_flatten;
extern const struct command command_rebase;
extern const struct command command_export;
extern const struct command command_import;
extern const struct command command_convert;
extern const struct command command_formats;
extern const struct command command_version;
extern const struct command command_help;

/* NULL-terminated, in the order of the help. */
extern const struct command *const commands[];
const struct command *command_find(const char *name);
/* "unknown command 'x'; did you mean y?" */
int command_unknown(const char *name, struct ferry_error *err);

#endif

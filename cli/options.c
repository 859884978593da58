/*
 * Table-driven parsing of a command's arguments.  Options may stand anywhere, "--name value" or
 * "--name=value"; "--" ends them; "-" alone is an operand (a pipe).
 */
#include "cli/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"

#define SUGGEST_MAX_BYTES 32
#define HELP_COLUMN       28

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;

    return least < c ? least : c;
}

/* Levenshtein's distance of two short texts. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[SUGGEST_MAX_BYTES + 1];
    size_t columns = strlen(b);

    for (unsigned j = 0; j <= columns; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            unsigned above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[columns];
}

const char *options_suggest(const char *text, const char *const *names)
{
    const char *best = NULL;
    unsigned best_distance = 3; /* more than two typing errors is another word */

    if (strlen(text) > SUGGEST_MAX_BYTES)
        return NULL;
    for (; *names; names++) {
        bool prefix = strlen(text) > 1 && !strncmp(*names, text, strlen(text));
        unsigned d = strlen(*names) > SUGGEST_MAX_BYTES ? 99 : prefix ? 1 : distance(text, *names);
        if (d < best_distance && d < strlen(*names)) {
            best = *names;
            best_distance = d;
        }
    }
    return best;
}

static const struct option_spec *find_option(const struct command *command, const char *name,
                                             size_t length)
{
    for (const struct option_spec *o = command->options; o && o->name; o++)
        if (strlen(o->name) == length && !memcmp(o->name, name, length))
            return o;
    return NULL;
}

static int unknown_option(const struct command *command, const char *argument,
                          struct ferry_error *err)
{
    const char *names[64] = {"help"};
    char name[SUGGEST_MAX_BYTES + 1];
    size_t count = 1;

    for (const struct option_spec *o = command->options; o && o->name && count < 63; o++)
        names[count++] = o->name;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(argument + strspn(argument, "-"), "="),
             argument + strspn(argument, "-"));
    const char *better = options_suggest(name, names);
    if (better)
        return ferry_usage(err, command->name, "unknown option '%.60s'; did you mean --%s?",
                           argument, better);
    return ferry_usage(err, command->name, "unknown option '%.60s'; see 'ferry %s --help'",
                       argument, command->name);
}

static int set_option(const struct option_spec *option, const char *value, void *parsed,
                      struct ferry_error *err)
{
    char what[64];
    char *place = (char *)parsed + option->offset;
    uint64_t number = 0;
    int error = 0;

    snprintf(what, sizeof(what), "--%s", option->name);
    switch (option->type) {
    case OPTION_FLAG:
        *(bool *)place = true;
        return 0;
    case OPTION_STRING:
        *(const char **)place = value;
        return 0;
    case OPTION_STRINGS: {
        struct option_strings *strings = (struct option_strings *)place;
        if (strings->count == OPTION_STRINGS_MAX)
            return ferry_usage(err, what, "given more than %d times", OPTION_STRINGS_MAX);
        strings->items[strings->count++] = value;
        return 0;
    }
    case OPTION_SIZE:
        error = parse_size(what, value, &number, err);
        break;
    case OPTION_DURATION:
        error = parse_duration(what, value, &number, err);
        break;
    case OPTION_NUMBER:
        error = parse_number(what, value, option->least, option->most, &number, err);
        break;
    }
    if (!error)
        *(uint64_t *)place = number;
    return error;
}

/* One "--name[=value] [value]" at argv[*index]; *index ends on the last argument used. */
static int parse_option(const struct command *command, int argc, char **argv, int *index,
                        void *parsed, struct ferry_error *err)
{
    const char *argument = argv[*index];
    const char *name = argument + 2;
    size_t length = strcspn(name, "=");
    const char *value = name[length] ? name + length + 1 : NULL;
    const struct option_spec *option =
        strncmp(argument, "--", 2) ? NULL : find_option(command, name, length);

    if (!option)
        return unknown_option(command, argument, err);
    if (option->type == OPTION_FLAG && value)
        return ferry_usage(err, command->name, "--%s takes no value", option->name);
    if (option->type != OPTION_FLAG && !value) {
        if (*index + 1 >= argc)
            return ferry_usage(err, command->name, "--%s needs a value: --%s %s", option->name,
                               option->name, option->argument);
        value = argv[++*index];
    }
    return set_option(option, value, parsed, err);
}

static int missing_operand(const struct command *command, const struct operand_spec *operand,
                           struct ferry_error *err)
{
    if (!operand || !operand->name || operand->optional)
        return 0;
    return ferry_usage(err, command->name, "%s is missing; see 'ferry %s --help'", operand->name,
                       command->name);
}

int options_parse(const struct command *command, int argc, char **argv, void *parsed, bool *help,
                  struct ferry_error *err)
{
    const struct operand_spec *operand = command->operands;
    bool only_operands = false;

    *help = false;
    if (command->defaults)
        memcpy(parsed, command->defaults, command->parsed_size);
    else
        memset(parsed, 0, command->parsed_size);
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (!only_operands && argument[0] == '-' && argument[1]) {
            if (!strcmp(argument, "--")) {
                only_operands = true;
                continue;
            }
            if (!strcmp(argument, "--help") || !strcmp(argument, "-h")) {
                *help = true;
                return 0;
            }
            int error = parse_option(command, argc, argv, &i, parsed, err);
            if (error)
                return error;
            continue;
        }
        if (!operand || !operand->name)
            return ferry_usage(err, command->name, "'%.100s' is one argument too many", argument);
        if (!*argument)
            return ferry_usage(err, command->name, "%s is empty", operand->name);
        *(const char **)((char *)parsed + operand->offset) = argument;
        operand++;
    }
    return missing_operand(command, operand, err);
}

static void help_line(FILE *out, const char *left, const char *help)
{
    int width = fprintf(out, "  %s", left);

    if (width >= HELP_COLUMN) {
        fputc('\n', out);
        width = 0;
    }
    for (const char *line = help; *line;) {
        size_t length = strcspn(line, "\n");
        fprintf(out, "%*s%.*s\n", HELP_COLUMN - width, "", (int)length, line);
        line += length + (line[length] == '\n');
        width = 0;
    }
}

void options_help(const struct command *command, FILE *out)
{
    char left[80];

    fprintf(out, "Usage: ferry %s", command->name);
    for (const struct operand_spec *o = command->operands; o && o->name; o++)
        fprintf(out, o->optional ? " [%s]" : " %s", o->name);
    fprintf(out, " [OPTION]...\n\n%s.\n", command->summary);
    if (command->details)
        fprintf(out, "\n%s\n", command->details);
    if (command->operands && command->operands->name)
        fprintf(out, "\nArguments:\n");
    for (const struct operand_spec *o = command->operands; o && o->name; o++)
        help_line(out, o->name, o->help);
    fprintf(out, "\nOptions:\n");
    for (const struct option_spec *o = command->options; o && o->name; o++) {
        snprintf(left, sizeof(left), "--%s%s%s", o->name, o->argument ? " " : "",
                 o->argument ? o->argument : "");
        help_line(out, left, o->help);
    }
    help_line(out, "--help", "this text");
}

int options_next_part(const char **text, char *out, size_t size)
{
    const char *from = *text;
    size_t length = 0;

    if (!from)
        return 0;
    for (; *from && (from[0] != ',' || from[1] == ','); from++) {
        if (from[0] == ',')
            from++;
        if (length + 1 >= size)
            return -ENAMETOOLONG;
        out[length++] = *from;
    }
    out[length] = 0;
    *text = *from ? from + 1 : NULL;
    return 1;
}

/*
 * The command line, by tables: a command is a table of options and operands, from which come its
 * parsing and its help.
 */
#ifndef FERRY_CLI_OPTIONS_H
#define FERRY_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum option_type {
    OPTION_FLAG,     /* bool, set true */
    OPTION_STRING,   /* const char * */
    OPTION_STRINGS,  /* struct option_strings, given again and again */
    OPTION_SIZE,     /* uint64_t bytes: "512M" */
    OPTION_DURATION, /* uint64_t ns: "100ms" */
    OPTION_NUMBER,   /* uint64_t within least..most */
};

#define OPTION_STRINGS_MAX 32

struct option_strings {
    const char *items[OPTION_STRINGS_MAX];
    size_t count;
};

struct option_spec {
    const char *name;     /* without the dashes; NULL ends the table */
    const char *argument; /* its name in the help; NULL for a flag */
    enum option_type type;
    size_t offset; /* in the command's parsed struct */
    uint64_t least, most;
    const char *help;
};

struct operand_spec {
    const char *name; /* "NAME", "FILE"; NULL ends the table */
    bool optional;
    size_t offset; /* of a const char * */
    const char *help;
};

struct command {
    const char *name;
    const char *summary; /* one line */
    const char *details; /* paragraphs for --help, may be NULL */
    const struct option_spec *options;
    const struct operand_spec *operands;
    size_t parsed_size;
    const void *defaults; /* a parsed struct */
    /*
     * Do it.  Returns 0 or a negative errno with *err filled; an empty message there means that the
     * person has been told already, and only the kind counts.
     */
    int (*run)(void *parsed, struct ferry_error *err);
};

#define OPTION(NAME, ARGUMENT, TYPE, S, M, HELP)                                          \
    {                                                                                     \
        .name = (NAME), .argument = (ARGUMENT), .type = (TYPE), .offset = offsetof(S, M), \
        .help = (HELP)                                                                    \
    }
#define OPTION_RANGE(NAME, ARGUMENT, S, M, LEAST, MOST, HELP)                                    \
    {                                                                                            \
        .name = (NAME), .argument = (ARGUMENT), .type = OPTION_NUMBER, .offset = offsetof(S, M), \
        .least = (LEAST), .most = (MOST), .help = (HELP)                                         \
    }
#define OPERAND(NAME, S, M, HELP)                                \
    {                                                            \
        .name = (NAME), .offset = offsetof(S, M), .help = (HELP) \
    }
#define OPTIONAL_OPERAND(NAME, S, M, HELP)                                         \
    {                                                                              \
        .name = (NAME), .optional = true, .offset = offsetof(S, M), .help = (HELP) \
    }

/*
 * Parse argv[1..argc) (argv[0] is the command) into parsed, which is filled with the defaults
 * first; strings point into argv.  *help: --help was asked for, nothing else counts.  Errors are
 * FERRY_USAGE.
 */
int options_parse(const struct command *command, int argc, char **argv, void *parsed, bool *help,
                  struct ferry_error *err);
void options_help(const struct command *command, FILE *out);

/* The name of names (NULL-terminated) that `text` was perhaps meant to be, or NULL. */
const char *options_suggest(const char *text, const char *const *names);

/*
 * Cut "FILE,readonly,serial=S": the next part of *text up to a single comma, with ",," read as a
 * comma, into out.  Returns 1, 0 at the end, -ENAMETOOLONG.
 */
int options_next_part(const char **text, char *out, size_t size);

#endif

/* The table-driven command line: what is taken, what is refused and how it is said. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/options.h"

struct parsed {
    bool flag;
    const char *text;
    struct option_strings many;
    uint64_t size;
    uint64_t time;
    uint64_t number;
    const char *first, *second;
};

static const struct option_spec options[] = {
    OPTION("flag", NULL, OPTION_FLAG, struct parsed, flag, "a flag"),
    OPTION("text", "T", OPTION_STRING, struct parsed, text, "a text"),
    OPTION("many", "M", OPTION_STRINGS, struct parsed, many, "many"),
    OPTION("size", "SIZE", OPTION_SIZE, struct parsed, size, "a size"),
    OPTION("time", "TIME", OPTION_DURATION, struct parsed, time, "a time"),
    OPTION_RANGE("number", "N", struct parsed, number, 1, 8, "a number"),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FIRST", struct parsed, first, "needed"),
    OPTIONAL_OPERAND("SECOND", struct parsed, second, "not needed"),
    {.name = NULL},
};
static const struct parsed defaults = {.size = 7, .text = "default"};
static const struct command command = {.name = "try",
                                       .summary = "Try",
                                       .options = options,
                                       .operands = operands,
                                       .parsed_size = sizeof(struct parsed),
                                       .defaults = &defaults};

#define ARGUMENTS_MAX (2 * OPTION_STRINGS_MAX + 4)

/* main's argv is writable, and so is this one. */
static int parse_with_help(struct parsed *out, bool *help, struct ferry_error *err,
                           const char *const *arguments)
{
    static char texts[ARGUMENTS_MAX][128];
    char *argv[ARGUMENTS_MAX + 1] = {texts[0]};
    int argc = 1;

    for (; arguments[argc - 1]; argc++) {
        assert_true(argc < ARGUMENTS_MAX);
        snprintf(texts[argc], sizeof(texts[argc]), "%s", arguments[argc - 1]);
        argv[argc] = texts[argc];
    }
    return options_parse(&command, argc, argv, out, help, err);
}

static int parse(struct parsed *out, struct ferry_error *err, const char *const *arguments)
{
    bool help;

    return parse_with_help(out, &help, err, arguments);
}

#define PARSE(OUT, ERR, ...) parse(OUT, ERR, (const char *const[]){__VA_ARGS__, NULL})

static void test_every_type(void **state)
{
    struct parsed p;

    (void)state;
    assert_int_equal(PARSE(&p, NULL, "--flag", "a", "--text=x=y", "--many", "1", "--many=2",
                           "--size", "2M", "--time", "5ms", "--number=8", "b"),
                     0);
    assert_true(p.flag);
    assert_string_equal(p.text, "x=y");
    assert_int_equal(p.many.count, 2);
    assert_string_equal(p.many.items[1], "2");
    assert_int_equal(p.size, 2 << 20);
    assert_int_equal(p.time, 5000000);
    assert_int_equal(p.number, 8);
    assert_string_equal(p.first, "a");
    assert_string_equal(p.second, "b");
}

static void test_defaults_and_double_dash(void **state)
{
    struct parsed p;

    (void)state;
    assert_int_equal(PARSE(&p, NULL, "--", "--flag"), 0);
    assert_string_equal(p.first, "--flag");
    assert_false(p.flag);
    assert_int_equal(p.size, 7);
    assert_string_equal(p.text, "default");
    assert_null(p.second);
    assert_int_equal(PARSE(&p, NULL, "-"), 0); /* a pipe, not an option */
    assert_string_equal(p.first, "-");
}

static void assert_refused(const char *text, const char *const *arguments)
{
    struct ferry_error err = {0};
    struct parsed p;
    char said[512];

    assert_int_equal(parse(&p, &err, arguments), -EINVAL);
    assert_int_equal(err.kind, FERRY_USAGE);
    ferry_error_text(&err, said, sizeof(said));
    if (!strstr(said, text))
        fail_msg("'%s' does not say '%s'", said, text);
}

#define REFUSED(TEXT, ...) assert_refused(TEXT, (const char *const[]){__VA_ARGS__, NULL})

static void test_refusals(void **state)
{
    (void)state;
    REFUSED("FIRST is missing", "--flag");
    REFUSED("one argument too many", "a", "b", "c");
    REFUSED("FIRST is empty", "");
    REFUSED("unknown option '--flg'; did you mean --flag?", "a", "--flg");
    REFUSED("did you mean --number?", "a", "--numbr=3");
    REFUSED("see 'ferry try --help'", "a", "--nothing-like-it");
    REFUSED("unknown option '-x'", "a", "-x");
    REFUSED("--flag takes no value", "a", "--flag=1");
    REFUSED("--text needs a value: --text T", "a", "--text");
    REFUSED("not a size", "a", "--size", "12Q");
    REFUSED("not a size", "a", "--size", "-1");
    REFUSED("not a time", "a", "--time", "5");
    REFUSED("not a number from 1 to 8", "a", "--number", "9");
    REFUSED("not a number from 1 to 8", "a", "--number", "0");
    REFUSED("not a number from 1 to 8", "a", "--number", "1x");
}

static void test_too_many_of_one(void **state)
{
    const char *arguments[2 * (OPTION_STRINGS_MAX + 1) + 1] = {NULL};
    struct parsed p;

    (void)state;
    for (int i = 0; i < 2 * (OPTION_STRINGS_MAX + 1); i++)
        arguments[i] = i % 2 ? "x" : "--many";
    assert_int_equal(parse(&p, NULL, arguments), -EINVAL);
}

static void test_help_is_asked_for(void **state)
{
    struct parsed p;
    bool help = false;

    (void)state;
    /* FIRST is not missed */
    assert_int_equal(parse_with_help(&p, &help, NULL, (const char *const[]){"--help", NULL}), 0);
    assert_true(help);
}

static void test_help_names_every_option(void **state)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    (void)state;
    assert_non_null(out);
    options_help(&command, out);
    fclose(out);
    for (const struct option_spec *o = options; o->name; o++)
        assert_non_null(strstr(text, o->name));
    assert_non_null(strstr(text, "FIRST [SECOND]"));
    free(text);
}

static void test_suggestions(void **state)
{
    static const char *const names[] = {"pause", "snapshot", "status", "stop", NULL};

    (void)state;
    assert_string_equal(options_suggest("snapshut", names), "snapshot");
    assert_string_equal(options_suggest("snap", names), "snapshot");
    assert_string_equal(options_suggest("stp", names), "stop");
    assert_null(options_suggest("banana", names));
    assert_null(options_suggest("", names));
    assert_null(options_suggest("a-name-that-is-much-longer-than-any-option-there-is", names));
}

static void test_parts_between_commas(void **state)
{
    const char *text = "a,,b.raw,readonly,serial=x";
    char part[16];

    (void)state;
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 1);
    assert_string_equal(part, "a,b.raw");
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 1);
    assert_string_equal(part, "readonly");
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 1);
    assert_string_equal(part, "serial=x");
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 0);
    text = "end,";
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 1);
    assert_int_equal(options_next_part(&text, part, sizeof(part)), 1);
    assert_string_equal(part, ""); /* the caller refuses it */
    text = "much-too-long-for-16";
    assert_int_equal(options_next_part(&text, part, sizeof(part)), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),        cmocka_unit_test(test_defaults_and_double_dash),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_too_many_of_one),
        cmocka_unit_test(test_help_is_asked_for), cmocka_unit_test(test_help_names_every_option),
        cmocka_unit_test(test_suggestions),       cmocka_unit_test(test_parts_between_commas),
    };

    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}

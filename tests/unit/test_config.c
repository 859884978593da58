/* The machine description: there and back, and every way in which it must be refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/config.h"

static struct machine_config *sample(void)
{
    struct machine_config *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    strcpy(c->name, "web-1.x_y");
    for (unsigned i = 0; i < 16; i++) {
        c->vm_id[i] = (uint8_t)(i * 17);
        c->generation[i] = (uint8_t)(255 - i);
    }
    c->epoch = 1234567890123;
    c->cpus = 3;
    c->memory_bytes = 5 * GIB;
    strcpy(c->cpu_model, "x86-64-v3");
    c->cpuid_count = 2;
    c->cpuid[0] = (struct kvm_cpuid_entry2){.function = 0x80000008, .eax = 0xffffffff, .edx = 1};
    c->cpuid[1] = (struct kvm_cpuid_entry2){.function = 7, .index = 1, .flags = 1, .ecx = 5};
    c->tsc_khz = 2596100;
    c->disk_count = 2;
    c->disks[0] = (struct disk_config){
        .device = "vda", .serial = "abc", .size_bytes = 512, .file_name = "root.raw"};
    c->disks[1] = (struct disk_config){
        .device = "vdb", .size_bytes = LIMIT_DISK_BYTES, .readonly = true, .file_name = "b c"};
    strcpy(c->append, "console=ttyS0 x=\"y\"");
    return c;
}

static int parse(const json_t *json, struct ferry_error *err)
{
    struct machine_config *c = malloc(sizeof(*c));
    assert_non_null(c);
    memset(err, 0, sizeof(*err));
    int rc = machine_config_from_json(json, c, err);
    free(c);
    return rc;
}

static void round_trip(void **state)
{
    (void)state;
    struct machine_config *a = sample(), *b = malloc(sizeof(*b));
    struct ferry_error err;
    json_t *json = machine_config_to_json(a);

    assert_non_null(json);
    if (machine_config_from_json(json, b, &err))
        fail_msg("%s", err.message);
    assert_memory_equal(a, b, sizeof(*a));
    json_object_set_new(json, "from_the_future", json_true()); /* unknown keys are ignored */
    assert_int_equal(machine_config_from_json(json, b, &err), 0);
    json_decref(json);
    free(a);
    free(b);
}

/* The key whose value is replaced (NULL: a disk's key, after the slash) and a bad value. */
static const struct {
    const char *key;
    const char *value;
} bad[] = {
    {"name", "\"\""},
    {"name", "\".hidden\""},
    {"name", "\"-x\""},
    {"name", "\"a/b\""},
    {"name", "\"a b\""},
    {"name", "7"},
    {"name", "\"0123456789012345678901234567890123456789012345678901234567890123\""},
    {"vm_id", "\"00\""},
    {"vm_id", "\"0000000000000000000000000000000g\""},
    {"vm_id", "\"000000000000000000000000000000000\""},
    {"vm_id", "null"},
    {"epoch", "0"},
    {"epoch", "-1"},
    {"epoch", "1.5"},
    {"epoch", "\"1\""},
    {"generation", "[]"},
    {"cpus", "0"},
    {"cpus", "65"},
    {"cpus", "4294967297"},
    {"memory_bytes", "0"},
    {"memory_bytes", "8388609"},
    {"memory_bytes", "1099511631872"},
    {"memory_bytes", "-4096"},
    {"cpu_model", "\"01234567890123456789012345678901\""},
    {"cpu_model", "\"a\\u0007\""},
    {"tsc_khz", "-1"},
    {"tsc_khz", "4294967296"},
    {"cpuid", "{}"},
    {"cpuid", "[1]"},
    {"cpuid", "[[1,2,3,4,5,6]]"},
    {"cpuid", "[[1,2,3,4,5,6,7,8]]"},
    {"cpuid", "[[1,2,3,4,5,6,4294967296]]"},
    {"cpuid", "[[1,2,3,4,5,6,-1]]"},
    {"cpuid", "[[1,2,3,4,5,6,\"7\"]]"},
    {"disks", "{}"},
    {"disks", "[7]"},
    {"append", "7"},
    {"append", "\"a\\nb\""},
};

static const struct {
    const char *key;
    const char *value;
} bad_disk[] = {
    {"device", "\"vda\""}, /* the second disk: a name twice */
    {"device", "\"vdc\""},   {"device", "\"../../etc\""}, {"serial", "\"012345678901234567890\""},
    {"size_bytes", "0"},     {"size_bytes", "513"},       {"size_bytes", "70368744178176"},
    {"size_bytes", "true"},  {"readonly", "1"},           {"file_name", "\"a/b\""},
    {"file_name", "\"..\""},
};

static void expect_refusal(const json_t *json, const char *key, const char *why)
{
    struct ferry_error err;
    char text[1024];
    if (parse(json, &err) == 0)
        fail_msg("taken: %s %s", key, why);
    ferry_error_text(&err, text, sizeof(text));
    if (err.kind != FERRY_REFUSED || !strstr(text, key))
        fail_msg("%s %s: %s", key, why, text);
}

static void bad_values_are_refused_by_key(void **state)
{
    (void)state;
    struct machine_config *c = sample();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json_t *json = machine_config_to_json(c);
        json_object_set_new(json, bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        expect_refusal(json, bad[i].key, bad[i].value);
        json_decref(json);
    }
    for (size_t i = 0; i < sizeof(bad_disk) / sizeof(bad_disk[0]); i++) {
        json_t *json = machine_config_to_json(c);
        json_t *disk = json_array_get(json_object_get(json, "disks"), 1);
        json_object_set_new(disk, bad_disk[i].key,
                            json_loads(bad_disk[i].value, JSON_DECODE_ANY, NULL));
        struct ferry_error err;
        if (parse(json, &err) == 0 || err.kind != FERRY_REFUSED)
            fail_msg("disk %s %s is taken", bad_disk[i].key, bad_disk[i].value);
        json_decref(json);
    }
    free(c);
}

static void each_key_is_needed(void **state)
{
    (void)state;
    static const char *const keys[] = {"name",         "vm_id",     "epoch",   "generation",
                                       "cpus",         "cpu_model", "tsc_khz", "cpuid",
                                       "memory_bytes", "disks",     "append"};
    static const char *const disk_keys[] = {"device", "serial", "size_bytes", "readonly",
                                            "file_name"};
    struct machine_config *c = sample();
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *json = machine_config_to_json(c);
        json_object_del(json, keys[i]);
        expect_refusal(json, keys[i], "missing");
        json_decref(json);
    }
    for (size_t i = 0; i < sizeof(disk_keys) / sizeof(disk_keys[0]); i++) {
        json_t *json = machine_config_to_json(c);
        json_object_del(json_array_get(json_object_get(json, "disks"), 0), disk_keys[i]);
        expect_refusal(json, disk_keys[i], "missing");
        json_decref(json);
    }
    free(c);
}

static void long_lists_are_refused(void **state)
{
    (void)state;
    struct machine_config *c = sample();
    json_t *json = machine_config_to_json(c);
    json_t *cpuid = json_object_get(json, "cpuid");
    while (json_array_size(cpuid) <= LIMIT_CPUID_ENTRIES)
        json_array_append(cpuid, json_array_get(cpuid, 0));
    expect_refusal(json, "cpuid", "too many");
    json_decref(json);
    json = machine_config_to_json(c);
    json_t *disks = json_object_get(json, "disks");
    while (json_array_size(disks) <= LIMIT_DISKS)
        json_array_append(disks, json_array_get(disks, 0));
    expect_refusal(json, "disks", "too many");
    json_decref(json);
    struct ferry_error err;
    json = json_array();
    assert_int_equal(parse(json, &err), -EBADMSG);
    assert_int_equal(parse(NULL, &err), -EBADMSG);
    json_decref(json);
    free(c);
}

static void bytes_that_are_not_utf8_do_not_break_it(void **state)
{
    (void)state;
    struct machine_config *c = sample();
    struct ferry_error err;
    strcpy(c->disks[0].file_name, "r\xe9sum\xe9.raw");
    strcpy(c->append, "\xff\xfe");
    json_t *json = machine_config_to_json(c);
    assert_non_null(json);
    assert_int_equal(parse(json, &err), 0);
    json_decref(json);
    free(c);
}

static void names(void **state)
{
    (void)state;
    assert_true(machine_name_valid("a"));
    assert_true(machine_name_valid("A-b_c.9"));
    assert_false(machine_name_valid(""));
    assert_false(machine_name_valid("."));
    assert_false(machine_name_valid("../x"));
    assert_false(machine_name_valid("a\n"));
    assert_false(machine_name_valid("\xc3\xa4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(bad_values_are_refused_by_key),
        cmocka_unit_test(each_key_is_needed),
        cmocka_unit_test(long_lists_are_refused),
        cmocka_unit_test(bytes_that_are_not_utf8_do_not_break_it),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

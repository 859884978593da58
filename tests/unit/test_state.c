/* The state table: round trips, evolution between versions, and everything a load must refuse. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"
#include "vmm/state.h"

struct inner {
    uint16_t a;
    uint64_t b;
};

struct outer {
    bool on;
    uint8_t mode;
    uint32_t word;
    uint64_t wide;
    uint8_t fixed[5];
    uint32_t item_count;
    uint64_t items[7];
    struct inner pair[2];
    uint32_t node_count;
    struct inner nodes[3];
};

static const struct state_field inner_fields[] = {
    STATE_SCALAR(STATE_U16, struct inner, a, 1, 1),
    STATE_SCALAR(STATE_U64, struct inner, b, 2, 1),
};
static const struct state_table inner_table = {.name = "inner",
                                               .version = 1,
                                               .size = sizeof(struct inner),
                                               .fields = inner_fields,
                                               .field_count = 2};

static int check_outer(const void *state, const struct state_context *context,
                       struct ferry_error *err)
{
    const struct outer *o = state;
    (void)context;
    if (o->mode == 3 && !o->on)
        return ferry_refuse(err, -EBADMSG, "outer", "mode 3 without on");
    return 0;
}

static const struct state_field outer_fields[] = {
    STATE_SCALAR(STATE_BOOL, struct outer, on, 1, 1),
    STATE_RANGE(STATE_U8, struct outer, mode, 2, 1, 0, 3),
    STATE_SCALAR(STATE_U32, struct outer, word, 3, 1),
    STATE_SCALAR(STATE_U64, struct outer, wide, 4, 1),
    STATE_ARRAY(STATE_U8, struct outer, fixed, 5, 1),
    STATE_COUNTED(STATE_U64, struct outer, items, item_count, 6, 1),
    STATE_STRUCTS(struct outer, pair, &inner_table, 7, 1),
    STATE_STRUCTS_COUNTED(struct outer, nodes, node_count, &inner_table, 8, 2),
};
static const struct state_table outer_table = {.name = "outer",
                                               .version = 2,
                                               .size = sizeof(struct outer),
                                               .fields = outer_fields,
                                               .field_count = 8,
                                               .check = check_outer};

static struct outer random_outer(void)
{
    struct outer o;
    memset(&o, 0, sizeof(o));
    o.on = true;
    o.mode = (uint8_t)(rand() % 4);
    o.word = (uint32_t)rand();
    o.wide = (uint64_t)rand() << 33 ^ (uint64_t)rand();
    for (int i = 0; i < 5; i++)
        o.fixed[i] = (uint8_t)rand();
    o.item_count = (uint32_t)rand() % 8;
    for (uint32_t i = 0; i < o.item_count; i++)
        o.items[i] = (uint64_t)rand() * 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 2; i++)
        o.pair[i] = (struct inner){(uint16_t)rand(), (uint64_t)rand()};
    o.node_count = (uint32_t)rand() % 4;
    for (uint32_t i = 0; i < o.node_count; i++)
        o.nodes[i] = (struct inner){(uint16_t)rand(), (uint64_t)rand()};
    return o;
}

static struct writer saved(const struct outer *o)
{
    struct writer w = writer_init(LIMIT_SECTION_BYTES);
    assert_int_equal(state_save(&outer_table, o, &w, NULL), 0);
    return w;
}

static int load(const uint8_t *data, size_t size, struct outer *out, struct ferry_error *err)
{
    return state_load(&outer_table, 2, data, size, NULL, out, err);
}

static void test_tables_are_sound(void **unused)
{
    (void)unused;
    struct ferry_error err = {0};
    assert_int_equal(state_table_check(&outer_table, &err), 0);
    struct state_field twice[2] = {inner_fields[0], inner_fields[0]};
    struct state_table bad = inner_table;
    bad.fields = twice;
    assert_int_equal(state_table_check(&bad, &err), -EINVAL);
}

static void test_round_trip_is_identical(void **unused)
{
    (void)unused;
    srand(7);
    for (int i = 0; i < 2000; i++) {
        struct outer o = random_outer(), back;
        struct writer first = saved(&o);
        assert_int_equal(load(first.data, first.size, &back, NULL), 0);
        struct writer second = saved(&back);
        assert_int_equal(first.size, second.size);
        assert_memory_equal(first.data, second.data, first.size);
        assert_int_equal(back.item_count, o.item_count);
        assert_int_equal(back.wide, o.wide);
        writer_free(&first);
        writer_free(&second);
    }
}

static void test_every_truncation_is_refused(void **unused)
{
    (void)unused;
    struct outer o = random_outer(), back;
    struct writer w = saved(&o);
    for (size_t size = 0; size < w.size; size++) {
        struct ferry_error err = {0};
        assert_true(load(w.data, size, &back, &err) < 0);
        assert_int_equal(err.kind, FERRY_REFUSED);
    }
    writer_free(&w);
}

/* A hand-made section of one field. */
static int load_one(uint16_t id, uint8_t flags, uint32_t length, const void *value, size_t size,
                    struct ferry_error *err)
{
    struct outer back;
    struct writer w = writer_init(4096);
    writer_u16(&w, id);
    writer_u8(&w, flags);
    writer_u8(&w, 0);
    writer_u32(&w, length);
    writer_copy(&w, value, size);
    int error = load(w.data, w.size, &back, err);
    writer_free(&w);
    return error;
}

static void test_unknown_fields(void **unused)
{
    (void)unused;
    struct outer o = random_outer(), back;
    struct writer w = saved(&o);
    struct ferry_error err = {0};
    writer_u16(&w, 900);
    writer_u8(&w, 1);
    writer_u8(&w, 0);
    writer_u32(&w, 2);
    writer_u16(&w, 7);
    assert_int_equal(load(w.data, w.size, &back, &err), 0);
    w.data[w.size - 8] = 0; /* the same field, critical now */
    assert_int_equal(load(w.data, w.size, &back, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.message, "900"));
    writer_free(&w);
}

static void test_bad_values_are_refused(void **unused)
{
    (void)unused;
    static const uint8_t eight_items[64] = {1};
    struct ferry_error err = {0};
    assert_int_equal(load_one(2, 0, 1, "\x04", 1, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "mode"));
    assert_int_equal(load_one(1, 0, 1, "\x02", 1, &err), -EBADMSG);
    assert_int_equal(load_one(3, 0, 3, "abc", 3, &err), -EBADMSG);
    assert_int_equal(load_one(5, 0, 4, "abcd", 4, &err), -EBADMSG);
    assert_int_equal(load_one(6, 0, 64, eight_items, 64, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "items"));
    assert_int_equal(load_one(6, 0, 0xffffffff, "", 0, &err), -EBADMSG);
    assert_int_equal(load_one(8, 0, 8, "\xff\xff\xff\xff\0\0\0\0", 8, &err), -EBADMSG);
    assert_int_equal(load_one(1, 0x80, 1, "\1", 1, &err), -EBADMSG);
}

static void test_order_and_repetition(void **unused)
{
    (void)unused;
    static const uint8_t twice[] = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1};
    struct outer back;
    struct ferry_error err = {0};
    assert_int_equal(load(twice, sizeof(twice), &back, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "repeated"));
}

static void test_versions(void **unused)
{
    (void)unused;
    struct state_table old = outer_table;
    struct outer o = random_outer(), back;
    struct ferry_error err = {0};
    old.field_count = 7;
    old.version = 1;
    struct writer w = writer_init(LIMIT_SECTION_BYTES);
    assert_int_equal(state_save(&old, &o, &w, NULL), 0);
    assert_int_equal(state_load(&outer_table, 1, w.data, w.size, NULL, &back, &err), 0);
    assert_int_equal(back.node_count, 0);
    assert_int_equal(state_load(&outer_table, 2, w.data, w.size, NULL, &back, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "nodes"));
    writer_free(&w);
}

static void test_whole_is_checked(void **unused)
{
    (void)unused;
    struct outer o = random_outer(), back;
    struct ferry_error err = {0};
    o.on = false;
    o.mode = 3;
    struct writer w = saved(&o);
    assert_int_equal(load(w.data, w.size, &back, &err), -EBADMSG);
    writer_free(&w);
    o.item_count = 8;
    w = writer_init(LIMIT_SECTION_BYTES);
    assert_int_equal(state_save(&outer_table, &o, &w, &err), -EINVAL);
    writer_free(&w);
}

static void test_random_bytes_never_crash(void **unused)
{
    (void)unused;
    srand(11);
    for (int i = 0; i < 20000; i++) {
        struct outer o = random_outer(), back;
        struct writer w = saved(&o);
        for (int n = rand() % 4; n >= 0; n--)
            w.data[(size_t)rand() % w.size] ^= (uint8_t)(1 << rand() % 8);
        if (!load(w.data, w.size, &back, NULL)) {
            assert_true(back.item_count <= 7 && back.node_count <= 3 && back.mode <= 3);
        }
        writer_free(&w);
    }
}

static void test_json(void **unused)
{
    (void)unused;
    struct outer o = random_outer();
    o.wide = UINT64_MAX;
    json_t *json = state_to_json(&outer_table, &o);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "wide")), "0xffffffffffffffff");
    assert_int_equal(json_array_size(json_object_get(json, "items")), o.item_count);
    assert_int_equal(json_integer_value(json_object_get(json, "word")), o.word);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_sound),
        cmocka_unit_test(test_round_trip_is_identical),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_unknown_fields),
        cmocka_unit_test(test_bad_values_are_refused),
        cmocka_unit_test(test_order_and_repetition),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_whole_is_checked),
        cmocka_unit_test(test_random_bytes_never_crash),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}

/*
 * The state table: how a device, a vCPU or an interrupt controller declares what of it must be
 * written down (DESIGN 4).  One table gives save, load, validation, JSON, STATE.md and the
 * fuzzers' dictionary; nothing is saved or loaded by hand.
 *
 * The table describes a plain struct, the state struct: fixed-width integers, bools and arrays of
 * them or of further such structs; no pointers.  On the wire a state is a run of fields
 *
 *     u16 id, u8 flags (bit 0: ignorable), u8 zero, u32 length, length bytes of value
 *
 * in ascending id order, each id at most once; integers little-endian, arrays as the run of their
 * elements, a counted array as as many elements as its count says.  An element that is a struct is
 * u32 length and then a run of fields.  The section around it (name, instance, version, sums)
 * belongs to the image or the stream.
 *
 * Loading fills a scratch struct, checks every field and then the whole; the device is touched only
 * by whoever commits the scratch copy.
 */
#ifndef FERRY_VMM_STATE_H
#define FERRY_VMM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/bytes.h"
#include "common/error.h"

enum state_type { STATE_U8, STATE_U16, STATE_U32, STATE_U64, STATE_BOOL, STATE_STRUCT };

enum {
    STATE_IGNORABLE = 1, /* a reader that does not know the field may skip it */
};

struct state_table;

/* What validators may ask of the machine that loads.  NULL outside of a machine (tests). */
struct state_context {
    bool (*ram_contains)(const void *opaque, uint64_t gpa, uint64_t size);
    const void *opaque;
};

struct state_field {
    uint16_t id; /* stable for ever, never reused */
    const char *name;
    enum state_type type;
    size_t offset;       /* of the (first) element in the state struct */
    size_t stride;       /* size of one element in the struct */
    uint32_t max;        /* elements that the struct holds; 1 for a scalar */
    size_t count_offset; /* of a uint32_t with the live count, or STATE_NO_COUNT */
    uint16_t since;      /* table version that brought the field; a reader of an older section
                            leaves it zero */
    uint16_t flags;
    const struct state_table *table; /* of an element of type STATE_STRUCT */
    uint64_t least, most; /* inclusive range of each element (integers); most 0: no range */
};

#define STATE_NO_COUNT SIZE_MAX

struct state_table {
    const char *name; /* section name, e.g. "serial", "vcpu" */
    uint16_t version;
    size_t size; /* sizeof the state struct */
    const struct state_field *fields;
    uint32_t field_count;
    /* Relations between fields; called on a complete scratch struct.  May be NULL. */
    int (*check)(const void *state, const struct state_context *context, struct ferry_error *err);
};

/*
 * Field declarations.  S: the state struct's type, M: the member, ID: the field id, V: since.
 *   STATE_SCALAR(STATE_U8, struct serial_state, ier, 2, 1)
 *   STATE_RANGE (STATE_U16, struct q_state, size, 3, 1, 0, 256)
 *   STATE_ARRAY (STATE_U8, struct s, fifo, 4, 1)            whole fixed array
 *   STATE_COUNTED(STATE_U64, struct s, items, item_count, 5, 1)  the live part of an array
 *   STATE_STRUCTS(struct s, queues, &queue_table, 6, 1), STATE_STRUCTS_COUNTED(..., count, ...)
 * The macros check at compile time that the member has the width of the type.
 */
#define STATE_WIDTH(T) \
    ((T) == STATE_U8 || (T) == STATE_BOOL ? 1 : (T) == STATE_U16 ? 2 : (T) == STATE_U32 ? 4 : 8)
#define STATE_M(S, M)       (((S *)0)->M)
#define STATE_SAME(T, EXPR) (0 * sizeof(char[sizeof(EXPR) == (size_t)STATE_WIDTH(T) ? 1 : -1]))
#define STATE_RANGE(T, S, M, ID, V, LEAST, MOST)                                                  \
    {                                                                                             \
        .id = (ID), .name = #M, .type = (T),                                                      \
        .offset = offsetof(S, M) + STATE_SAME(T, STATE_M(S, M)), .stride = sizeof(STATE_M(S, M)), \
        .max = 1, .count_offset = STATE_NO_COUNT, .since = (V), .least = (LEAST), .most = (MOST)  \
    }
#define STATE_SCALAR(T, S, M, ID, V) STATE_RANGE(T, S, M, ID, V, 0, 0)
#define STATE_ELEMENTS(T, S, M, COUNT_OFFSET, ID, V)                                             \
    {                                                                                            \
        .id = (ID), .name = #M, .type = (T),                                                     \
        .offset = offsetof(S, M) + STATE_SAME(T, STATE_M(S, M)[0]),                              \
        .stride = sizeof(STATE_M(S, M)[0]),                                                      \
        .max = sizeof(STATE_M(S, M)) / sizeof(STATE_M(S, M)[0]), .count_offset = (COUNT_OFFSET), \
        .since = (V)                                                                             \
    }
#define STATE_ARRAY(T, S, M, ID, V)          STATE_ELEMENTS(T, S, M, STATE_NO_COUNT, ID, V)
#define STATE_COUNTED(T, S, M, COUNT, ID, V) STATE_ELEMENTS(T, S, M, offsetof(S, COUNT), ID, V)
#define STATE_STRUCT_ELEMENTS(S, M, TABLE, COUNT_OFFSET, ID, V)                                  \
    {                                                                                            \
        .id = (ID), .name = #M, .type = STATE_STRUCT, .offset = offsetof(S, M),                  \
        .stride = sizeof(STATE_M(S, M)[0]),                                                      \
        .max = sizeof(STATE_M(S, M)) / sizeof(STATE_M(S, M)[0]), .count_offset = (COUNT_OFFSET), \
        .since = (V), .table = (TABLE)                                                           \
    }
#define STATE_STRUCTS(S, M, TABLE, ID, V) STATE_STRUCT_ELEMENTS(S, M, TABLE, STATE_NO_COUNT, ID, V)
#define STATE_STRUCTS_COUNTED(S, M, COUNT, TABLE, ID, V) \
    STATE_STRUCT_ELEMENTS(S, M, TABLE, offsetof(S, COUNT), ID, V)

/* Append the fields of state to out.  A live count over its maximum is -EINVAL (a bug of ours). */
int state_save(const struct state_table *table, const void *state, struct writer *out,
               struct ferry_error *err);
/*
 * Fill scratch (table->size bytes, zeroed here) from the size bytes at data, written by `version`
 * of the section.  Every field and the whole are validated; on error scratch is worthless and
 * nothing else has changed.  Errors are FERRY_REFUSED and name section and field.
 */
int state_load(const struct state_table *table, uint16_t version, const void *data, size_t size,
               const struct state_context *context, void *scratch, struct ferry_error *err);
/* The state as a JSON object {"field": value | [..] | {..}}; NULL: out of memory. */
json_t *state_to_json(const struct state_table *table, const void *state);
/* The table's own fields (not those of tables in it) as Markdown, through put(opaque, text). */
void state_describe(const struct state_table *table, void (*put)(void *opaque, const char *text),
                    void *opaque);
/* Ids ascending and unique, depths and counts within the limits; for the unit tests. */
int state_table_check(const struct state_table *table, struct ferry_error *err);

#endif

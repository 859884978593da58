/*
 * Walking state tables: save, load and the checks of a table itself.  The wire form is in state.h.
 * Load reads into a scratch struct only; a field is found by its id, its value must fill its length
 * exactly, and every element meets its range before anybody sees it.
 */
#include "vmm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/limits.h"
#include "vmm/state_element.h"

static int save_fields(const struct state_table *table, const void *state, struct writer *out,
                       struct ferry_error *err);

static void save_element(const struct state_field *field, const void *element, struct writer *out)
{
    const uint64_t value = state_element_get(field, element);

    switch (field->type) {
    case STATE_U16:
        writer_u16(out, (uint16_t)value);
        break;
    case STATE_U32:
        writer_u32(out, (uint32_t)value);
        break;
    case STATE_U64:
        writer_u64(out, value);
        break;
    default:
        writer_u8(out, (uint8_t)value);
        break;
    }
}

static int save_value(const struct state_field *field, const void *state, uint32_t count,
                      struct writer *out, struct ferry_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        const void *element = state_element(field, state, i);
        if (field->type != STATE_STRUCT) {
            save_element(field, element, out);
            continue;
        }
        const size_t length_at = out->size;
        writer_u32(out, 0);
        int error = save_fields(field->table, element, out, err);
        if (error)
            return error;
        writer_put_u32_at(out, length_at, (uint32_t)(out->size - length_at - 4));
    }
    return 0;
}

static int save_fields(const struct state_table *table, const void *state, struct writer *out,
                       struct ferry_error *err)
{
    for (uint32_t i = 0; i < table->field_count; i++) {
        const struct state_field *field = &table->fields[i];
        const uint32_t count = state_count(field, state);
        if (count > field->max)
            return ferry_fail(err, -EINVAL, table->name,
                              "%s has %" PRIu32 " elements of at most %" PRIu32, field->name, count,
                              field->max);
        writer_u16(out, field->id);
        writer_u8(out, field->flags & STATE_IGNORABLE);
        writer_u8(out, 0);
        const size_t length_at = out->size;
        writer_u32(out, 0);
        int error = save_value(field, state, count, out, err);
        if (error)
            return error;
        writer_put_u32_at(out, length_at, (uint32_t)(out->size - length_at - 4));
    }
    return 0;
}

int state_save(const struct state_table *table, const void *state, struct writer *out,
               struct ferry_error *err)
{
    int error = save_fields(table, state, out, err);
    if (!error && out->error)
        error = ferry_fail_sys(err, out->error, table->name, "cannot hold the saved state");
    return error;
}

/* What the walk down a section carries along. */
struct load {
    const struct state_context *context;
    uint16_t version;
    unsigned depth;
    struct ferry_error *err;
};

static int load_fields(const struct load *load, const struct state_table *table, struct reader in,
                       void *scratch);

static int refuse_field(const struct load *load, const struct state_table *table,
                        const struct state_field *field, const char *what)
{
    return ferry_refuse(load->err, -EBADMSG, table->name, "field %u (%s) %s", field->id,
                        field->name, what);
}

static int load_integers(const struct load *load, const struct state_table *table,
                         const struct state_field *field, struct reader *in, void *scratch)
{
    const size_t width = state_width(field->type);
    const size_t left = reader_left(in);
    const uint32_t fixed = field->count_offset == STATE_NO_COUNT ? field->max : 0;

    if (left % width || left / width > field->max)
        return refuse_field(load, table, field, "has a wrong length");
    const uint32_t count = (uint32_t)(left / width);
    if (fixed && count != fixed)
        return refuse_field(load, table, field, "has a wrong length");
    for (uint32_t i = 0; i < count; i++) {
        uint64_t value = width == 1   ? reader_u8(in)
                         : width == 2 ? reader_u16(in)
                         : width == 4 ? reader_u32(in)
                                      : reader_u64(in);
        if (!state_in_range(field, value))
            return refuse_field(load, table, field, "is out of its range");
        state_element_set(field, state_element_mut(field, scratch, i), value);
    }
    state_set_count(field, scratch, count);
    return 0;
}

static int load_structs(const struct load *load, const struct state_table *table,
                        const struct state_field *field, struct reader *in, void *scratch)
{
    const struct load below = {load->context, load->version, load->depth + 1, load->err};
    uint32_t count = 0;

    if (below.depth > LIMIT_STATE_DEPTH)
        return refuse_field(load, table, field, "is nested too deeply");
    while (reader_left(in)) {
        struct reader element = reader_sub(in, reader_u32(in));
        if (in->error)
            return refuse_field(load, table, field, "ends inside an element");
        if (count == field->max)
            return refuse_field(load, table, field, "has too many elements");
        int error =
            load_fields(&below, field->table, element, state_element_mut(field, scratch, count));
        if (error)
            return error;
        count++;
    }
    if (field->count_offset == STATE_NO_COUNT && count != field->max)
        return refuse_field(load, table, field, "has too few elements");
    state_set_count(field, scratch, count);
    return 0;
}

static const struct state_field *find_field(const struct state_table *table, uint16_t id)
{
    for (uint32_t i = 0; i < table->field_count; i++)
        if (table->fields[i].id == id)
            return &table->fields[i];
    return NULL;
}

/* One field off the front of in.  *last: the id before it, -1 at the start. */
static int load_field(const struct load *load, const struct state_table *table, struct reader *in,
                      void *scratch, int *last)
{
    const uint16_t id = reader_u16(in);
    const uint8_t flags = reader_u8(in);
    const uint8_t zero = reader_u8(in);
    struct reader value = reader_sub(in, reader_u32(in));

    if (in->error)
        return ferry_refuse(load->err, -EBADMSG, table->name, "ends inside field %u", id);
    if (flags & ~STATE_IGNORABLE || zero)
        return ferry_refuse(load->err, -EBADMSG, table->name, "field %u has unknown flags", id);
    if (id <= *last)
        return ferry_refuse(load->err, -EBADMSG, table->name, "field %u is repeated or misplaced",
                            id);
    *last = id;
    const struct state_field *field = find_field(table, id);
    if (!field && flags & STATE_IGNORABLE)
        return 0;
    if (!field)
        return ferry_refuse(load->err, -EOPNOTSUPP, table->name,
                            "field %u is not known to this ferry and cannot be left out", id);
    return field->type == STATE_STRUCT ? load_structs(load, table, field, &value, scratch)
                                       : load_integers(load, table, field, &value, scratch);
}

/* Fields that the section's version should have brought and did not. */
static int check_missing(const struct load *load, const struct state_table *table,
                         const uint64_t *seen)
{
    for (uint32_t i = 0; i < table->field_count; i++) {
        const struct state_field *field = &table->fields[i];
        if (!(seen[i / 64] >> (i % 64) & 1) && field->since <= load->version &&
            !(field->flags & STATE_IGNORABLE))
            return refuse_field(load, table, field, "is missing");
    }
    return 0;
}

static int load_fields(const struct load *load, const struct state_table *table, struct reader in,
                       void *scratch)
{
    uint64_t seen[(LIMIT_STATE_FIELDS + 63) / 64] = {0};
    int last = -1;

    memset(scratch, 0, table->size);
    while (reader_left(&in)) {
        int error = load_field(load, table, &in, scratch, &last);
        if (error)
            return error;
        const struct state_field *field = find_field(table, (uint16_t)last);
        const size_t index = field ? (size_t)(field - table->fields) : 0;
        if (field)
            seen[index / 64] |= UINT64_C(1) << (index % 64);
    }
    if (in.error)
        return ferry_refuse(load->err, -EBADMSG, table->name, "is cut short");
    int error = check_missing(load, table, seen);
    if (!error && table->check)
        error = table->check(scratch, load->context, load->err);
    return error;
}

int state_load(const struct state_table *table, uint16_t version, const void *data, size_t size,
               const struct state_context *context, void *scratch, struct ferry_error *err)
{
    const struct load load = {context, version, 1, err};

    if (!version || size > LIMIT_SECTION_BYTES)
        return ferry_refuse(err, -EBADMSG, table->name, "has no version or is too large");
    return load_fields(&load, table, reader_init(data, size), scratch);
}

static int check_field(const struct state_table *table, const struct state_field *field,
                       unsigned depth, struct ferry_error *err);

static int check_table(const struct state_table *table, unsigned depth, struct ferry_error *err)
{
    int last = -1;

    if (depth > LIMIT_STATE_DEPTH)
        return ferry_fail(err, -EINVAL, table->name, "nested too deeply");
    if (!table->version || !table->size || table->field_count > LIMIT_STATE_FIELDS)
        return ferry_fail(err, -EINVAL, table->name, "no version, no size or too many fields");
    for (uint32_t i = 0; i < table->field_count; i++) {
        const struct state_field *field = &table->fields[i];
        if (field->id <= last)
            return ferry_fail(err, -EINVAL, table->name, "field %s: id %u is not above %d",
                              field->name, field->id, last);
        last = field->id;
        int error = check_field(table, field, depth, err);
        if (error)
            return error;
    }
    return 0;
}

static int check_field(const struct state_table *table, const struct state_field *field,
                       unsigned depth, struct ferry_error *err)
{
    const bool is_struct = field->type == STATE_STRUCT;

    if (!field->max || !field->since || field->since > table->version)
        return ferry_fail(err, -EINVAL, table->name, "field %s: bad max or since", field->name);
    if (is_struct ? !field->table || field->table->size != field->stride
                  : field->stride != state_width(field->type))
        return ferry_fail(err, -EINVAL, table->name, "field %s: element size", field->name);
    if (field->offset > table->size || field->stride * field->max > table->size - field->offset)
        return ferry_fail(err, -EINVAL, table->name, "field %s: outside the struct", field->name);
    if (field->count_offset != STATE_NO_COUNT && field->count_offset > table->size - 4)
        return ferry_fail(err, -EINVAL, table->name, "field %s: count outside", field->name);
    return is_struct ? check_table(field->table, depth + 1, err) : 0;
}

int state_table_check(const struct state_table *table, struct ferry_error *err)
{
    return check_table(table, 1, err);
}

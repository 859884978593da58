/*
 * What a state table says to people: a state as JSON, a table as Markdown.  64-bit values and long
 * byte arrays are hexadecimal strings, because JSON numbers lose bits in many readers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/hash.h"
#include "vmm/state_element.h"

enum { BYTES_AS_HEX = 8 }; /* byte arrays of at least so many elements */

static json_t *element_to_json(const struct state_field *field, const void *element)
{
    char text[24];

    switch (field->type) {
    case STATE_STRUCT:
        return state_to_json(field->table, element);
    case STATE_BOOL:
        return json_boolean(state_element_get(field, element) != 0);
    case STATE_U64:
        snprintf(text, sizeof(text), "0x%" PRIx64, state_element_get(field, element));
        return json_string(text);
    default:
        return json_integer((json_int_t)state_element_get(field, element));
    }
}

static json_t *bytes_to_json(const void *bytes, uint32_t count)
{
    CLEANUP_FREE char *text = malloc(2 * (size_t)count + 1);

    return text ? json_string(hex_encode(bytes, count, text)) : NULL;
}

static json_t *field_to_json(const struct state_field *field, const void *state)
{
    const uint32_t live = state_count(field, state);
    const uint32_t count = live < field->max ? live : field->max;

    if (field->max == 1 && field->count_offset == STATE_NO_COUNT)
        return element_to_json(field, state_element(field, state, 0));
    if (field->type == STATE_U8 && field->max >= BYTES_AS_HEX)
        return bytes_to_json(state_element(field, state, 0), count);
    json_t *array = json_array();
    for (uint32_t i = 0; array && i < count; i++) {
        if (json_array_append_new(array, element_to_json(field, state_element(field, state, i)))) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *state_to_json(const struct state_table *table, const void *state)
{
    json_t *object = json_object();

    for (uint32_t i = 0; object && i < table->field_count; i++) {
        const struct state_field *field = &table->fields[i];
        if (json_object_set_new(object, field->name, field_to_json(field, state))) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static void describe_type(const struct state_field *field, char *text, size_t size)
{
    static const char *const names[] = {"u8", "u16", "u32", "u64", "bool", "struct"};
    const char *name = field->type == STATE_STRUCT ? field->table->name : names[field->type];

    if (field->count_offset != STATE_NO_COUNT)
        snprintf(text, size, "%s[0..%" PRIu32 "]", name, field->max);
    else if (field->max > 1)
        snprintf(text, size, "%s[%" PRIu32 "]", name, field->max);
    else
        snprintf(text, size, "%s", name);
}

void state_describe(const struct state_table *table, void (*put)(void *opaque, const char *text),
                    void *opaque)
{
    char line[320], type[80], range[64];

    snprintf(line, sizeof(line),
             "\n## %s, version %u\n\n| id | field | type | range | since | unknown reader |\n"
             "|---|---|---|---|---|---|\n",
             table->name, table->version);
    put(opaque, line);
    for (uint32_t i = 0; i < table->field_count; i++) {
        const struct state_field *field = &table->fields[i];
        describe_type(field, type, sizeof(type));
        range[0] = 0;
        if (field->most)
            snprintf(range, sizeof(range), "%" PRIu64 "..%" PRIu64, field->least, field->most);
        snprintf(line, sizeof(line), "| %u | %s | %s | %s | %u | %s |\n", field->id, field->name,
                 type, range, field->since,
                 field->flags & STATE_IGNORABLE ? "skips it" : "refuses");
        put(opaque, line);
    }
}

/* Access to the elements of a state struct through its table; shared by state.c and its printers.
 */
#ifndef FERRY_VMM_STATE_ELEMENT_H
#define FERRY_VMM_STATE_ELEMENT_H

#include <string.h>

#include "vmm/state.h"

/* Bytes of one element on the wire and in the struct; not to be asked of STATE_STRUCT. */
static inline size_t state_width(enum state_type type)
{
    switch (type) {
    case STATE_U8:
    case STATE_BOOL:
        return 1;
    case STATE_U16:
        return 2;
    case STATE_U32:
        return 4;
    default:
        return 8;
    }
}

/* Element i of a field; i is below field->max. */
static inline const void *state_element(const struct state_field *field, const void *state,
                                        uint32_t i)
{
    return (const uint8_t *)state + field->offset + field->stride * i;
}

static inline void *state_element_mut(const struct state_field *field, void *state, uint32_t i)
{
    return (uint8_t *)state + field->offset + field->stride * i;
}

static inline uint64_t state_element_get(const struct state_field *field, const void *element)
{
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;

    switch (state_width(field->type)) {
    case 1:
        memcpy(&u8, element, sizeof(u8));
        return u8;
    case 2:
        memcpy(&u16, element, sizeof(u16));
        return u16;
    case 4:
        memcpy(&u32, element, sizeof(u32));
        return u32;
    default:
        memcpy(&u64, element, sizeof(u64));
        return u64;
    }
}

static inline void state_element_set(const struct state_field *field, void *element, uint64_t value)
{
    const uint8_t u8 = (uint8_t)value;
    const uint16_t u16 = (uint16_t)value;
    const uint32_t u32 = (uint32_t)value;

    switch (state_width(field->type)) {
    case 1:
        memcpy(element, &u8, sizeof(u8));
        break;
    case 2:
        memcpy(element, &u16, sizeof(u16));
        break;
    case 4:
        memcpy(element, &u32, sizeof(u32));
        break;
    default:
        memcpy(element, &value, sizeof(value));
        break;
    }
}

static inline bool state_in_range(const struct state_field *field, uint64_t value)
{
    if (field->type == STATE_BOOL)
        return value <= 1;
    return !field->most || (value >= field->least && value <= field->most);
}

/* Live elements of a field. */
static inline uint32_t state_count(const struct state_field *field, const void *state)
{
    uint32_t count = field->max;

    if (field->count_offset != STATE_NO_COUNT)
        memcpy(&count, (const uint8_t *)state + field->count_offset, sizeof(count));
    return count;
}

static inline void state_set_count(const struct state_field *field, void *state, uint32_t count)
{
    if (field->count_offset != STATE_NO_COUNT)
        memcpy((uint8_t *)state + field->count_offset, &count, sizeof(count));
}

#endif

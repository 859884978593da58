/* JSON from outside. */
#include "common/json.h"

#include <errno.h>
#include <stdbool.h>

#include "common/limits.h"

/* Depth of nesting before the parser, which recurses, sees the text. */
static bool depth_allowed(const char *text, size_t size)
{
    unsigned depth = 0;
    bool string = false;

    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (string && c == '\\')
            i++;
        else if (c == '"')
            string = !string;
        else if (!string && (c == '{' || c == '['))
            depth++;
        else if (!string && (c == '}' || c == ']') && depth)
            depth--;
        if (depth > LIMIT_JSON_DEPTH)
            return false;
    }
    return true;
}

int json_parse_object(const char *text, size_t size, size_t most, const char *about,
                      const char *what, json_t **out, struct ferry_error *err)
{
    json_error_t where;

    *out = NULL;
    if (size > most || !depth_allowed(text, size))
        return ferry_refuse(err, -EBADMSG, about, "%s is too large or too deep", what);
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (!json)
        return ferry_refuse(err, -EBADMSG, about, "%s is not JSON: %s", what, where.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return ferry_refuse(err, -EBADMSG, about, "%s is not a JSON object", what);
    }
    *out = json;
    return 0;
}

void json_cleanup(json_t **json)
{
    json_decref(*json);
}

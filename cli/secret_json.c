/* {"kind": 1, "hex": "..."}; every copy that is ours to wipe is wiped. */
#include "cli/secret_json.h"

#include <string.h>

#include "common/hash.h"

json_t *secret_to_json(const struct image_secret *secret)
{
    char hex[2 * LIMIT_SECRET_BYTES + 1];

    hex_encode(secret->bytes, secret->size, hex);
    json_t *value = json_pack("{s:i, s:s}", "kind", (int)secret->kind, "hex", hex);
    explicit_bzero(hex, sizeof(hex));
    return value;
}

/* The text belongs to a value that nobody else reads. */
static void wipe(const char *text)
{
    char *own;

    memcpy(&own, &text, sizeof(own));
    explicit_bzero(own, strlen(own));
}

int secret_from_json(const json_t *value, struct image_secret *secret, struct ferry_error *err)
{
    const char *hex = json_string_value(json_object_get(value, "hex"));
    json_int_t kind = json_integer_value(json_object_get(value, "kind"));
    size_t size = hex ? strlen(hex) / 2 : 0;

    *secret = (struct image_secret){0};
    if (!value)
        return 0;
    bool valid = (kind == SECRET_PASSPHRASE || kind == SECRET_KEY_FILE) && size &&
                 size <= sizeof(secret->bytes) && !hex_decode(hex, secret->bytes, size);
    if (hex)
        wipe(hex);
    if (!valid)
        return ferry_usage(err, "secret", "is not one");
    secret->kind = (enum image_secret_kind)kind;
    secret->size = size;
    return 0;
}

/* Secrets on their way over a control socket (mode 0600, the owner's only), and nowhere else. */
#ifndef FERRY_CLI_SECRET_JSON_H
#define FERRY_CLI_SECRET_JSON_H

#include <jansson.h>

#include "imagefmt/secret.h"

/* NULL: out of memory. */
json_t *secret_to_json(const struct image_secret *secret);
/* NULL (value): secret->kind is SECRET_NONE.  The text in value is wiped. */
int secret_from_json(const json_t *value, struct image_secret *secret, struct ferry_error *err);

#endif

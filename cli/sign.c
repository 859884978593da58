/* ferry sign: put a signature over the root of an image. */
#include "imagefmt/sign.h"
#include "cli/commands.h"
#include "cli/image_file.h"
#include "cli/output.h"
#include "common/cleanup.h"

struct sign_options {
    const char *file;
    const char *key;
    bool json;
    struct image_file_options image;
};

static int print(const struct sign_options *o, const struct signing_key *key, bool again,
                 const uint8_t root[SHA256_BYTES], struct ferry_error *err)
{
    char hex[2 * SHA256_BYTES + 1], fingerprint[2 * SHA256_BYTES + 1];
    uint8_t public_key[SIGNER_KEY_BYTES];

    signing_key_public(key, public_key);
    signer_fingerprint(public_key, fingerprint);
    if (o->json)
        return output_json(json_pack("{s:s, s:s, s:b}", "root", hex_encode(root, SHA256_BYTES, hex),
                                     "signer", fingerprint, "changed", !again),
                           err);
    output_text("%s: %s by %s", o->file, again ? "was signed already" : "signed", fingerprint);
    return 0;
}

static int run(void *parsed, struct ferry_error *err)
{
    const struct sign_options *o = parsed;
    CLEANUP(image_file_environment_close) struct image_file_environment environment;
    CLEANUP(signing_key_cleanup) struct signing_key *key = NULL;
    uint8_t root[SHA256_BYTES];
    bool again = false;

    int error = image_file_environment_open(&o->image, &environment, err);
    if (!error && !o->key)
        error = ferry_usage(err, "sign",
                            "say whose signature: --key PRIVATE.pem ('openssl genpkey -algorithm "
                            "ed25519' makes one)");
    if (!error)
        error = signing_key_read(o->key, &key, err);
    if (!error)
        error = image_sign(o->file, &environment.env, key, &again, root, err);
    return error ? error : print(o, key, again, root, err);
}

static const struct option_spec options[] = {
    OPTION("key", "PRIVATE.pem", OPTION_STRING, struct sign_options, key,
           "the Ed25519 private key to sign with (PEM)"),
    OPTION("json", NULL, OPTION_FLAG, struct sign_options, json, "print JSON"),
    IMAGE_FILE_OPTIONS(struct sign_options, image),
    {.name = NULL},
};
static const struct operand_spec operands[] = {
    OPERAND("FILE", struct sign_options, file, "the image"),
    {.name = NULL},
};

const struct command command_sign = {
    .name = "sign",
    .summary = "Sign an image",
    .details =
        "The signature covers the image's root, and so all content, whatever the chunk size,\n"
        "compression or encryption.  Table and root are checked before; 'ferry verify'\n"
        "checks the content.  FILE is replaced when the new one is complete.",
    .options = options,
    .operands = operands,
    .parsed_size = sizeof(struct sign_options),
    .run = run,
};

/* Passphrases from the person at the terminal. */
#ifndef FERRY_CLI_PASSPHRASE_H
#define FERRY_CLI_PASSPHRASE_H

#include "imagefmt/secret.h"

/*
 * Ask on the controlling terminal, without echo, whatever stdin and stdout are.  twice: for a new
 * image, where a slip of the finger would lose it.  No terminal is FERRY_USAGE and names the
 * options that take its place.
 */
int passphrase_ask(const char *about, bool twice, struct image_secret *secret,
                   struct ferry_error *err);

#endif

/* Machines for tests of descriptions, and what is done with each of them. */
#ifndef FERRY_TESTS_SUPPORT_GUEST_SAMPLE_H
#define FERRY_TESTS_SUPPORT_GUEST_SAMPLE_H

#include "imagefmt/foreign/guest.h"

/* Something in every field; names with quotes, '&', '<', '|', line ends and UTF-8 in them. */
void guest_sample_rich(struct guest *guest);
/* As little as there can be. */
void guest_sample_plain(struct guest *guest);
/* Every difference fails the test, with the name of the field. */
void guest_sample_same(const struct guest *is, const struct guest *should);

/* Written, read back, written again: the same guest, the same text.  Returns the text, malloc'd. */
char *guest_sample_round_trip(const struct description_format *format, const struct guest *guest,
                              json_t *notes);
/* Read, which must succeed; notes may be NULL. */
void guest_sample_read(const struct description_format *format, const char *text,
                       struct guest *guest, json_t *notes);
/* Reading must be refused with these words in the message. */
void guest_sample_refuse(const struct description_format *format, const char *text,
                         const char *says);
/* text with the first `from` replaced, malloc'd; it must be there. */
char *guest_sample_replace(const char *text, const char *from, const char *to);
/* The same and refused. */
void guest_sample_refuse_change(const struct description_format *format, const char *text,
                                const char *from, const char *to, const char *says);
/* Is there a note with these words? */
bool guest_sample_noted(const json_t *notes, const char *words);
/* text with `piece` count times at the place of '@', in which "%u" is a number from 0 on. */
char *guest_sample_repeat(const char *text, const char *piece, unsigned count);
/* Every cut of the text, and every byte of it changed to some others: nothing may break. */
void guest_sample_sweep(const struct description_format *format, const char *text);
/*
 * For fuzz targets: whatever can be read holds what guest_check asks for, has notes that are text,
 * can be written in every format, and in its own comes back as the same text.  Returns 0.
 */
int guest_sample_fuzz(const struct description_format *format, const uint8_t *data, size_t size);
/* Run a program over the text in a file of its own, behind the arguments: its exit status; -1: it
 * is not installed. */
int guest_sample_witness(const char *text, const char *const *arguments);

#endif

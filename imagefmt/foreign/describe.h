/*
 * What the writers and readers of machine descriptions share: text that is put together piece by
 * piece and escaped, notes for the person, and numbers out of hostile text.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_DESCRIBE_H
#define FERRY_IMAGEFMT_FOREIGN_DESCRIBE_H

#include "common/bytes.h"
#include "imagefmt/foreign/guest.h"

/* The namespace of what ferry adds to XML of other formats, for what they cannot say. */
#define DESCRIBE_NS "urn:ferry:machine:1"

/* ---- Notes ---- */

/* A list of strings for people.  list may be NULL: nobody reads them. */
struct notes {
    json_t *list;
    bool failed; /* out of memory */
};

/* One more, less what a terminal should not see; after LIMIT_NOTES no more. */
void notes_add(struct notes *notes, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* 0, or FERRY_FAILED: out of memory. */
int notes_done(const struct notes *notes, const char *about, struct ferry_error *err);

#define SHOWN_BYTES 64
/* text as it may appear in a message: cut, and without control characters.  Returns out. */
const char *shown(const char *text, char out[SHOWN_BYTES]);

/* ---- Text ---- */

/* The length of the UTF-8 character at text, which is not at its end; 0: it is none.  *code: it. */
size_t utf8_next(const char *text, size_t left, uint32_t *code);
bool utf8_valid(const char *text, size_t size);

struct text {
    struct writer out;
    bool replaced; /* something could not be said and is U+FFFD or '?' now */
};

struct text text_init(void);
void text_free(struct text *t); /* CLEANUP(text_free) */
void text_add(struct text *t, const char *text);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Valid UTF-8 whatever value is; control characters are kept. */
void text_utf8(struct text *t, const char *value);
/* The same for XML, in an element or in quotes. */
void text_xml(struct text *t, const char *value);
/* ' name="value"' */
void text_attribute(struct text *t, const char *name, const char *value);
/* '<name>value</name>' on a line of its own, indented by so many spaces. */
void text_element(struct text *t, int indent, const char *name, const char *value);
/*
 * Hand the text on as a description_format's write does.  What was replaced becomes a note, and
 * what ran out of memory in t or notes an error.
 */
int text_done(struct text *t, struct notes *notes, char **text, size_t *size,
              struct ferry_error *err);

/* ---- Numbers ---- */

/* All of text, spaces around it aside, as a plain decimal: 0, or -EINVAL (-ERANGE if too large). */
int describe_number(const char *text, uint64_t *value);
/* What value * unit is, UINT64_MAX if it is more. */
uint64_t describe_multiply(uint64_t value, uint64_t unit);
/* "52:54:...", "52-54-..." or "5254...", into a network card; anything else is noted. */
void describe_mac(const char *text, struct guest_nic *nic, struct notes *notes);
/* "5640f7cc-2fd9-...", in braces or not, with spaces as VMware has them: 0, or -EINVAL. */
int describe_parse_uuid(const char *text, uint8_t uuid[16]);
char *describe_format_uuid(const uint8_t uuid[16], char text[37]); /* returns text */
bool describe_yes(const char *text);                               /* "yes", "true", "on", "1" */
/* text into out, all of it: 0, or FERRY_REFUSED that names what. */
int describe_copy(const char *text, char *out, size_t room, const char *what, const char *about,
                  struct ferry_error *err);
/* The same for what may be cut, which is noted. */
void describe_cut(const char *text, char *out, size_t room, const char *what, struct notes *notes);
/* A description as a whole: not larger than LIMIT_DESCRIPTION_BYTES, UTF-8, without zero bytes. */
int describe_check_text(const char *text, size_t size, const char *about, struct ferry_error *err);

#endif

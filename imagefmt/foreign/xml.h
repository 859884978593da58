/*
 * XML from outside, by libxml2 with everything off that reaches out of the document: no DTD (a
 * document with a DOCTYPE is refused), so no entities but XML's own five; no network; UTF-8 only;
 * and limits on depth and on the number of elements and attributes while it is being parsed.
 */
#ifndef FERRY_IMAGEFMT_FOREIGN_XML_H
#define FERRY_IMAGEFMT_FOREIGN_XML_H

#include <libxml/tree.h>

#include "common/error.h"

/* A document, or FERRY_REFUSED; released with xmlFreeDoc, CLEANUP(xml_free). */
int xml_parse(const char *text, size_t size, const char *about, xmlDoc **doc,
              struct ferry_error *err);
void xml_free(xmlDoc **doc);

/* Does the text begin as an XML document whose root has this name, with any prefix? */
bool xml_probe(const char *text, size_t size, const char *root);

/* Namespaces, to compare with: NULL is "in none", XML_ANY is "whichever". */
#define XML_ANY "*"

bool xml_is(const xmlNode *node, const char *ns, const char *name);
/* The first child element of this name; the next one behind it with the same name.  A NULL name is
 * any.  parent may be NULL: NULL. */
xmlNode *xml_child(const xmlNode *parent, const char *ns, const char *name);
xmlNode *xml_next(const xmlNode *node, const char *ns, const char *name);
/* The child of a child ... "devices/disk", all in ns. */
xmlNode *xml_path(const xmlNode *parent, const char *ns, const char *path);

/* The text in an element, its children's among it, malloc'd; "" for NULL or nothing.  NULL: out of
 * memory. */
char *xml_text(const xmlNode *node);
/* An attribute's value in the same way; ns as above.  *found, which may be NULL: it is there. */
char *xml_attribute(const xmlNode *node, const char *ns, const char *name, bool *found);
/* The same two less spaces around them, cut to what fits: for words and numbers. */
char *xml_word(const xmlNode *node, char *out, size_t room);
char *xml_attribute_word(const xmlNode *node, const char *ns, const char *name, char *out,
                         size_t room);

#define FOR_EACH_XML_CHILD(child, parent, ns, name)                   \
    for (xmlNode *child = xml_child((parent), (ns), (name)); (child); \
         (child) = xml_next((child), (ns), (name)))

#endif

/*
 * libxml2, fenced in.  Its own callbacks build the tree; ours in front of them count, and stop the
 * parser at a DOCTYPE or past a limit.
 */
#include "imagefmt/foreign/xml.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libxml/SAX2.h>
#include <libxml/parser.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "imagefmt/foreign/describe.h"

/* NONET: nothing is fetched.  Without NOENT, DTDLOAD, DTDATTR and XINCLUDE nothing is replaced or
 * loaded; without HUGE libxml2's own limits hold.  IGNORE_ENC: it is UTF-8, which was checked, and
 * no converter is looked up by a name that the document gives. */
#define PARSE_OPTIONS                                                                   \
    (XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_IGNORE_ENC | \
     XML_PARSE_NOCDATA | XML_PARSE_COMPACT)

/* What is counted while parsing; the parser context's private pointer. */
struct fence {
    unsigned depth;
    unsigned nodes;
    const char *fault; /* NULL: none */
};

static struct fence *fence_of(void *context)
{
    return ((xmlParserCtxt *)context)->_private;
}

static void stop(void *context, const char *fault)
{
    struct fence *fence = fence_of(context);

    if (!fence->fault)
        fence->fault = fault;
    xmlStopParser(context);
}

static void on_start(void *context, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri,
                     int namespaces, const xmlChar **namespace_list, int attributes, int defaulted,
                     const xmlChar **attribute_list)
{
    struct fence *fence = fence_of(context);

    fence->nodes += 1 + (unsigned)attributes + (unsigned)namespaces;
    if (++fence->depth > LIMIT_DESCRIPTION_DEPTH)
        stop(context, "is nested more deeply than any description is");
    else if (fence->nodes > LIMIT_DESCRIPTION_NODES)
        stop(context, "has more elements and attributes than any description has");
    else
        xmlSAX2StartElementNs(context, name, prefix, uri, namespaces, namespace_list, attributes,
                              defaulted, attribute_list);
}

static void on_end(void *context, const xmlChar *name, const xmlChar *prefix, const xmlChar *uri)
{
    fence_of(context)->depth--;
    xmlSAX2EndElementNs(context, name, prefix, uri);
}

static void on_doctype(void *context, const xmlChar *name, const xmlChar *external,
                       const xmlChar *system)
{
    (void)name;
    (void)external;
    (void)system;
    stop(context, "has a DOCTYPE, which a description does not need and which is not read");
}

/* What is neither element, attribute nor text is not kept. */
static void on_comment(void *context, const xmlChar *value)
{
    (void)context;
    (void)value;
}

static void on_instruction(void *context, const xmlChar *target, const xmlChar *data)
{
    (void)context;
    (void)target;
    (void)data;
}

static int refuse_syntax(const xmlParserCtxt *context, const char *about, struct ferry_error *err)
{
    const xmlError *last = &context->lastError;
    char message[SHOWN_BYTES];

    if (last->code == XML_ERR_NO_MEMORY)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    return ferry_refuse(err, -EBADMSG, about, "is not well-formed XML: line %d: %s", last->line,
                        shown(last->message ? last->message : "?", message));
}

static void free_context(xmlParserCtxt **context)
{
    if (!*context)
        return;
    xmlFreeDoc((*context)->myDoc); /* of a parse that failed */
    xmlFreeParserCtxt(*context);
}

int xml_parse(const char *text, size_t size, const char *about, xmlDoc **doc,
              struct ferry_error *err)
{
    struct fence fence = {0};

    *doc = NULL;
    int error = describe_check_text(text, size, about, err);
    if (error)
        return error;
    xmlInitParser();
    CLEANUP(free_context) xmlParserCtxt *context = xmlNewParserCtxt();
    if (!context)
        return ferry_fail(err, -ENOMEM, about, "out of memory");
    context->_private = &fence;
    context->sax->startElementNs = on_start;
    context->sax->endElementNs = on_end;
    context->sax->internalSubset = on_doctype;
    context->sax->comment = on_comment;
    context->sax->processingInstruction = on_instruction;
    *doc = xmlCtxtReadMemory(context, text, (int)size, NULL, "UTF-8", PARSE_OPTIONS);
    context->myDoc = NULL; /* it is in *doc, or freed */
    if (!*doc || fence.fault) {
        xml_free(doc);
        return fence.fault ? ferry_refuse(err, -EBADMSG, about, "%s", fence.fault)
                           : refuse_syntax(context, about, err);
    }
    return 0;
}

void xml_free(xmlDoc **doc)
{
    if (*doc)
        xmlFreeDoc(*doc);
    *doc = NULL;
}

/* Behind a declaration, comments and instructions; NULL: the text ends there. */
static const char *skip_prolog(const char *text, const char *end)
{
    for (;;) {
        while (text < end && strchr(" \t\r\n", *text))
            text++;
        if (end - text < 4 || *text != '<' || (text[1] != '?' && text[1] != '!'))
            return text;
        const char *mark = text[1] == '?' ? "?>" : "-->";
        if (text[1] == '!' && memcmp(text, "<!--", 4) != 0)
            return text;
        const char *close = memmem(text, (size_t)(end - text), mark, strlen(mark));
        if (!close)
            return end;
        text = close + strlen(mark);
    }
}

bool xml_probe(const char *text, size_t size, const char *root)
{
    const char *end = text + size;

    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        text += 3;
    text = skip_prolog(text, end);
    if (text == end || *text++ != '<')
        return false;
    const char *name = text;
    for (; text < end && !strchr(" \t\r\n/>", *text); text++)
        if (*text == ':')
            name = text + 1;
    return text < end && (size_t)(text - name) == strlen(root) && !memcmp(name, root, strlen(root));
}

/* ---- Looking around ---- */

static bool in_namespace(const xmlNs *is, const char *ns)
{
    if (ns && !strcmp(ns, XML_ANY))
        return true;
    return ns ? is && is->href && !strcmp((const char *)is->href, ns) : !is;
}

bool xml_is(const xmlNode *node, const char *ns, const char *name)
{
    return node && node->type == XML_ELEMENT_NODE &&
           (!name || !strcmp((const char *)node->name, name)) && in_namespace(node->ns, ns);
}

static xmlNode *from(xmlNode *node, const char *ns, const char *name)
{
    while (node && !xml_is(node, ns, name))
        node = node->next;
    return node;
}

xmlNode *xml_child(const xmlNode *parent, const char *ns, const char *name)
{
    return parent ? from(parent->children, ns, name) : NULL;
}

xmlNode *xml_next(const xmlNode *node, const char *ns, const char *name)
{
    return from(node->next, ns, name);
}

xmlNode *xml_path(const xmlNode *parent, const char *ns, const char *path)
{
    xmlNode *node = NULL;
    char name[64];

    while (parent && *path) {
        size_t length = strcspn(path, "/");
        if (length >= sizeof(name))
            return NULL;
        memcpy(name, path, length);
        name[length] = 0;
        parent = node = xml_child(parent, ns, name);
        path += length + (path[length] == '/');
    }
    return node;
}

char *xml_text(const xmlNode *node)
{
    if (!node)
        return strdup("");
    char *content = (char *)xmlNodeGetContent(node);
    return content ? content : strdup("");
}

char *xml_attribute(const xmlNode *node, const char *ns, const char *name, bool *found)
{
    const xmlAttr *attribute = node ? node->properties : NULL;

    while (attribute &&
           (strcmp((const char *)attribute->name, name) != 0 || !in_namespace(attribute->ns, ns)))
        attribute = attribute->next;
    if (found)
        *found = attribute;
    return xml_text((const xmlNode *)attribute);
}

static char *trim(const char *text, char *out, size_t room)
{
    text += strspn(text, " \t\r\n");
    size_t length = strlen(text);
    while (length && strchr(" \t\r\n", text[length - 1]))
        length--;
    if (length >= room)
        length = room - 1;
    memcpy(out, text, length);
    out[length] = 0;
    return out;
}

char *xml_word(const xmlNode *node, char *out, size_t room)
{
    CLEANUP_FREE char *text = xml_text(node);

    return trim(text ? text : "", out, room);
}

char *xml_attribute_word(const xmlNode *node, const char *ns, const char *name, char *out,
                         size_t room)
{
    CLEANUP_FREE char *text = xml_attribute(node, ns, name, NULL);

    return trim(text ? text : "", out, room);
}

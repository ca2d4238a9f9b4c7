/* Expat with narrow limits: what a store sends is neither deep nor long-winded. */
#include "src/store/xml.h"

#include <expat.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { XML_DEPTH = 8, XML_PATH = 256, XML_TEXT = 4096 };

typedef struct {
    XML_Parser parser;
    XmlVisit visit;
    void *context;
    char path[XML_PATH];
    size_t starts[XML_DEPTH]; /* where each open element's name begins in the path */
    int depth;
    bool leaf; /* nothing was opened inside of the innermost element */
    char text[XML_TEXT];
    size_t length;
    const char *wrong; /* why reading was stopped */
    Status status;     /* of visit */
} Document;

static void refuse(Document *document, const char *why) {
    if (document->wrong == NULL) document->wrong = why;
    XML_StopParser(document->parser, XML_FALSE);
}

static void XMLCALL open_element(void *context, const char *name, const char **attributes) {
    Document *document = context;
    (void)attributes;
    const char *colon = strrchr(name, ':');
    if (colon != NULL) name = colon + 1;
    size_t used = strlen(document->path);
    if (document->depth == XML_DEPTH || used + strlen(name) + 2 > sizeof document->path) {
        refuse(document, "elements lie too deep");
        return;
    }
    document->starts[document->depth++] = used;
    snprintf(document->path + used, sizeof document->path - used, "%s%s",
             used > 0 ? "/" : "", name);
    document->leaf = true;
    document->length = 0;
}

static void XMLCALL close_element(void *context, const char *name) {
    Document *document = context;
    (void)name;
    if (document->status != STATUS_OK || document->wrong != NULL) return;
    document->text[document->length] = '\0';
    document->status = document->visit(document->context, document->path,
                                       document->leaf ? document->text : NULL);
    if (document->status != STATUS_OK) XML_StopParser(document->parser, XML_FALSE);
    document->path[document->starts[--document->depth]] = '\0';
    document->leaf = false;
    document->length = 0;
}

static void XMLCALL add_text(void *context, const char *text, int length) {
    Document *document = context;
    if (!document->leaf) return; /* line breaks between elements */
    if (document->length + (size_t)length >= sizeof document->text) {
        refuse(document, "a text is too long");
        return;
    }
    memcpy(document->text + document->length, text, (size_t)length);
    document->length += (size_t)length;
}

static void XMLCALL refuse_type(void *context, const char *name, const char *system,
                                const char *public, int has_subset) {
    (void)name;
    (void)system;
    (void)public;
    (void)has_subset;
    refuse(context, "it declares a document type");
}

Status xml_read(const char *document, size_t bytes, XmlVisit visit, void *context) {
    Document *self = calloc(1, sizeof *self);
    XML_Parser parser = XML_ParserCreate(NULL);
    Status status;
    if (self == NULL || parser == NULL || bytes > INT32_MAX) {
        status = FAIL(STATUS_MEMORY, NULL, "no memory to read %zu bytes of XML", bytes);
    } else {
        *self = (Document){.parser = parser, .visit = visit, .context = context};
        XML_SetUserData(parser, self);
        XML_SetElementHandler(parser, open_element, close_element);
        XML_SetCharacterDataHandler(parser, add_text);
        XML_SetStartDoctypeDeclHandler(parser, refuse_type);
        enum XML_Status parsed = XML_Parse(parser, document, (int)bytes, 1);
        status = self->status;
        if (status == STATUS_OK && parsed != XML_STATUS_OK)
            status = FAIL(STATUS_CORRUPT, NULL, "no XML as it must be (line %lu): %s",
                          (unsigned long)XML_GetCurrentLineNumber(parser),
                          self->wrong != NULL ? self->wrong
                                              : XML_ErrorString(XML_GetErrorCode(parser)));
    }
    if (parser != NULL) XML_ParserFree(parser);
    free(self);
    return status;
}

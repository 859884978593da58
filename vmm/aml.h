/*
 * ACPI machine language (ACPI 6.4, chapter 20), built byte by byte into a struct writer.
 *
 * Terms are written in the order in which ASL names them.  A term with a body is a pair of calls:
 *
 *     struct aml_body device = aml_device(w, "COM1");
 *     aml_name_eisa(w, "_HID", "PNP0501");
 *     aml_end(w, device);
 *
 * Errors stick in the writer.  Names are ASL paths: "\\_SB", "_HID", "\\_SB.VGEN"; segments are
 * padded with '_' to four characters.
 */
#ifndef FERRY_VMM_AML_H
#define FERRY_VMM_AML_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

struct aml_body {
    size_t start; /* of the PkgLength, to be filled in by aml_end */
};

struct aml_body aml_scope(struct writer *w, const char *name);
struct aml_body aml_device(struct writer *w, const char *name);
struct aml_body aml_method(struct writer *w, const char *name, unsigned arguments);
struct aml_body aml_package(struct writer *w, uint8_t elements);
void aml_end(struct writer *w, struct aml_body body);

/* Terms without a body */
void aml_name(struct writer *w, const char *name); /* Name (name, ...): a value must follow */
void aml_path(struct writer *w, const char *path); /* a reference */
void aml_integer(struct writer *w, uint64_t value);
void aml_string(struct writer *w, const char *text);
void aml_eisa_id(struct writer *w, const char *id); /* "PNP0501" */
void aml_name_integer(struct writer *w, const char *name, uint64_t value);
void aml_name_string(struct writer *w, const char *name, const char *text);
void aml_name_eisa(struct writer *w, const char *name, const char *id);
void aml_notify(struct writer *w, const char *path, uint8_t value);

/* Name (_CRS, ResourceTemplate () { ... }): a Buffer whose size is known at its end. */
struct aml_resources {
    struct aml_body buffer;
    size_t size_at; /* of the BufferSize to be filled in */
};
struct aml_resources aml_resources(struct writer *w, const char *name);
void aml_resources_end(struct writer *w, struct aml_resources resources);
void aml_io(struct writer *w, uint16_t port, uint8_t length);
void aml_irq(struct writer *w, unsigned line); /* edge, active high, exclusive */
void aml_memory32(struct writer *w, uint32_t start, uint32_t size);
/* Windows of a bridge (producer): bus numbers, ports, memory.  Inclusive ranges. */
void aml_window_bus(struct writer *w, uint16_t first, uint16_t last);
void aml_window_io(struct writer *w, uint16_t first, uint16_t last);
void aml_window_memory32(struct writer *w, uint32_t first, uint32_t last);

#endif

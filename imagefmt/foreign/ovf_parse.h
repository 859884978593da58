/* What the parts of the OVF reader hand to each other; nobody else includes this. */
#ifndef FERRY_IMAGEFMT_FOREIGN_OVF_PARSE_H
#define FERRY_IMAGEFMT_FOREIGN_OVF_PARSE_H

#include "imagefmt/foreign/describe.h"
#include "imagefmt/foreign/ovf.h"
#include "imagefmt/foreign/xml.h"

#define OVF_ID_BYTES 128 /* of ids, as they are compared */

struct ovf_parse {
    const char *about;
    const char *ns; /* the envelope's: OVF_NS_1 or OVF_NS_2 */
    xmlNode *envelope;
    xmlNode *system;
    struct guest *guest;
    struct ovf_package *package;
    struct notes notes;
    char disk_ids[LIMIT_DISKS][OVF_ID_BYTES]; /* diskId, or the file's id */
    char nic_ids[LIMIT_NICS][OVF_ID_BYTES];   /* InstanceID */
};

/* ovf_files.c: disk number `index` of the guest from "ovf:/disk/ID"; files by their id. */
int ovf_parse_disk(struct ovf_parse *p, uint32_t index, const char *resource,
                   struct ferry_error *err);
/* The File of this id, or else of this href; NULL: there is none. */
xmlNode *ovf_find_file(const struct ovf_parse *p, const char *id);
int ovf_parse_file(struct ovf_parse *p, const xmlNode *file, struct ovf_part *part, char name[256],
                   struct ferry_error *err);
/* "ovf:/file/ID" and the like, less all but ID; NULL: it is not of this kind ("disk", "file"). */
const char *ovf_resource_id(const char *resource, const char *kind);
void ovf_note_unused_disks(struct ovf_parse *p);

/* ovf_hardware.c: all Items of the VirtualHardwareSection. */
int ovf_parse_hardware(struct ovf_parse *p, const xmlNode *hardware, struct ferry_error *err);

/* ovf_extra.c: what VMware, VirtualBox and ferry say in elements of their own. */
int ovf_parse_vmware(struct ovf_parse *p, const xmlNode *hardware, struct ferry_error *err);
int ovf_parse_virtualbox(struct ovf_parse *p, struct ferry_error *err);
int ovf_parse_own(struct ovf_parse *p, struct ferry_error *err);

#endif

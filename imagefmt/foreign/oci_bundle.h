/* What the formats oci and oci-folder are made of; contracts as in bundle.h. */
#ifndef FERRY_IMAGEFMT_FOREIGN_OCI_BUNDLE_H
#define FERRY_IMAGEFMT_FOREIGN_OCI_BUNDLE_H

#include "imagefmt/foreign/bundle.h"

int oci_losses(const struct bundle_content *content, json_t *notes, struct ferry_error *err);
int oci_write(const struct bundle_output *output, const struct bundle_content *content,
              const struct bundle_write_options *options, struct bundle_write_result *result,
              struct ferry_error *err);
int oci_open(const struct bundle_format *format, const struct bundle_input *input,
             struct bundle **out, struct ferry_error *err);
int oci_next_disk(struct bundle *bundle, uint32_t *index, struct disk **disk,
                  struct ferry_error *err);
int oci_finish(struct bundle *bundle, struct ferry_error *err);
void oci_close(struct bundle *bundle);

#endif

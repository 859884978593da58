/* The table of descriptions of machines. */
#include <string.h>

#include "imagefmt/foreign/guest.h"

const struct description_format *const description_formats[] = {
    &description_ovf, &description_libvirt, &description_vmx,
    &description_xl,  &description_vagrant, NULL,
};

const struct description_format *description_format_by_name(const char *name)
{
    for (const struct description_format *const *f = description_formats; *f; f++)
        if (!strcmp((*f)->name, name))
            return *f;
    return NULL;
}

/* Traits of a machine as JSON and back: unknown words are refused, unknown keys are not looked at.
 */
#include "snapshot/traits.h"

#include <errno.h>
#include <string.h>

#include "common/hash.h"

/* ---- to JSON ---- */

static json_t *nic_to_json(const struct guest_nic *nic)
{
    char mac[18];

    return json_pack("{s:s*, s:s, s:s}", "mac",
                     nic->has_mac ? guest_format_mac(nic->mac, mac) : NULL, "network", nic->network,
                     "model", nic->model);
}

json_t *machine_traits_to_json(const struct machine_traits *traits, uint32_t disk_count)
{
    json_t *buses = json_array(), *nics = json_array();
    char uuid[33];

    for (uint32_t i = 0; i < disk_count; i++)
        json_array_append_new(buses, json_string(guest_bus_name(traits->buses[i])));
    for (uint32_t i = 0; i < traits->nic_count; i++)
        json_array_append_new(nics, nic_to_json(&traits->nics[i]));
    return json_pack(
        "{s:s, s:b, s:s, s:s, s:o, s:o}", "firmware", guest_firmware_name(traits->firmware),
        "serial_console", (int)traits->serial_console, "os", traits->os, "uuid",
        hex_encode(traits->uuid, sizeof(traits->uuid), uuid), "buses", buses, "nics", nics);
}

/* ---- from JSON ---- */

struct traits_reader {
    const char *about;
    struct ferry_error *err;
    int error;
};

static void refuse(struct traits_reader *r, const char *key)
{
    if (!r->error)
        r->error = ferry_refuse(r->err, -EBADMSG, r->about,
                                "\"%s\" of \"guest\" in the manifest is not valid", key);
}

/* Absent text is empty; control characters are for nobody. */
static void read_text(struct traits_reader *r, const json_t *object, const char *key, char *out,
                      size_t size)
{
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);

    out[0] = 0;
    if (!value)
        return;
    if (!text || length >= size || strlen(text) != length) {
        refuse(r, key);
        return;
    }
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            refuse(r, key);
            return;
        }
    memcpy(out, text, length + 1);
}

static void read_nic(struct traits_reader *r, const json_t *object, struct guest_nic *nic)
{
    char mac[18];

    if (!json_is_object(object))
        refuse(r, "nics");
    read_text(r, object, "network", nic->network, sizeof(nic->network));
    read_text(r, object, "model", nic->model, sizeof(nic->model));
    read_text(r, object, "mac", mac, sizeof(mac));
    nic->has_mac = mac[0];
    if (nic->has_mac && guest_parse_mac(mac, nic->mac))
        refuse(r, "mac");
}

static void read_nics(struct traits_reader *r, const json_t *list, struct machine_traits *traits)
{
    if (list && (!json_is_array(list) || json_array_size(list) > LIMIT_NICS)) {
        refuse(r, "nics");
        return;
    }
    traits->nic_count = (uint32_t)json_array_size(list);
    for (uint32_t i = 0; i < traits->nic_count; i++)
        read_nic(r, json_array_get(list, i), &traits->nics[i]);
}

static void read_buses(struct traits_reader *r, const json_t *list, struct machine_traits *traits)
{
    if (list && (!json_is_array(list) || json_array_size(list) > LIMIT_DISKS)) {
        refuse(r, "buses");
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        enum guest_bus bus = GUEST_BUS_VIRTIO;
        while (name && bus <= GUEST_BUS_NVME && strcmp(name, guest_bus_name(bus)))
            bus++;
        if (!name || bus > GUEST_BUS_NVME)
            refuse(r, "buses");
        else
            traits->buses[i] = bus;
    }
}

int machine_traits_from_json(const json_t *json, const char *about, struct machine_traits *traits,
                             struct ferry_error *err)
{
    struct traits_reader r = {.about = about, .err = err};
    char firmware[32], uuid[33];

    *traits = (struct machine_traits){.known = json, .serial_console = true};
    if (!json)
        return 0;
    if (!json_is_object(json))
        return ferry_refuse(err, -EBADMSG, about, "\"guest\" in the manifest is not an object");
    read_text(&r, json, "firmware", firmware, sizeof(firmware));
    read_text(&r, json, "os", traits->os, sizeof(traits->os));
    read_text(&r, json, "uuid", uuid, sizeof(uuid));
    traits->firmware = guest_firmware_by_name(firmware);
    traits->serial_console = json_is_true(json_object_get(json, "serial_console"));
    if (uuid[0] && hex_decode(uuid, traits->uuid, sizeof(traits->uuid)))
        refuse(&r, "uuid");
    read_nics(&r, json_object_get(json, "nics"), traits);
    read_buses(&r, json_object_get(json, "buses"), traits);
    return r.error;
}

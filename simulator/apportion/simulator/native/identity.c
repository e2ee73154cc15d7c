/* Which device is which: handles, names, and the ways to find a device by them. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "library.h"

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (deviceCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *deviceCount = sim_listed();
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount)
{
    return nvmlDeviceGetCount_v2(deviceCount);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || index >= sim_listed())
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlDevice_t found = sim_handle(sim_listed_index(index));
    result = sim_index(found, &index);
    if (result == NVML_SUCCESS)
        *device = found;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

/* The one device for which `matches(facts, wanted)` holds. */
static nvmlReturn_t find(int (*matches)(const struct sim_facts *, const char *),
                         const char *wanted, nvmlDevice_t *device)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (wanted == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int place = 0; place < sim_listed(); place++) {
        unsigned int index = sim_listed_index(place);
        if (!matches(&sim_device_at(index)->facts, wanted))
            continue;
        nvmlDevice_t found = sim_handle(index);
        result = sim_index(found, &index);
        if (result == NVML_SUCCESS)
            *device = found;
        return result;
    }
    return NVML_ERROR_NOT_FOUND;
}

static int has_uuid(const struct sim_facts *facts, const char *uuid)
{
    return strcmp(facts->uuid, uuid) == 0;
}

static int has_serial(const struct sim_facts *facts, const char *serial)
{
    return strcmp(facts->serial, serial) == 0;
}

static void write_bus_id(const struct sim_facts *facts, char busId[32], char busIdLegacy[16])
{
    snprintf(busId, 32, "%08X:%02X:%02X.0", facts->pci_domain, facts->pci_bus & 0xffu,
             facts->pci_device & 0x1fu);
    snprintf(busIdLegacy, 16, "%04X:%02X:%02X.0", facts->pci_domain & 0xffffu,
             facts->pci_bus & 0xffu, facts->pci_device & 0x1fu);
}

static int has_bus_id(const struct sim_facts *facts, const char *busId)
{
    char full[32];
    char legacy[16];
    write_bus_id(facts, full, legacy);
    return strcasecmp(full, busId) == 0 || strcasecmp(legacy, busId) == 0;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return find(has_uuid, uuid, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (uuid == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (uuid->version != SIM_STRUCT_VERSION(nvmlUUID_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type != NVML_UUID_TYPE_ASCII)
        return NVML_ERROR_NOT_SUPPORTED;
    char text[sizeof(uuid->value.str) + 1];
    memcpy(text, uuid->value.str, sizeof(uuid->value.str));
    text[sizeof(uuid->value.str)] = '\0';
    return find(has_uuid, text, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    return find(has_serial, serial, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
    return find(has_bus_id, pciBusId, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByPciBusId_v2(pciBusId, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    unsigned int found;
    nvmlReturn_t result = sim_index(device, &found);
    if (result != NVML_SUCCESS)
        return result;
    return index == NULL ? NVML_ERROR_INVALID_ARGUMENT : sim_place(found, index);
}

/* A MIG instance is called after its device and its profile. */
EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    char text[sizeof(target.facts->name) + sizeof(target.instance->profile) + 8];
    snprintf(text, sizeof(text), target.instance == NULL ? "%s" : "%s MIG %s", target.facts->name,
             target.instance == NULL ? "" : target.instance->profile);
    return sim_copy_text(name, length, text);
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    return sim_copy_text(uuid, length,
                         target.instance == NULL ? target.facts->uuid : target.instance->uuid);
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    return result != NVML_SUCCESS ? result : sim_copy_text(serial, length, facts->serial);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (pci == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(pci, 0, sizeof(*pci));
    pci->domain = facts->pci_domain;
    pci->bus = facts->pci_bus;
    pci->device = facts->pci_device;
    pci->pciDeviceId = facts->pci_device_id;
    pci->pciSubSystemId = facts->pci_subsystem_id;
    write_bus_id(facts, pci->busId, pci->busIdLegacy);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (pci == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (pci->version != SIM_STRUCT_VERSION(nvmlPciInfoExt_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    char legacy[16];
    pci->domain = facts->pci_domain;
    pci->bus = facts->pci_bus;
    pci->device = facts->pci_device;
    pci->pciDeviceId = facts->pci_device_id;
    pci->pciSubSystemId = facts->pci_subsystem_id;
    pci->baseClass = 0x03; /* display controller */
    pci->subClass = 0x02;  /* 3D controller */
    write_bus_id(facts, pci->busId, legacy);
    return NVML_SUCCESS;
}

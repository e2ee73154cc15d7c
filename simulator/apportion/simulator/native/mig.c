/* MIG: the instances of a device, which have handles of their own. */
#include <stddef.h>
#include <string.h>

#include "library.h"

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *currentMode,
                                         unsigned int *pendingMode)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (currentMode == NULL || pendingMode == NULL || target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((target.facts->capabilities & SIM_CAN_MIG) == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *currentMode = target.values.mig_enabled;
    *pendingMode = target.values.mig_enabled;
    return NVML_SUCCESS;
}

/* As real drivers do, it counts the slices whether or not MIG is enabled. */
EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = facts->mig_slices;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                        nvmlDevice_t *migDevice)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target_with_lists(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (migDevice == NULL || target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((target.facts->capabilities & SIM_CAN_MIG) == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (index >= target.facts->mig_slices)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (target.values.instances[index].compute_slices == 0)
        return NVML_ERROR_NOT_FOUND;
    *migDevice = sim_instance_handle(target.index, index);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t migDevice,
                                                                 nvmlDevice_t *device)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(migDevice, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (device == NULL || target.instance == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = sim_handle(target.index);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *isMigDevice)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (isMigDevice == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *isMigDevice = target.instance != NULL;
    return NVML_SUCCESS;
}

/* Defines `name(device, unsigned int *)` that answers a member of the MIG instance. */
#define INSTANCE(name, member)                                                                     \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int *id)                                \
    {                                                                                              \
        struct sim_target target;                                                                  \
        nvmlReturn_t result = sim_target(device, &target);                                         \
        if (result != NVML_SUCCESS)                                                                \
            return result;                                                                         \
        if (target.instance == NULL)                                                               \
            return NVML_ERROR_NOT_SUPPORTED;                                                       \
        if (id == NULL)                                                                            \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
        *id = target.instance->member;                                                             \
        return NVML_SUCCESS;                                                                       \
    }

INSTANCE(nvmlDeviceGetGpuInstanceId, gpu_instance)
INSTANCE(nvmlDeviceGetComputeInstanceId, compute_instance)

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                               nvmlDeviceAttributes_t *attributes)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (attributes == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((target.facts->capabilities & SIM_CAN_MIG) == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    memset(attributes, 0, sizeof(*attributes));
    attributes->multiprocessorCount = target.facts->multiprocessors;
    attributes->memorySizeMB = target.facts->memory_total_bytes >> 20;
    if (target.instance != NULL) {
        attributes->multiprocessorCount = target.instance->multiprocessors;
        attributes->gpuInstanceSliceCount = target.instance->compute_slices;
        attributes->computeInstanceSliceCount = target.instance->compute_slices;
        attributes->memorySizeMB = target.instance->memory_total_bytes >> 20;
    }
    return NVML_SUCCESS;
}

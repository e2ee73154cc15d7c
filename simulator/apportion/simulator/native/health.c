/* Errors that a device counts: ECC, and the rows of memory that were put out of use for them. */
#include <stddef.h>

#include "library.h"

EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device,
                                                nvmlMemoryErrorType_t errorType,
                                                nvmlEccCounterType_t counterType,
                                                unsigned long long *eccCounts)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (eccCounts == NULL || (unsigned int)errorType > 1u || (unsigned int)counterType > 1u)
        return NVML_ERROR_INVALID_ARGUMENT;
    *eccCounts = values.ecc_errors[errorType][counterType];
    return NVML_SUCCESS;
}

/* All of them are in the memory; its caches have none. */
EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device,
                                                    nvmlMemoryErrorType_t errorType,
                                                    nvmlEccCounterType_t counterType,
                                                    nvmlMemoryLocation_t locationType,
                                                    unsigned long long *count)
{
    unsigned int location = (unsigned int)locationType;
    if (location >= NVML_MEMORY_LOCATION_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = nvmlDeviceGetTotalEccErrors(device, errorType, counterType, count);
    if (result != NVML_SUCCESS || location == NVML_MEMORY_LOCATION_DRAM)
        return result;
    *count = 0;
    return location == NVML_MEMORY_LOCATION_SRAM ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrRows,
                                              unsigned int *uncRows, unsigned int *isPending,
                                              unsigned int *failureOccurred)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (corrRows == NULL || uncRows == NULL || isPending == NULL || failureOccurred == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((target.facts->capabilities & SIM_CAN_REMAP_ROWS) == 0 || target.values.mig_enabled)
        return NVML_ERROR_NOT_SUPPORTED;
    *corrRows = target.values.remapped_rows[0];
    *uncRows = target.values.remapped_rows[1];
    *isPending = target.values.remapping_pending;
    *failureOccurred = 0;
    return NVML_SUCCESS;
}

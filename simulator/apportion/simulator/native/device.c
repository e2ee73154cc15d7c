/* What a device can do and what its limits are: all that does not change. */
#include <stddef.h>

#include "library.h"

/* Defines `name(device, unsigned int *)` that answers `expression` over the device's `facts`. */
#define FACT(name, expression)                                                                     \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int *value)                             \
    {                                                                                              \
        const struct sim_facts *facts;                                                             \
        nvmlReturn_t result = sim_facts(device, &facts);                                           \
        if (result != NVML_SUCCESS)                                                                \
            return result;                                                                         \
        if (value == NULL)                                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
        *value = (expression);                                                                     \
        return NVML_SUCCESS;                                                                       \
    }

/* Defines `name(device, type *)` that answers the same constant for every device. */
#define CONSTANT(name, type, constant)                                                             \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, type *value)                                     \
    {                                                                                              \
        unsigned int index;                                                                        \
        nvmlReturn_t result = sim_index(device, &index);                                           \
        if (result != NVML_SUCCESS)                                                                \
            return result;                                                                         \
        if (value == NULL)                                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                                    \
        *value = (constant);                                                                       \
        return NVML_SUCCESS;                                                                       \
    }

FACT(nvmlDeviceGetMinorNumber, facts->minor_number)
FACT(nvmlDeviceGetBoardId, facts->pci_domain << 16 | facts->pci_bus << 8)
FACT(nvmlDeviceGetArchitecture, facts->architecture)
FACT(nvmlDeviceGetNumGpuCores, facts->cores)
FACT(nvmlDeviceGetMemoryBusWidth, facts->memory_bus_bits)
FACT(nvmlDeviceGetCurrPcieLinkGeneration, facts->pcie_generation)
FACT(nvmlDeviceGetMaxPcieLinkGeneration, facts->pcie_generation)
FACT(nvmlDeviceGetGpuMaxPcieLinkGeneration, facts->pcie_generation)
FACT(nvmlDeviceGetCurrPcieLinkWidth, facts->pcie_width)
FACT(nvmlDeviceGetMaxPcieLinkWidth, facts->pcie_width)
FACT(nvmlDeviceGetPowerManagementLimit, facts->power_limit_mw)
FACT(nvmlDeviceGetEnforcedPowerLimit, facts->power_limit_mw)
FACT(nvmlDeviceGetPowerManagementDefaultLimit, facts->power_default_mw)

/* No profile has a fan of its own: SXM boards and passive cards are cooled by their chassis, and
 * nvmlDeviceGetFanSpeed is among the functions that are not supported. */
CONSTANT(nvmlDeviceGetNumFans, unsigned int, 0)
CONSTANT(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
CONSTANT(nvmlDeviceGetPcieReplayCounter, unsigned int, 0)
CONSTANT(nvmlDeviceGetBusType, nvmlBusType_t, NVML_BUS_TYPE_PCIE)
CONSTANT(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
CONSTANT(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
CONSTANT(nvmlDeviceGetDefaultEccMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
CONSTANT(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
CONSTANT(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
CONSTANT(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_DEFAULT)
CONSTANT(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t,
         NVML_GPU_VIRTUALIZATION_MODE_NONE)
/* The reasons that these devices can give, as a real H100 answers: bits 0 to 8. */
CONSTANT(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, 0x1ff)
CONSTANT(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, 0x1ff)

EXPORT nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (type == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *type = (nvmlBrandType_t)facts->brand;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (major == NULL || minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = (int)facts->compute_major;
    *minor = (int)facts->compute_minor;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device,
                                                                 unsigned int *minLimit,
                                                                 unsigned int *maxLimit)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (minLimit == NULL || maxLimit == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *minLimit = facts->power_min_mw;
    *maxLimit = facts->power_max_mw;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device,
                                                      nvmlTemperatureThresholds_t thresholdType,
                                                      unsigned int *temp)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (temp == NULL || (unsigned int)thresholdType >= NVML_TEMPERATURE_THRESHOLD_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int threshold_c = 0;
    if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
        threshold_c = facts->shutdown_c;
    else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        threshold_c = facts->slowdown_c;
    else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_MEM_MAX)
        threshold_c = facts->memory_max_c;
    else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
        threshold_c = facts->gpu_max_c;
    if (threshold_c == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *temp = threshold_c;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                              unsigned int *clock)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (clock == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (type == NVML_CLOCK_GRAPHICS)
        *clock = facts->max_graphics_mhz;
    else if (type == NVML_CLOCK_SM)
        *clock = facts->max_sm_mhz;
    else if (type == NVML_CLOCK_MEM)
        *clock = facts->max_memory_mhz;
    else if (type == NVML_CLOCK_VIDEO)
        *clock = facts->max_video_mhz;
    else
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current,
                                         nvmlEnableState_t *pending)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    if (result != NVML_SUCCESS)
        return result;
    if (current == NULL || pending == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *current = NVML_FEATURE_ENABLED;
    *pending = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device,
                                              nvmlC2cModeInfo_v1_t *c2cModeInfo)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    if (result != NVML_SUCCESS)
        return result;
    if (c2cModeInfo == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    c2cModeInfo->isC2cEnabled = 0;
    return NVML_SUCCESS;
}

/* Whether `link` exists: NOT_SUPPORTED on a device without NVLink, INVALID_ARGUMENT beyond it. */
static nvmlReturn_t check_link(nvmlDevice_t device, unsigned int link, const void *answer,
                               const struct sim_facts **facts)
{
    nvmlReturn_t result = sim_facts(device, facts);
    if (result != NVML_SUCCESS)
        return result;
    if (answer == NULL || link >= SIM_MAX_NVLINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((*facts)->nvlink_count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    return link < (*facts)->nvlink_count ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link,
                                             nvmlEnableState_t *isActive)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = check_link(device, link, isActive, &facts);
    if (result == NVML_SUCCESS)
        *isActive = NVML_FEATURE_ENABLED;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, unsigned int link,
                                               unsigned int *version)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = check_link(device, link, version, &facts);
    if (result == NVML_SUCCESS)
        *version = facts->nvlink_version;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link,
                                                  nvmlNvLinkCapability_t capability,
                                                  unsigned int *capResult)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = check_link(device, link, capResult, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if ((unsigned int)capability >= NVML_NVLINK_CAP_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *capResult = capability == NVML_NVLINK_CAP_P2P_SUPPORTED ||
                 capability == NVML_NVLINK_CAP_P2P_ATOMICS || capability == NVML_NVLINK_CAP_VALID;
    return NVML_SUCCESS;
}

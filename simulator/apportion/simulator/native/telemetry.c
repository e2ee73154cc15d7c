/* What a device does at this moment: power, energy, heat, clocks, use, memory. */
#define _POSIX_C_SOURCE 200809L

#include <stddef.h>
#include <time.h>

#include "library.h"

/* The window over which real data-centre parts average their use, microseconds. */
#define SAMPLING_PERIOD_US 166667u

/* Defines `name(device, type *)` that answers `expression` over the published `values`. */
#define VALUE(name, type, expression)                                                              \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, type *answer)                                    \
    {                                                                                              \
        struct sim_values values;                                                                  \
        if (answer == NULL)                                                                        \
            return sim_initialised() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;     \
        nvmlReturn_t result = sim_values(device, &values);                                         \
        if (result == NVML_SUCCESS)                                                                \
            *answer = (expression);                                                                \
        return result;                                                                             \
    }

VALUE(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, values.energy_mj)
VALUE(nvmlDeviceGetPerformanceState, nvmlPstates_t, (nvmlPstates_t)values.performance_state)
VALUE(nvmlDeviceGetPowerState, nvmlPstates_t, (nvmlPstates_t)values.performance_state)
VALUE(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, values.event_reasons)
VALUE(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, values.event_reasons)

/* The average over one second where the model has it, else the power of this moment. */
EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (power == NULL || target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *power = (target.facts->capabilities & SIM_CAN_AVERAGE_POWER) != 0
                 ? target.values.power_average_mw
                 : target.values.power_instant_mw;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                  nvmlUtilization_t *utilization)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (utilization == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (values.mig_enabled) /* nobody measures it there */
        return NVML_ERROR_NOT_SUPPORTED;
    utilization->gpu = values.utilization_percent;
    utilization->memory = values.memory_utilization_percent;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *utilization,
                                                    unsigned int *samplingPeriodUs)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (utilization == NULL || samplingPeriodUs == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (values.mig_enabled)
        return NVML_ERROR_NOT_SUPPORTED;
    *utilization = values.encoder_percent;
    *samplingPeriodUs = SAMPLING_PERIOD_US;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *utilization,
                                                    unsigned int *samplingPeriodUs)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (utilization == NULL || samplingPeriodUs == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (values.mig_enabled)
        return NVML_ERROR_NOT_SUPPORTED;
    *utilization = values.decoder_percent;
    *samplingPeriodUs = SAMPLING_PERIOD_US;
    return NVML_SUCCESS;
}

/* The memory of a device, or of a MIG instance, which has no reserve of its own. */
static nvmlMemory_v2_t memory_of(const struct sim_target *target)
{
    nvmlMemory_v2_t memory = {.total = target->facts->memory_total_bytes,
                              .reserved = target->facts->memory_reserved_bytes,
                              .used = target->values.memory_used_bytes};
    if (target->instance != NULL) {
        memory.total = target->instance->memory_total_bytes;
        memory.reserved = 0;
        memory.used = target->instance->memory_used_bytes;
    }
    memory.free = memory.total - memory.reserved - memory.used;
    return memory;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlMemory_v2_t whole = memory_of(&target);
    memory->total = whole.total;
    memory->used = whole.used + whole.reserved;
    memory->free = whole.free;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int version = memory->version;
    if (version != SIM_STRUCT_VERSION(nvmlMemory_v2_t, 2u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    *memory = memory_of(&target);
    memory->version = version;
    return NVML_SUCCESS;
}

/* The whole BAR is free: nothing here maps device memory. */
EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory)
{
    const struct sim_facts *facts;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (bar1Memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    bar1Memory->bar1Total = facts->bar1_total_bytes;
    bar1Memory->bar1Free = facts->bar1_total_bytes;
    bar1Memory->bar1Used = 0;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device,
                                             nvmlTemperatureSensors_t sensorType,
                                             unsigned int *temp)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (temp == NULL || sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    *temp = (unsigned int)values.temperature_c;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (temperature == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (temperature->version != SIM_STRUCT_VERSION(nvmlTemperature_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    temperature->temperature = values.temperature_c;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                           unsigned int *clock)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (clock == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (type == NVML_CLOCK_GRAPHICS)
        *clock = values.graphics_mhz;
    else if (type == NVML_CLOCK_SM)
        *clock = values.sm_mhz;
    else if (type == NVML_CLOCK_MEM)
        *clock = values.memory_mhz;
    else if (type == NVML_CLOCK_VIDEO)
        *clock = values.video_mhz;
    else
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

extern nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                              unsigned int *clock);

EXPORT nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t clockType,
                                       nvmlClockId_t clockId, unsigned int *clockMHz)
{
    if (clockId == NVML_CLOCK_ID_CURRENT)
        return nvmlDeviceGetClockInfo(device, clockType, clockMHz);
    if (clockId == NVML_CLOCK_ID_CUSTOMER_BOOST_MAX)
        return nvmlDeviceGetMaxClockInfo(device, clockType, clockMHz);
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    return result != NVML_SUCCESS ? result : NVML_ERROR_NOT_SUPPORTED;
}

/* KB/s; blocks for as long as a real device measures (20 ms by default). */
EXPORT nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter,
                                                unsigned int *value)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    if (result != NVML_SUCCESS)
        return result;
    if (value == NULL ||
        (counter != NVML_PCIE_UTIL_TX_BYTES && counter != NVML_PCIE_UTIL_RX_BYTES))
        return NVML_ERROR_INVALID_ARGUMENT;
    uint32_t pause_us = sim_state()->pcie_query_us;
    struct timespec pause = {.tv_sec = pause_us / 1000000u, .tv_nsec = pause_us % 1000000u * 1000L};
    while (nanosleep(&pause, &pause) != 0)
        continue;
    struct sim_values values;
    result = sim_values(device, &values);
    if (result == NVML_SUCCESS)
        *value = counter == NVML_PCIE_UTIL_TX_BYTES ? values.pcie_tx_kbps : values.pcie_rx_kbps;
    return result;
}

/* nvmlDeviceGetFieldValues: many values of one moment, each with its own return code. */
#include <limits.h>
#include <stddef.h>

#include "library.h"

/* Field identifiers; the names are NVML's without their NVML_FI_DEV_ prefix. */
enum {
    FIELD_MEMORY_TEMP = 82,
    FIELD_TOTAL_ENERGY_CONSUMPTION = 83,
    FIELD_NVLINK_SPEED_MBPS_COMMON = 90,
    FIELD_NVLINK_LINK_COUNT = 91,
    FIELD_PCIE_REPLAY_COUNTER = 94,
    FIELD_NVLINK_THROUGHPUT_DATA_TX = 138, /* KiB, cumulative; scope is the link, UINT_MAX all */
    FIELD_NVLINK_THROUGHPUT_DATA_RX = 139,
    FIELD_NVLINK_GET_SPEED = 164,
    FIELD_NVLINK_GET_STATE = 165,
    FIELD_NVLINK_GET_VERSION = 166,
    FIELD_POWER_AVERAGE = 185, /* mW; scope 0 is the GPU */
    FIELD_POWER_INSTANT = 186,
    FIELD_POWER_MIN_LIMIT = 187,
    FIELD_POWER_MAX_LIMIT = 188,
    FIELD_POWER_DEFAULT_LIMIT = 189,
    FIELD_POWER_CURRENT_LIMIT = 190,
    FIELD_ENERGY = 191, /* mJ; scope 0 is the GPU */
    FIELD_POWER_REQUESTED_LIMIT = 192,
    FIELD_PCIE_COUNT_TX_BYTES = 197,
    FIELD_PCIE_COUNT_RX_BYTES = 198,
    FIELD_MAX = 310
};

/* How long NVML says that a value took; these come from one copy. */
#define LATENCY_US 1

static nvmlReturn_t set_uint(nvmlFieldValue_t *field, unsigned int value)
{
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.ullVal = 0;
    field->value.uiVal = value;
    return NVML_SUCCESS;
}

static nvmlReturn_t set_ullong(nvmlFieldValue_t *field, unsigned long long value)
{
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    field->value.ullVal = value;
    return NVML_SUCCESS;
}

/* Values of one NVLink, or of all of them together. */
static nvmlReturn_t answer_link(nvmlFieldValue_t *field, const struct sim_facts *facts,
                                const struct sim_values *values)
{
    if (facts->nvlink_count == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    int counter = field->fieldId == FIELD_NVLINK_THROUGHPUT_DATA_TX ||
                  field->fieldId == FIELD_NVLINK_THROUGHPUT_DATA_RX;
    const uint64_t *kib = field->fieldId == FIELD_NVLINK_THROUGHPUT_DATA_TX
                              ? values->nvlink_tx_kib
                              : values->nvlink_rx_kib;
    if (counter && field->scopeId == UINT_MAX) {
        unsigned long long total_kib = 0;
        for (unsigned int link = 0; link < facts->nvlink_count; link++)
            total_kib += kib[link];
        return set_ullong(field, total_kib);
    }
    if (field->scopeId >= facts->nvlink_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (counter)
        return set_ullong(field, kib[field->scopeId]);
    if (field->fieldId == FIELD_NVLINK_GET_SPEED)
        return set_uint(field, facts->nvlink_speed_mbps);
    if (field->fieldId == FIELD_NVLINK_GET_VERSION)
        return set_uint(field, facts->nvlink_version);
    return set_uint(field, NVML_FEATURE_ENABLED);
}

/* Values that exist for the GPU (scope 0) and would exist for a module (scope 1). */
static nvmlReturn_t answer_power(nvmlFieldValue_t *field, const struct sim_facts *facts,
                                 const struct sim_values *values)
{
    if (field->scopeId != 0)
        return field->scopeId < 4 ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT;
    switch (field->fieldId) {
    case FIELD_POWER_AVERAGE:
        if ((facts->capabilities & SIM_CAN_AVERAGE_POWER) == 0)
            return NVML_ERROR_NOT_SUPPORTED;
        return set_uint(field, values->power_average_mw);
    case FIELD_POWER_INSTANT:
        return set_uint(field, values->power_instant_mw);
    case FIELD_POWER_MIN_LIMIT:
        return set_uint(field, facts->power_min_mw);
    case FIELD_POWER_MAX_LIMIT:
        return set_uint(field, facts->power_max_mw);
    case FIELD_POWER_DEFAULT_LIMIT:
        return set_uint(field, facts->power_default_mw);
    case FIELD_ENERGY:
        return set_ullong(field, values->energy_mj);
    default: /* the current and the requested limit */
        return set_uint(field, facts->power_limit_mw);
    }
}

static nvmlReturn_t answer(nvmlFieldValue_t *field, const struct sim_facts *facts,
                           const struct sim_values *values)
{
    switch (field->fieldId) {
    case FIELD_MEMORY_TEMP:
        if ((facts->capabilities & SIM_CAN_MEMORY_TEMPERATURE) == 0)
            return NVML_ERROR_NOT_SUPPORTED;
        return set_uint(field, (unsigned int)values->memory_temperature_c);
    case FIELD_TOTAL_ENERGY_CONSUMPTION:
        return set_ullong(field, values->energy_mj);
    case FIELD_NVLINK_SPEED_MBPS_COMMON:
        if (facts->nvlink_count == 0)
            return NVML_ERROR_NOT_SUPPORTED;
        return set_uint(field, facts->nvlink_speed_mbps);
    case FIELD_NVLINK_LINK_COUNT:
        return set_uint(field, facts->nvlink_count);
    case FIELD_PCIE_REPLAY_COUNTER:
        return set_uint(field, 0);
    case FIELD_NVLINK_THROUGHPUT_DATA_TX:
    case FIELD_NVLINK_THROUGHPUT_DATA_RX:
    case FIELD_NVLINK_GET_SPEED:
    case FIELD_NVLINK_GET_STATE:
    case FIELD_NVLINK_GET_VERSION:
        return answer_link(field, facts, values);
    case FIELD_POWER_AVERAGE:
    case FIELD_POWER_INSTANT:
    case FIELD_POWER_MIN_LIMIT:
    case FIELD_POWER_MAX_LIMIT:
    case FIELD_POWER_DEFAULT_LIMIT:
    case FIELD_POWER_CURRENT_LIMIT:
    case FIELD_ENERGY:
    case FIELD_POWER_REQUESTED_LIMIT:
        return answer_power(field, facts, values);
    case FIELD_PCIE_COUNT_TX_BYTES:
        return set_ullong(field, values->pcie_tx_bytes);
    case FIELD_PCIE_COUNT_RX_BYTES:
        return set_ullong(field, values->pcie_rx_bytes);
    default:
        return field->fieldId > 0 && field->fieldId < FIELD_MAX ? NVML_ERROR_NOT_SUPPORTED
                                                                : NVML_ERROR_INVALID_ARGUMENT;
    }
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount,
                                             nvmlFieldValue_t *values)
{
    const struct sim_facts *facts;
    struct sim_values published;
    nvmlReturn_t result = sim_facts(device, &facts);
    if (result != NVML_SUCCESS)
        return result;
    if (values == NULL || valuesCount <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = sim_values(device, &published);
    if (result != NVML_SUCCESS)
        return result;
    for (int index = 0; index < valuesCount; index++) {
        values[index].timestamp = (long long)published.published_us;
        values[index].latencyUsec = LATENCY_US;
        values[index].nvmlReturn = answer(&values[index], facts, &published);
    }
    return NVML_SUCCESS;
}

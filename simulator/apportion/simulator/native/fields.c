/* nvmlDeviceGetFieldValues: many values of one moment, each with its own return code. */
#include <limits.h>
#include <stddef.h>

#include "library.h"

/* Field identifiers; the names are NVML's without their NVML_FI_DEV_ prefix. */
enum {
    FIELD_ECC_SBE_VOL_TOTAL = 3,
    FIELD_ECC_DBE_VOL_TOTAL = 4,
    FIELD_ECC_SBE_AGG_TOTAL = 5,
    FIELD_ECC_DBE_AGG_TOTAL = 6,
    FIELD_RETIRED_SBE = 29,
    FIELD_RETIRED_DBE = 30,
    FIELD_RETIRED_PENDING = 31,
    FIELD_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL = 38,
    FIELD_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL = 45,
    FIELD_NVLINK_REPLAY_ERROR_COUNT_TOTAL = 52,
    FIELD_NVLINK_RECOVERY_ERROR_COUNT_TOTAL = 59,
    FIELD_PERF_POLICY_POWER = 74, /* ns, as all that follow of this kind */
    FIELD_PERF_POLICY_THERMAL = 75,
    FIELD_PERF_POLICY_SYNC_BOOST = 76,
    FIELD_PERF_POLICY_BOARD_LIMIT = 77,
    FIELD_PERF_POLICY_LOW_UTILIZATION = 78,
    FIELD_PERF_POLICY_RELIABILITY = 79,
    FIELD_MEMORY_TEMP = 82,
    FIELD_TOTAL_ENERGY_CONSUMPTION = 83,
    FIELD_NVLINK_SPEED_MBPS_COMMON = 90,
    FIELD_NVLINK_LINK_COUNT = 91,
    FIELD_PCIE_REPLAY_COUNTER = 94,
    FIELD_NVLINK_THROUGHPUT_DATA_TX = 138, /* KiB, cumulative; scope is the link, UINT_MAX all */
    FIELD_NVLINK_THROUGHPUT_DATA_RX = 139,
    FIELD_REMAPPED_COR = 142,
    FIELD_REMAPPED_UNC = 143,
    FIELD_REMAPPED_PENDING = 144,
    FIELD_REMAPPED_FAILURE = 145,
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
    FIELD_NVLINK_COUNT_XMIT_BYTES = 202, /* bytes of one link, from NVLink 5 on */
    FIELD_NVLINK_COUNT_RCV_BYTES = 204,
    FIELD_GET_GPU_RECOVERY_ACTION = 230,
    FIELD_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 269,
    FIELD_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN = 270,
    FIELD_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN = 271,
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

/* Values of one NVLink, or of all of them together. There are none where MIG is enabled. */
static nvmlReturn_t answer_link(nvmlFieldValue_t *field, const struct sim_target *target)
{
    const struct sim_facts *facts = target->facts;
    if (facts->nvlink_count == 0 || target->values.mig_enabled)
        return NVML_ERROR_NOT_SUPPORTED;
    int sends = field->fieldId == FIELD_NVLINK_THROUGHPUT_DATA_TX ||
                field->fieldId == FIELD_NVLINK_COUNT_XMIT_BYTES;
    int receives = field->fieldId == FIELD_NVLINK_THROUGHPUT_DATA_RX ||
                   field->fieldId == FIELD_NVLINK_COUNT_RCV_BYTES;
    int by_link = field->fieldId == FIELD_NVLINK_COUNT_XMIT_BYTES ||
                  field->fieldId == FIELD_NVLINK_COUNT_RCV_BYTES;
    int is_fifth = (facts->capabilities & SIM_HAS_NVLINK5) != 0;
    const uint64_t *bytes =
        sends ? target->values.nvlink_tx_bytes : target->values.nvlink_rx_bytes;
    if ((sends || receives) && by_link != is_fifth)
        return NVML_ERROR_NOT_SUPPORTED;
    if ((sends || receives) && !by_link && field->scopeId == UINT_MAX) {
        unsigned long long total_kib = 0;
        for (unsigned int link = 0; link < facts->nvlink_count; link++)
            total_kib += bytes[link] / 1024;
        return set_ullong(field, total_kib);
    }
    if (field->scopeId >= facts->nvlink_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (sends || receives)
        return set_ullong(field, by_link ? bytes[field->scopeId] : bytes[field->scopeId] / 1024);
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

/* How long clocks were limited for each reason, in nanoseconds. */
static nvmlReturn_t answer_limited(nvmlFieldValue_t *field, const struct sim_values *values)
{
    unsigned int place = field->fieldId >= FIELD_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
                             ? field->fieldId - FIELD_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN + 6u
                             : field->fieldId - FIELD_PERF_POLICY_POWER;
    return set_ullong(field, values->limited_ns[place]);
}

/* Remapped rows where the part has them and MIG is not enabled; retired pages on older parts. */
static nvmlReturn_t answer_rows(nvmlFieldValue_t *field, const struct sim_target *target)
{
    const struct sim_values *values = &target->values;
    int remaps = (target->facts->capabilities & SIM_CAN_REMAP_ROWS) != 0;
    int asks_remaps = field->fieldId >= FIELD_REMAPPED_COR;
    if (remaps != asks_remaps || (remaps && values->mig_enabled))
        return NVML_ERROR_NOT_SUPPORTED;
    switch (field->fieldId) {
    case FIELD_REMAPPED_COR:
    case FIELD_RETIRED_SBE:
        return set_uint(field, values->remapped_rows[0]);
    case FIELD_REMAPPED_UNC:
    case FIELD_RETIRED_DBE:
        return set_uint(field, values->remapped_rows[1]);
    case FIELD_REMAPPED_PENDING:
    case FIELD_RETIRED_PENDING:
        return set_uint(field, values->remapping_pending);
    default: /* no remapping has failed */
        return set_uint(field, 0);
    }
}

static nvmlReturn_t answer(nvmlFieldValue_t *field, const struct sim_target *target)
{
    const struct sim_facts *facts = target->facts;
    const struct sim_values *values = &target->values;
    switch (field->fieldId) {
    case FIELD_ECC_SBE_VOL_TOTAL:
        return set_ullong(field, values->ecc_errors[0][0]);
    case FIELD_ECC_DBE_VOL_TOTAL:
        return set_ullong(field, values->ecc_errors[1][0]);
    case FIELD_ECC_SBE_AGG_TOTAL:
        return set_ullong(field, values->ecc_errors[0][1]);
    case FIELD_ECC_DBE_AGG_TOTAL:
        return set_ullong(field, values->ecc_errors[1][1]);
    case FIELD_RETIRED_SBE:
    case FIELD_RETIRED_DBE:
    case FIELD_RETIRED_PENDING:
    case FIELD_REMAPPED_COR:
    case FIELD_REMAPPED_UNC:
    case FIELD_REMAPPED_PENDING:
    case FIELD_REMAPPED_FAILURE:
        return answer_rows(field, target);
    case FIELD_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL:
    case FIELD_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL:
    case FIELD_NVLINK_REPLAY_ERROR_COUNT_TOTAL:
    case FIELD_NVLINK_RECOVERY_ERROR_COUNT_TOTAL:
        if (facts->nvlink_count == 0 || values->mig_enabled)
            return NVML_ERROR_NOT_SUPPORTED;
        return set_ullong(field, 0);
    case FIELD_PERF_POLICY_POWER:
    case FIELD_PERF_POLICY_THERMAL:
    case FIELD_PERF_POLICY_SYNC_BOOST:
    case FIELD_PERF_POLICY_BOARD_LIMIT:
    case FIELD_PERF_POLICY_LOW_UTILIZATION:
    case FIELD_PERF_POLICY_RELIABILITY:
    case FIELD_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN:
    case FIELD_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN:
    case FIELD_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN:
        return answer_limited(field, values);
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
    case FIELD_NVLINK_COUNT_XMIT_BYTES:
    case FIELD_NVLINK_COUNT_RCV_BYTES:
    case FIELD_NVLINK_GET_SPEED:
    case FIELD_NVLINK_GET_STATE:
    case FIELD_NVLINK_GET_VERSION:
        return answer_link(field, target);
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
    case FIELD_GET_GPU_RECOVERY_ACTION:
        return set_uint(field, values->recovery_action);
    default:
        return field->fieldId > 0 && field->fieldId < FIELD_MAX ? NVML_ERROR_NOT_SUPPORTED
                                                                : NVML_ERROR_INVALID_ARGUMENT;
    }
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount,
                                             nvmlFieldValue_t *values)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (values == NULL || valuesCount <= 0 || target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int index = 0; index < valuesCount; index++) {
        values[index].timestamp = (long long)target.values.published_us;
        values[index].latencyUsec = LATENCY_US;
        values[index].nvmlReturn = answer(&values[index], &target);
    }
    return NVML_SUCCESS;
}

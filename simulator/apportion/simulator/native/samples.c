/* nvmlDeviceGetSamples: what the driver keeps of the last seconds, denser than anyone polls. */
#include <stddef.h>

#include "library.h"

static int is_utilization(nvmlSamplingType_t type)
{
    return type == NVML_GPU_UTILIZATION_SAMPLES || type == NVML_MEMORY_UTILIZATION_SAMPLES;
}

static unsigned int value_of(nvmlSamplingType_t type, const struct sim_sample *sample)
{
    if (type == NVML_TOTAL_POWER_SAMPLES)
        return sample->power_mw;
    return type == NVML_GPU_UTILIZATION_SAMPLES ? sample->utilization_percent
                                                : sample->utilization_percent / 2;
}

/* Without an array it says how large one has to be; NOT_FOUND: nothing since then. */
EXPORT nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type,
                                         unsigned long long lastSeenTimeStamp,
                                         nvmlValueType_t *sampleValType,
                                         unsigned int *sampleCount, nvmlSample_t *samples)
{
    struct sim_target target;
    const struct sim_values *values = &target.values;
    nvmlReturn_t result = sim_target_with_lists(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (sampleValType == NULL || sampleCount == NULL || (samples != NULL && *sampleCount == 0) ||
        (unsigned int)type >= NVML_SAMPLINGTYPE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((type != NVML_TOTAL_POWER_SAMPLES && !is_utilization(type)) ||
        (values->mig_enabled && is_utilization(type)))
        return NVML_ERROR_NOT_SUPPORTED;
    *sampleValType = NVML_VALUE_TYPE_UNSIGNED_INT;
    if (samples == NULL) {
        *sampleCount = SIM_MAX_SAMPLES;
        return NVML_SUCCESS;
    }
    unsigned int given = 0;
    for (unsigned int place = 0; place < values->sample_count && given < *sampleCount; place++) {
        const struct sim_sample *sample = &values->samples[place];
        if (sample->time_us <= lastSeenTimeStamp)
            continue;
        samples[given].timeStamp = sample->time_us;
        samples[given].sampleValue.ullVal = 0;
        samples[given].sampleValue.uiVal = value_of(type, sample);
        given++;
    }
    *sampleCount = given;
    return given > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

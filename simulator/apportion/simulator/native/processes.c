/* Which processes are on a device, and what share of it each one uses. */
#include <stddef.h>

#include "library.h"

/* NVML's mark for a process that is on no MIG instance. */
#define NO_INSTANCE 0xffffffffu

/*
 * NVML's way of returning a list: the caller says how many entries its array holds, and is told
 * how many there are. Too small an array, or none, is INSUFFICIENT_SIZE unless there is nothing.
 */
static nvmlReturn_t check_room(unsigned int found, unsigned int *count, const void *array)
{
    unsigned int room = array == NULL ? 0 : *count;
    *count = found;
    return found <= room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                            unsigned int *infoCount,
                                                            nvmlProcessInfo_t *infos)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (infoCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = check_room(values.process_count, infoCount, infos);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values.process_count; index++) {
        infos[index].pid = values.processes[index].pid;
        infos[index].usedGpuMemory = values.processes[index].used_bytes;
        infos[index].gpuInstanceId = NO_INSTANCE;
        infos[index].computeInstanceId = NO_INSTANCE;
    }
    return result;
}

/* Version 2 differs from version 3 in name only. */
EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                            unsigned int *infoCount,
                                                            nvmlProcessInfo_v2_t *infos)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, infoCount, infos);
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device,
                                                         unsigned int *infoCount,
                                                         nvmlProcessInfo_v1_t *infos)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (infoCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = check_room(values.process_count, infoCount, infos);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values.process_count; index++) {
        infos[index].pid = values.processes[index].pid;
        infos[index].usedGpuMemory = values.processes[index].used_bytes;
    }
    return result;
}

/* Defines a process list that is always empty: nothing here draws, and no MPS server runs. */
#define NO_PROCESSES(name, type)                                                                   \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, type *infos)            \
    {                                                                                              \
        unsigned int index;                                                                        \
        nvmlReturn_t result = sim_index(device, &index);                                           \
        if (result != NVML_SUCCESS)                                                                \
            return result;                                                                         \
        return infoCount == NULL ? NVML_ERROR_INVALID_ARGUMENT : check_room(0, infoCount, infos);  \
    }

NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

/* Leaves in `values` only the processes that ran since `last_seen_us`; how many they are. */
static unsigned int keep_active(struct sim_values *values, unsigned long long last_seen_us)
{
    unsigned int kept = 0;
    for (unsigned int index = 0; index < values->process_count; index++)
        if (values->processes[index].sm_percent > 0 &&
            values->processes[index].sampled_us > last_seen_us)
            values->processes[kept++] = values->processes[index];
    return kept;
}

/* NOT_FOUND says that nobody ran since `lastSeenTimeStamp`: an idle device, not an error. */
EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                    nvmlProcessUtilizationSample_t *utilization,
                                                    unsigned int *processSamplesCount,
                                                    unsigned long long lastSeenTimeStamp)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (processSamplesCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int found = keep_active(&values, lastSeenTimeStamp);
    if (found == 0) {
        *processSamplesCount = 0;
        return NVML_ERROR_NOT_FOUND;
    }
    result = check_room(found, processSamplesCount, utilization);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < found; index++) {
        utilization[index].pid = values.processes[index].pid;
        utilization[index].timeStamp = values.processes[index].sampled_us;
        utilization[index].smUtil = values.processes[index].sm_percent;
        utilization[index].memUtil = values.processes[index].memory_percent;
        utilization[index].encUtil = 0;
        utilization[index].decUtil = 0;
    }
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *procesesUtilInfo)
{
    struct sim_values values;
    nvmlReturn_t result = sim_values(device, &values);
    if (result != NVML_SUCCESS)
        return result;
    if (procesesUtilInfo == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (procesesUtilInfo->version != SIM_STRUCT_VERSION(nvmlProcessesUtilizationInfo_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    unsigned int found = keep_active(&values, procesesUtilInfo->lastSeenTimeStamp);
    if (found == 0) {
        procesesUtilInfo->processSamplesCount = 0;
        return NVML_ERROR_NOT_FOUND;
    }
    nvmlProcessUtilizationInfo_v1_t *samples = procesesUtilInfo->procUtilArray;
    result = check_room(found, &procesesUtilInfo->processSamplesCount, samples);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < found; index++)
        samples[index] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = values.processes[index].sampled_us,
            .pid = values.processes[index].pid,
            .smUtil = values.processes[index].sm_percent,
            .memUtil = values.processes[index].memory_percent,
        };
    return result;
}

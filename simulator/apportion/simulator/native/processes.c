/* Which processes are on a device, and what share of it each one uses. */
#include <stddef.h>

#include "library.h"

/* What drivers whose structures do not match were seen to return. */
#define NONSENSE_PID 0xfffffff0u
#define NONSENSE_BYTES 0x7fffffffffffffffULL
#define NONSENSE_PERCENT 3758096384u

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

/* Every second row becomes nonsense, and one more is added, where that fault is in force. */
static void spoil(const struct sim_target *target, struct sim_values *values)
{
    if (!sim_in_force(&sim_device_at(target->index)->faults[SIM_FAULT_GARBAGE]))
        return;
    if (values->process_count < SIM_MAX_PROCESSES)
        values->processes[values->process_count++] =
            (struct sim_process){.sampled_us = values->published_us};
    for (unsigned int row = values->process_count; row > 0; row -= row > 1 ? 2 : 1) {
        struct sim_process *process = &values->processes[row - 1];
        process->pid = NONSENSE_PID + row;
        process->used_bytes = NONSENSE_BYTES;
        process->sm_percent = process->memory_percent = NONSENSE_PERCENT;
    }
}

/* Leaves in `values` the processes of the target: all of a device's, or those of an instance. */
static nvmlReturn_t read_processes(nvmlDevice_t device, struct sim_target *target)
{
    nvmlReturn_t result = sim_target_with_lists(device, target);
    if (result != NVML_SUCCESS)
        return result;
    struct sim_values *values = &target->values;
    const struct sim_instance *instance = target->instance;
    unsigned int kept = 0;
    for (unsigned int row = 0; row < values->process_count; row++)
        if (instance == NULL ||
            (values->processes[row].gpu_instance == instance->gpu_instance &&
             values->processes[row].compute_instance == instance->compute_instance))
            values->processes[kept++] = values->processes[row];
    values->process_count = kept;
    spoil(target, values);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                            unsigned int *infoCount,
                                                            nvmlProcessInfo_t *infos)
{
    struct sim_target target;
    const struct sim_values *values = &target.values;
    nvmlReturn_t result = read_processes(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (infoCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = check_room(values->process_count, infoCount, infos);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values->process_count; index++) {
        infos[index].pid = values->processes[index].pid;
        infos[index].usedGpuMemory = values->processes[index].used_bytes;
        infos[index].gpuInstanceId = values->processes[index].gpu_instance;
        infos[index].computeInstanceId = values->processes[index].compute_instance;
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
    struct sim_target target;
    const struct sim_values *values = &target.values;
    nvmlReturn_t result = read_processes(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (infoCount == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    result = check_room(values->process_count, infoCount, infos);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values->process_count; index++) {
        infos[index].pid = values->processes[index].pid;
        infos[index].usedGpuMemory = values->processes[index].used_bytes;
    }
    return result;
}

/* Defines a process list that is always empty: nothing here draws, and no MPS server runs. */
#define NO_PROCESSES(name, type)                                                                   \
    EXPORT nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, type *infos)            \
    {                                                                                              \
        struct sim_target target;                                                                  \
        nvmlReturn_t result = sim_target(device, &target);                                         \
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

/* Leaves in `target` the processes that ran since `last_seen_us`: NOT_FOUND if there are none,
 * NOT_SUPPORTED where MIG is enabled. */
static nvmlReturn_t read_active(nvmlDevice_t device, unsigned long long last_seen_us,
                                struct sim_target *target)
{
    nvmlReturn_t result = read_processes(device, target);
    if (result != NVML_SUCCESS)
        return result;
    struct sim_values *values = &target->values;
    if (values->mig_enabled)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned int kept = 0;
    for (unsigned int index = 0; index < values->process_count; index++)
        if (values->processes[index].sm_percent > 0 &&
            values->processes[index].sampled_us > last_seen_us)
            values->processes[kept++] = values->processes[index];
    values->process_count = kept;
    return kept > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

/* NOT_FOUND says that nobody ran since `lastSeenTimeStamp`: an idle device, not an error. */
EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                                    nvmlProcessUtilizationSample_t *utilization,
                                                    unsigned int *processSamplesCount,
                                                    unsigned long long lastSeenTimeStamp)
{
    struct sim_target target;
    if (processSamplesCount == NULL)
        return sim_initialised() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = read_active(device, lastSeenTimeStamp, &target);
    if (result == NVML_ERROR_NOT_FOUND)
        *processSamplesCount = 0;
    if (result != NVML_SUCCESS)
        return result;
    const struct sim_values *values = &target.values;
    result = check_room(values->process_count, processSamplesCount, utilization);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values->process_count; index++) {
        utilization[index].pid = values->processes[index].pid;
        utilization[index].timeStamp = values->processes[index].sampled_us;
        utilization[index].smUtil = values->processes[index].sm_percent;
        utilization[index].memUtil = values->processes[index].memory_percent;
        utilization[index].encUtil = 0;
        utilization[index].decUtil = 0;
    }
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *procesesUtilInfo)
{
    struct sim_target target;
    if (procesesUtilInfo == NULL)
        return sim_initialised() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    if (procesesUtilInfo->version != SIM_STRUCT_VERSION(nvmlProcessesUtilizationInfo_t, 1u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = read_active(device, procesesUtilInfo->lastSeenTimeStamp, &target);
    if (result == NVML_ERROR_NOT_FOUND)
        procesesUtilInfo->processSamplesCount = 0;
    if (result != NVML_SUCCESS)
        return result;
    const struct sim_values *values = &target.values;
    nvmlProcessUtilizationInfo_v1_t *samples = procesesUtilInfo->procUtilArray;
    result = check_room(values->process_count, &procesesUtilInfo->processSamplesCount, samples);
    for (unsigned int index = 0; result == NVML_SUCCESS && index < values->process_count; index++)
        samples[index] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = values->processes[index].sampled_us,
            .pid = values->processes[index].pid,
            .smUtil = values->processes[index].sm_percent,
            .memUtil = values->processes[index].memory_percent,
        };
    return result;
}

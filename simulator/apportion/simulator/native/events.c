/* Events: a set remembers which devices it listens to, and which of their events it has given. */
#define _POSIX_C_SOURCE 200809L

#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "library.h"

#define PAUSE_MS 20u
/* Single and double bit ECC errors, XIDs, MIG changes, ECC storms, retirements and poison, a GPU
 * that is unavailable, and recovery actions. */
#define SUPPORTED 0xff0bULL

struct nvmlEventSet_st {
    unsigned long long types[SIM_MAX_DEVICES];
    uint64_t given[SIM_MAX_DEVICES]; /* as sim_events.count */
};

EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *set = calloc(1, sizeof(struct nvmlEventSet_st));
    return *set == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    if (!sim_initialised())
        return NVML_ERROR_UNINITIALIZED;
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(set);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device,
                                                     unsigned long long *eventTypes)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    if (result != NVML_SUCCESS)
        return result;
    if (eventTypes == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *eventTypes = SUPPORTED;
    return NVML_SUCCESS;
}

/* What happened before is not recorded. */
EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long eventTypes,
                                             nvmlEventSet_t set)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(device, &index);
    if (result != NVML_SUCCESS)
        return result;
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((eventTypes & ~SUPPORTED) != 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (set->types[index] == 0)
        set->given[index] =
            __atomic_load_n(&sim_device_at(index)->events.count, __ATOMIC_ACQUIRE);
    set->types[index] |= eventTypes;
    return NVML_SUCCESS;
}

/* The next event of a device that the set asks for; what fell out of the ring is gone. */
static int next(nvmlEventSet_t set, unsigned int index, nvmlEventData_t *data)
{
    const struct sim_events *events = &sim_device_at(index)->events;
    uint64_t count = __atomic_load_n(&events->count, __ATOMIC_ACQUIRE);
    if (count > SIM_MAX_EVENTS && set->given[index] < count - SIM_MAX_EVENTS)
        set->given[index] = count - SIM_MAX_EVENTS;
    while (set->given[index] < count) {
        const struct sim_event *event = &events->ring[set->given[index]++ % SIM_MAX_EVENTS];
        if ((event->type & set->types[index]) == 0)
            continue;
        data->device = sim_handle(index);
        data->eventType = event->type;
        data->eventData = event->data;
        data->gpuInstanceId = event->gpu_instance;
        data->computeInstanceId = event->compute_instance;
        return 1;
    }
    return 0;
}

/* Whether a device that the set listens to has fallen off the bus. */
static int has_lost(nvmlEventSet_t set)
{
    for (unsigned int index = 0; index < SIM_MAX_DEVICES; index++) {
        if (set->types[index] == 0)
            continue;
        const struct sim_fault *faults = sim_device_at(index)->faults;
        if (sim_in_force(&faults[SIM_FAULT_ABSENT]) ||
            (sim_in_force(&faults[SIM_FAULT_ANSWER]) &&
             faults[SIM_FAULT_ANSWER].value == NVML_ERROR_GPU_IS_LOST))
            return 1;
    }
    return 0;
}

EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data,
                                        unsigned int timeoutms)
{
    for (unsigned int waited_ms = 0;; waited_ms += PAUSE_MS) {
        nvmlReturn_t result = sim_ready();
        if (result != NVML_SUCCESS)
            return result;
        if (set == NULL || data == NULL)
            return NVML_ERROR_INVALID_ARGUMENT;
        for (unsigned int index = 0; index < SIM_MAX_DEVICES; index++)
            if (set->types[index] != 0 && next(set, index, data))
                return NVML_SUCCESS;
        if (has_lost(set))
            return NVML_ERROR_GPU_IS_LOST;
        if (waited_ms >= timeoutms)
            return NVML_ERROR_TIMEOUT;
        struct timespec pause = {.tv_sec = 0, .tv_nsec = PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
}

EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data,
                                     unsigned int timeoutms)
{
    return nvmlEventSetWait_v2(set, data, timeoutms);
}

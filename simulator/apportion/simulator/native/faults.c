/* Faults on demand: each call passes here first, and may fail, wait or end the process. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <time.h>

#include "library.h"

#define PAUSE_NS 5000000L

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

int sim_in_force(const struct sim_fault *fault)
{
    uint64_t until_ns = __atomic_load_n(&fault->until_ns, __ATOMIC_ACQUIRE);
    return until_ns != 0 && (until_ns == SIM_NO_END || now_ns() < until_ns);
}

static void pause_for(uint64_t pause_us)
{
    struct timespec left = {.tv_sec = (time_t)(pause_us / 1000000u),
                            .tv_nsec = (long)(pause_us % 1000000u) * 1000L};
    while (nanosleep(&left, &left) != 0)
        continue;
}

/* What a hang, slowness, a crash and an answer make of a call, in this order. */
static nvmlReturn_t obey(const struct sim_fault *faults)
{
    while (sim_in_force(&faults[SIM_FAULT_HANG])) {
        struct timespec moment = {.tv_sec = 0, .tv_nsec = PAUSE_NS};
        nanosleep(&moment, NULL);
    }
    if (sim_in_force(&faults[SIM_FAULT_SLOW]))
        pause_for(__atomic_load_n(&faults[SIM_FAULT_SLOW].value, __ATOMIC_RELAXED));
    if (sim_in_force(&faults[SIM_FAULT_CRASH]))
        raise(SIGSEGV);
    if (sim_in_force(&faults[SIM_FAULT_ANSWER]))
        return (nvmlReturn_t)__atomic_load_n(&faults[SIM_FAULT_ANSWER].value, __ATOMIC_RELAXED);
    return NVML_SUCCESS;
}

nvmlReturn_t sim_library_fault(void)
{
    const struct sim_header *header = sim_state();
    return header == NULL ? NVML_SUCCESS : obey(header->faults);
}

nvmlReturn_t sim_device_fault(unsigned int index)
{
    return obey(sim_device_at(index)->faults);
}

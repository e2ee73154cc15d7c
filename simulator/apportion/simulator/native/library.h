/* What the files of this library share with each other and export to nobody. */
#ifndef APPORTION_SIMULATOR_LIBRARY_H
#define APPORTION_SIMULATOR_LIBRARY_H

#include "abi.h"
#include "state.h"

#define SIM_STATE_VARIABLE "APPORTION_SIMULATOR_STATE"

/* NVML's mark for what is on no MIG instance. */
#define SIM_NO_INSTANCE 0xffffffffu

/* What a call about a device or a MIG instance works on, as it is at this moment. */
struct sim_target {
    unsigned int index; /* of the device in the state file */
    const struct sim_facts *facts;
    struct sim_values values;
    const struct sim_instance *instance; /* into `values`; NULL: the whole device */
};

/* Maps the file that SIM_STATE_VARIABLE names and notes which devices are there. Called with the
 * init lock held. */
nvmlReturn_t sim_map_state(void);

/* The mapped header, or NULL before the first successful init. */
const struct sim_header *sim_state(void);

/* The device at `index` of the state file. */
const struct sim_device *sim_device_at(unsigned int index);

/* NVML_SUCCESS between init and shutdown, else UNINITIALIZED; or what a fault of the whole library
 * makes of this call, which may not return for a while. */
nvmlReturn_t sim_ready(void);

/* The same without faults: for code that runs in the middle of a call. */
int sim_initialised(void);

/* What the faults of the whole library make of a call, NVML_SUCCESS if nothing; the same of one
 * device that was there at the time of init. Either may block, or end the process. */
nvmlReturn_t sim_library_fault(void);
nvmlReturn_t sim_device_fault(unsigned int index);

/* Whether a fault is in force. */
int sim_in_force(const struct sim_fault *fault);

/* How many devices the driver listed at the time of init; the index in the state file of one of
 * them, below that count; the reverse. */
unsigned int sim_listed(void);
unsigned int sim_listed_index(unsigned int place);
nvmlReturn_t sim_place(unsigned int index, unsigned int *place);

/* The handle of a device, or of its MIG instance at `place` (0 to SIM_MAX_INSTANCES - 1). */
nvmlDevice_t sim_handle(unsigned int index);
nvmlDevice_t sim_instance_handle(unsigned int index, unsigned int place);

/* The index behind a device's handle; UNINITIALIZED or INVALID_ARGUMENT when there is none, else
 * what a fault of the device makes of the call. */
nvmlReturn_t sim_index(nvmlDevice_t handle, unsigned int *index);

/* The facts behind a handle; errors as sim_index. */
nvmlReturn_t sim_facts(nvmlDevice_t handle, const struct sim_facts **facts);

/* One consistent copy of what was published last, without the lists; errors as sim_index, and
 * UNKNOWN when no whole slot could be read, which means that something other than our controller
 * wrote the file. */
nvmlReturn_t sim_values(nvmlDevice_t handle, struct sim_values *values);

/* What is behind a handle of a device, without the lists, or of a MIG instance; errors as
 * sim_values. A handle whose instance was destroyed is INVALID_ARGUMENT, one whose place was taken
 * by another means that. */
nvmlReturn_t sim_target(nvmlDevice_t handle, struct sim_target *target);

/* The same with the lists. */
nvmlReturn_t sim_target_with_lists(nvmlDevice_t handle, struct sim_target *target);

/* `text` with its NUL into `buffer`; INVALID_ARGUMENT or INSUFFICIENT_SIZE when it cannot be. */
nvmlReturn_t sim_copy_text(char *buffer, unsigned int length, const char *text);

#endif

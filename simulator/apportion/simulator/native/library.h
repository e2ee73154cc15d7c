/* What the files of this library share with each other and export to nobody. */
#ifndef APPORTION_SIMULATOR_LIBRARY_H
#define APPORTION_SIMULATOR_LIBRARY_H

#include "abi.h"
#include "state.h"

#define SIM_STATE_VARIABLE "APPORTION_SIMULATOR_STATE"

/* Maps the file that SIM_STATE_VARIABLE names. Called with the init lock held. */
nvmlReturn_t sim_map_state(void);

/* The mapped header, or NULL before the first successful init. */
const struct sim_header *sim_state(void);

/* NVML_SUCCESS between init and shutdown, else NVML_ERROR_UNINITIALIZED. */
nvmlReturn_t sim_ready(void);

/* The handle of the device at `index`, which must be below the device count. */
nvmlDevice_t sim_handle(unsigned int index);

/* The index behind a handle; UNINITIALIZED or INVALID_ARGUMENT when there is none. */
nvmlReturn_t sim_index(nvmlDevice_t handle, unsigned int *index);

/* The facts behind a handle; errors as sim_index. */
nvmlReturn_t sim_facts(nvmlDevice_t handle, const struct sim_facts **facts);

/* One consistent copy of what was published last; errors as sim_index, and UNKNOWN when no whole
 * slot could be read, which means that something other than our controller wrote the file. */
nvmlReturn_t sim_values(nvmlDevice_t handle, struct sim_values *values);

/* `text` with its NUL into `buffer`; INVALID_ARGUMENT or INSUFFICIENT_SIZE when it cannot be. */
nvmlReturn_t sim_copy_text(char *buffer, unsigned int length, const char *text);

#endif

/* Starting and stopping the library, its versions and what concerns no single device. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "library.h"

/* Whoever loads a libnvidia-ml.so.1 can look this name up and know what it has. */
EXPORT const char apportionSimulator[] = "SIMULATED: no value from this library was measured";

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint references;

int sim_initialised(void)
{
    return atomic_load_explicit(&references, memory_order_acquire) > 0;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags; /* all of them relax demands on hardware */
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&init_lock);
    if (atomic_load_explicit(&references, memory_order_relaxed) == 0)
        result = sim_map_state();
    if (result == NVML_SUCCESS)
        atomic_fetch_add_explicit(&references, 1, memory_order_release);
    pthread_mutex_unlock(&init_lock);
    return result;
}

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

EXPORT nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;
    pthread_mutex_lock(&init_lock);
    if (atomic_load_explicit(&references, memory_order_relaxed) > 0) {
        atomic_fetch_sub_explicit(&references, 1, memory_order_release);
        result = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&init_lock);
    return result;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        [NVML_SUCCESS] = "Success",
        [NVML_ERROR_UNINITIALIZED] = "Uninitialized",
        [NVML_ERROR_INVALID_ARGUMENT] = "Invalid argument",
        [NVML_ERROR_NOT_SUPPORTED] = "Not supported",
        [NVML_ERROR_NO_PERMISSION] = "Insufficient permissions",
        [NVML_ERROR_ALREADY_INITIALIZED] = "Already initialized",
        [NVML_ERROR_NOT_FOUND] = "Not found",
        [NVML_ERROR_INSUFFICIENT_SIZE] = "Insufficient size",
        [NVML_ERROR_INSUFFICIENT_POWER] = "Insufficient external power",
        [NVML_ERROR_DRIVER_NOT_LOADED] = "Driver not loaded",
        [NVML_ERROR_TIMEOUT] = "Timeout",
        [NVML_ERROR_IRQ_ISSUE] = "Interrupt request issue",
        [NVML_ERROR_LIBRARY_NOT_FOUND] = "NVML shared library not found",
        [NVML_ERROR_FUNCTION_NOT_FOUND] = "Function not found",
        [NVML_ERROR_CORRUPTED_INFOROM] = "Corrupted infoROM",
        [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
        [NVML_ERROR_RESET_REQUIRED] = "GPU requires reset",
        [NVML_ERROR_OPERATING_SYSTEM] = "Blocked by the operating system",
        [NVML_ERROR_LIB_RM_VERSION_MISMATCH] = "Driver/library version mismatch",
        [NVML_ERROR_IN_USE] = "In use by another client",
        [NVML_ERROR_MEMORY] = "Insufficient memory",
        [NVML_ERROR_NO_DATA] = "No data",
        [NVML_ERROR_VGPU_ECC_NOT_SUPPORTED] = "Not available on a vGPU while ECC is enabled",
        [NVML_ERROR_INSUFFICIENT_RESOURCES] = "Insufficient resources",
        [NVML_ERROR_FREQ_NOT_SUPPORTED] = "Frequency not supported",
        [NVML_ERROR_ARGUMENT_VERSION_MISMATCH] = "Argument version mismatch",
        [NVML_ERROR_DEPRECATED] = "Deprecated",
        [NVML_ERROR_NOT_READY] = "Not ready",
        [NVML_ERROR_GPU_NOT_FOUND] = "No GPU found",
        [NVML_ERROR_INVALID_STATE] = "Invalid state",
        [NVML_ERROR_RESET_TYPE_NOT_SUPPORTED] = "Reset type not supported",
    };
    if ((unsigned int)result < sizeof(texts) / sizeof(texts[0]))
        return texts[result];
    return "Unknown error";
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    nvmlReturn_t result = sim_ready();
    return result != NVML_SUCCESS ? result
                                  : sim_copy_text(version, length, sim_state()->driver_version);
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    nvmlReturn_t result = sim_ready();
    return result != NVML_SUCCESS ? result
                                  : sim_copy_text(version, length, sim_state()->nvml_version);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *cudaDriverVersion)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (cudaDriverVersion == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *cudaDriverVersion = sim_state()->cuda_driver_version;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *cudaDriverVersion)
{
    return nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion);
}

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    char path[64];
    char text[64] = "";
    snprintf(path, sizeof(path), "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return NVML_ERROR_NOT_FOUND;
    if (fgets(text, sizeof(text), file) != NULL)
        text[strcspn(text, "\n")] = '\0';
    fclose(file);
    return sim_copy_text(name, length, text);
}

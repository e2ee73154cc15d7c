/* Maps the state file read-only and takes consistent copies of what the controller publishes. */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"

/* A reader repeats when the controller published while it copied, about a tenth of a microsecond
 * in each hundred milliseconds. This many times in a row means a foreign writer. */
#define ATTEMPTS 100000

struct nvmlDevice_st {
    unsigned int index;
};

static struct nvmlDevice_st handles[SIM_MAX_DEVICES];
static _Atomic(const struct sim_header *) mapped;
static dev_t mapped_device;
static ino_t mapped_inode;

const struct sim_header *sim_state(void)
{
    return atomic_load_explicit(&mapped, memory_order_acquire);
}

static nvmlReturn_t check_header(const struct sim_header *header, off_t size)
{
    if (header->magic != SIM_STATE_MAGIC || header->version != SIM_STATE_VERSION ||
        header->header_bytes != SIM_HEADER_BYTES || header->device_bytes != SIM_DEVICE_BYTES)
        return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    if (header->device_count > SIM_MAX_DEVICES ||
        size < (off_t)SIM_HEADER_BYTES + (off_t)header->device_count * (off_t)SIM_DEVICE_BYTES)
        return NVML_ERROR_UNKNOWN;
    return NVML_SUCCESS;
}

nvmlReturn_t sim_map_state(void)
{
    const char *path = getenv(SIM_STATE_VARIABLE);
    if (path == NULL || *path == '\0')
        return NVML_ERROR_DRIVER_NOT_LOADED;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    struct stat status;
    if (fstat(descriptor, &status) != 0 || status.st_size < (off_t)SIM_HEADER_BYTES) {
        close(descriptor);
        return NVML_ERROR_DRIVER_NOT_LOADED;
    }
    if (sim_state() != NULL && status.st_dev == mapped_device && status.st_ino == mapped_inode) {
        close(descriptor);
        return NVML_SUCCESS;
    }
    void *address = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (address == MAP_FAILED)
        return NVML_ERROR_MEMORY;
    nvmlReturn_t result = check_header(address, status.st_size);
    if (result != NVML_SUCCESS) {
        munmap(address, (size_t)status.st_size);
        return result;
    }
    for (unsigned int index = 0; index < SIM_MAX_DEVICES; index++)
        handles[index].index = index;
    mapped_device = status.st_dev;
    mapped_inode = status.st_ino;
    /* An older mapping stays: another thread may be inside a call on it, and while it is mapped
     * no new file can get its inode number, so that the comparison above holds. */
    atomic_store_explicit(&mapped, address, memory_order_release);
    return NVML_SUCCESS;
}

nvmlDevice_t sim_handle(unsigned int index)
{
    return &handles[index];
}

nvmlReturn_t sim_index(nvmlDevice_t handle, unsigned int *index)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    const struct sim_header *header = sim_state();
    uintptr_t distance = (uintptr_t)handle - (uintptr_t)handles;
    if (handle == NULL || distance % sizeof(handles[0]) != 0 ||
        distance / sizeof(handles[0]) >= header->device_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    *index = (unsigned int)(distance / sizeof(handles[0]));
    return NVML_SUCCESS;
}

static nvmlReturn_t find_device(nvmlDevice_t handle, const struct sim_device **device)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(handle, &index);
    if (result == NVML_SUCCESS)
        *device = (const struct sim_device *)((const char *)sim_state() + SIM_HEADER_BYTES +
                                              (size_t)index * SIM_DEVICE_BYTES);
    return result;
}

nvmlReturn_t sim_facts(nvmlDevice_t handle, const struct sim_facts **facts)
{
    const struct sim_device *device;
    nvmlReturn_t result = find_device(handle, &device);
    if (result == NVML_SUCCESS)
        *facts = &device->facts;
    return result;
}

/*
 * Copies one slot word by word and returns the checksum of the copy: word i, counted from the
 * first after the checksum, times 2i+1, summed modulo 2^64. The sequence alone proves a copy whole
 * where stores stay in order (x86-64). The controller is Python and has no store barrier, so where
 * stores may overtake each other the checksum is what finds a slot that is old and new at once.
 */
static uint64_t copy_slot(const struct sim_values *slot, struct sim_values *copy)
{
    const uint64_t *source = (const uint64_t *)(const void *)slot;
    uint64_t *target = (uint64_t *)(void *)copy;
    uint64_t checksum = 0;
    target[0] = __atomic_load_n(&source[0], __ATOMIC_RELAXED);
    target[1] = __atomic_load_n(&source[1], __ATOMIC_RELAXED);
    for (size_t word = 2; word < sizeof(*copy) / sizeof(uint64_t); word++) {
        target[word] = __atomic_load_n(&source[word], __ATOMIC_RELAXED);
        checksum += target[word] * (2 * (word - 2) + 1);
    }
    return checksum;
}

nvmlReturn_t sim_values(nvmlDevice_t handle, struct sim_values *values)
{
    const struct sim_device *device;
    nvmlReturn_t result = find_device(handle, &device);
    if (result != NVML_SUCCESS)
        return result;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        uint64_t before = __atomic_load_n(&device->sequence, __ATOMIC_ACQUIRE);
        uint64_t checksum = copy_slot(&device->slots[before & 1], values);
        atomic_thread_fence(memory_order_acquire);
        uint64_t after = __atomic_load_n(&device->sequence, __ATOMIC_RELAXED);
        if (before == after && values->sequence == before && values->checksum == checksum &&
            values->process_count <= SIM_MAX_PROCESSES)
            return NVML_SUCCESS;
    }
    return NVML_ERROR_UNKNOWN;
}

nvmlReturn_t sim_copy_text(char *buffer, unsigned int length, const char *text)
{
    if (buffer == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    size_t needed = strlen(text) + 1;
    if (length < needed)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(buffer, text, needed);
    return NVML_SUCCESS;
}

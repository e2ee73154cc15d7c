/* Maps the state file read-only and takes consistent copies of what the controller publishes. */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"

/* A reader repeats when the controller published while it copied, about a microsecond in each
 * hundred milliseconds. This many times in a row means a foreign writer. */
#define ATTEMPTS 100000

/* A device's handles lie together: its own, then one for each place of a MIG instance. */
#define STRIDE (1u + SIM_MAX_INSTANCES)

struct nvmlDevice_st {
    char nothing;
};

/* What the driver listed when the library was initialised: this is what indexes count. `removals`
 * tells a device that stayed from one that went and came back, whose old handles are dead. */
struct listed {
    unsigned int count;
    unsigned int indexes[SIM_MAX_DEVICES];
    uint64_t removals[SIM_MAX_DEVICES];
};

static struct nvmlDevice_st handles[SIM_MAX_DEVICES * STRIDE];
static _Atomic(const struct sim_header *) mapped;
static dev_t mapped_device;
static ino_t mapped_inode;
static uint64_t mapped_loads;
static struct listed listed;

const struct sim_header *sim_state(void)
{
    return atomic_load_explicit(&mapped, memory_order_acquire);
}

const struct sim_device *sim_device_at(unsigned int index)
{
    return (const struct sim_device *)((const char *)sim_state() + SIM_HEADER_BYTES +
                                       (size_t)index * SIM_DEVICE_BYTES);
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

/* A driver that was loaded again does not know this process's library any more. */
static nvmlReturn_t check_driver(void)
{
    uint64_t loads = __atomic_load_n(&sim_state()->driver_loads, __ATOMIC_ACQUIRE);
    return loads == mapped_loads ? NVML_SUCCESS : NVML_ERROR_LIB_RM_VERSION_MISMATCH;
}

static void list_devices(void)
{
    listed.count = 0;
    for (unsigned int index = 0; index < sim_state()->device_count; index++) {
        const struct sim_fault *absent = &sim_device_at(index)->faults[SIM_FAULT_ABSENT];
        listed.removals[index] = __atomic_load_n(&absent->value, __ATOMIC_ACQUIRE);
        if (!sim_in_force(absent))
            listed.indexes[listed.count++] = index;
    }
}

/* The file is mapped by now, whether it was so before or not. */
static nvmlReturn_t open_driver(void)
{
    nvmlReturn_t result = check_driver();
    if (result == NVML_SUCCESS)
        result = sim_library_fault();
    if (result == NVML_SUCCESS)
        list_devices();
    return result;
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
        return open_driver();
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
    mapped_device = status.st_dev;
    mapped_inode = status.st_ino;
    /* An older mapping stays: another thread may be inside a call on it, and while it is mapped
     * no new file can get its inode number, so that the comparison above holds. */
    atomic_store_explicit(&mapped, address, memory_order_release);
    mapped_loads = __atomic_load_n(&sim_state()->driver_loads, __ATOMIC_ACQUIRE);
    return open_driver();
}

nvmlReturn_t sim_ready(void)
{
    if (!sim_initialised())
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = check_driver();
    return result == NVML_SUCCESS ? sim_library_fault() : result;
}

unsigned int sim_listed(void)
{
    return listed.count;
}

unsigned int sim_listed_index(unsigned int place)
{
    return listed.indexes[place];
}

nvmlReturn_t sim_place(unsigned int index, unsigned int *place)
{
    for (*place = 0; *place < listed.count; (*place)++)
        if (listed.indexes[*place] == index)
            return NVML_SUCCESS;
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlDevice_t sim_handle(unsigned int index)
{
    return &handles[index * STRIDE];
}

nvmlDevice_t sim_instance_handle(unsigned int index, unsigned int place)
{
    return &handles[index * STRIDE + 1 + place];
}

/* The device of a handle, and its place in the stride: 0 is the device itself. */
static nvmlReturn_t find(nvmlDevice_t handle, unsigned int *index, unsigned int *place)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    uintptr_t distance = (uintptr_t)handle - (uintptr_t)handles;
    unsigned int listed_place;
    *index = (unsigned int)(distance / STRIDE);
    *place = (unsigned int)(distance % STRIDE);
    if (handle == NULL || distance >= sizeof(handles) ||
        sim_place(*index, &listed_place) != NVML_SUCCESS)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct sim_fault *absent = &sim_device_at(*index)->faults[SIM_FAULT_ABSENT];
    if (sim_in_force(absent) ||
        __atomic_load_n(&absent->value, __ATOMIC_ACQUIRE) != listed.removals[*index])
        return NVML_ERROR_GPU_IS_LOST;
    return sim_device_fault(*index);
}

nvmlReturn_t sim_index(nvmlDevice_t handle, unsigned int *index)
{
    unsigned int place;
    nvmlReturn_t result = find(handle, index, &place);
    return result == NVML_SUCCESS && place != 0 ? NVML_ERROR_INVALID_ARGUMENT : result;
}

nvmlReturn_t sim_facts(nvmlDevice_t handle, const struct sim_facts **facts)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(handle, &index);
    if (result == NVML_SUCCESS)
        *facts = &sim_device_at(index)->facts;
    return result;
}

#define WORD(member) (offsetof(struct sim_values, member) / sizeof(uint64_t))

/*
 * Copies some words of a slot and returns their checksum: word i, counted from the first after the
 * checksum, times 2i+1, summed modulo 2^64. The sequence alone proves a copy whole where stores
 * stay in order (x86-64). The controller is Python and has no store barrier, so where stores may
 * overtake each other the checksum is what finds a slot that is old and new at once.
 */
static uint64_t copy_words(const struct sim_values *slot, struct sim_values *copy, size_t first,
                           size_t end)
{
    const uint64_t *source = (const uint64_t *)(const void *)slot;
    uint64_t *target = (uint64_t *)(void *)copy;
    uint64_t checksum = 0;
    for (size_t word = first; word < end; word++) {
        target[word] = __atomic_load_n(&source[word], __ATOMIC_RELAXED);
        checksum += target[word] * (2 * (word - WORD(lists_checksum)) + 1);
    }
    return checksum;
}

static int copy_slot(const struct sim_values *slot, struct sim_values *copy, int with_lists)
{
    copy_words(slot, copy, 0, WORD(lists_checksum));
    if (copy_words(slot, copy, WORD(lists_checksum), WORD(processes)) != copy->checksum)
        return 0;
    return !with_lists || copy_words(slot, copy, WORD(processes),
                                     sizeof(*copy) / sizeof(uint64_t)) == copy->lists_checksum;
}

static nvmlReturn_t read_values(unsigned int index, struct sim_values *values, int with_lists)
{
    const struct sim_device *device = sim_device_at(index);
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        uint64_t before = __atomic_load_n(&device->sequence, __ATOMIC_ACQUIRE);
        int whole = copy_slot(&device->slots[before & 1], values, with_lists);
        atomic_thread_fence(memory_order_acquire);
        uint64_t after = __atomic_load_n(&device->sequence, __ATOMIC_RELAXED);
        if (whole && before == after && values->sequence == before &&
            values->process_count <= SIM_MAX_PROCESSES && values->sample_count <= SIM_MAX_SAMPLES)
            return NVML_SUCCESS;
    }
    return NVML_ERROR_UNKNOWN;
}

nvmlReturn_t sim_values(nvmlDevice_t handle, struct sim_values *values)
{
    unsigned int index;
    nvmlReturn_t result = sim_index(handle, &index);
    return result == NVML_SUCCESS ? read_values(index, values, 0) : result;
}

static nvmlReturn_t read_target(nvmlDevice_t handle, struct sim_target *target, int with_lists)
{
    unsigned int place;
    nvmlReturn_t result = find(handle, &target->index, &place);
    if (result == NVML_SUCCESS)
        result = read_values(target->index, &target->values, with_lists || place != 0);
    if (result != NVML_SUCCESS)
        return result;
    target->facts = &sim_device_at(target->index)->facts;
    target->instance = place == 0 ? NULL : &target->values.instances[place - 1];
    if (target->instance != NULL && target->instance->compute_slices == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

nvmlReturn_t sim_target(nvmlDevice_t handle, struct sim_target *target)
{
    return read_target(handle, target, 0);
}

nvmlReturn_t sim_target_with_lists(nvmlDevice_t handle, struct sim_target *target)
{
    return read_target(handle, target, 1);
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

/*
 * The memory-mapped state file that the controller writes and this library reads.
 *
 * The layout is declared twice: here and in apportion/simulator/state.py. A test compiles a
 * program that prints every size and offset below and compares them with the Python side, so
 * change both together and raise SIM_STATE_VERSION.
 */
#ifndef APPORTION_SIMULATOR_STATE_H
#define APPORTION_SIMULATOR_STATE_H

#include <stdint.h>

#define SIM_STATE_MAGIC UINT64_C(0x314d4953564e5041) /* "APNVSIM1", little-endian */
#define SIM_STATE_VERSION 1u
#define SIM_HEADER_BYTES 4096u
#define SIM_DEVICE_BYTES 4096u
#define SIM_MAX_DEVICES 64u
#define SIM_MAX_PROCESSES 32u
#define SIM_MAX_NVLINKS 18u
#define SIM_FAULT_BYTES 1024u

/* What a model of GPU can do: bits of sim_facts.capabilities. */
#define SIM_CAN_AVERAGE_POWER 1u    /* field 185; GetPowerUsage is the 1 s average */
#define SIM_CAN_MEMORY_TEMPERATURE 2u /* field 82 */
#define SIM_CAN_MIG 4u              /* MIG mode exists (and is disabled) */

struct sim_header {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint32_t device_bytes;
    uint32_t device_count;
    uint64_t seed;
    int32_t cuda_driver_version; /* 13000 is CUDA 13.0 */
    uint32_t pcie_query_us;      /* how long GetPcieThroughput measures */
    uint32_t controller_pid;
    uint32_t reserved;
    char driver_version[80];
    char nvml_version[80];
    char profile[64];
    uint8_t faults[SIM_FAULT_BYTES]; /* zero: no fault */
};

/* What never changes while the controller lives. */
struct sim_facts {
    char name[96];
    char uuid[96];
    char serial[32];
    uint64_t memory_total_bytes;
    uint64_t memory_reserved_bytes;
    uint64_t bar1_total_bytes;
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
    uint32_t pci_device_id;
    uint32_t pci_subsystem_id;
    uint32_t minor_number;
    uint32_t architecture; /* NVML_DEVICE_ARCH_* */
    uint32_t brand;        /* NVML_BRAND_* */
    uint32_t compute_major;
    uint32_t compute_minor;
    uint32_t cores;
    uint32_t memory_bus_bits;
    uint32_t power_limit_mw;
    uint32_t power_min_mw;
    uint32_t power_max_mw;
    uint32_t power_default_mw;
    uint32_t max_graphics_mhz;
    uint32_t max_sm_mhz;
    uint32_t max_memory_mhz;
    uint32_t max_video_mhz;
    uint32_t shutdown_c; /* temperature thresholds; 0: the model does not tell */
    uint32_t slowdown_c;
    uint32_t memory_max_c;
    uint32_t gpu_max_c;
    uint32_t nvlink_count;
    uint32_t nvlink_version;
    uint32_t nvlink_speed_mbps; /* megabytes per second and direction, as NVML gives it */
    uint32_t pcie_generation;
    uint32_t pcie_width;
    uint32_t capabilities;
};

struct sim_process {
    uint32_t pid;
    uint32_t sm_percent;
    uint32_t memory_percent;
    uint32_t reserved;
    uint64_t used_bytes;
    uint64_t sampled_us; /* since 1970 */
};

/* What the controller publishes. All words are read together or not at all. */
struct sim_values {
    uint64_t sequence; /* the publication that this slot holds */
    uint64_t checksum; /* see state.c */
    uint64_t published_us; /* since 1970 */
    uint64_t energy_mj;
    uint64_t memory_used_bytes;
    uint64_t event_reasons;
    uint64_t pcie_tx_bytes;
    uint64_t pcie_rx_bytes;
    uint64_t nvlink_tx_kib[SIM_MAX_NVLINKS];
    uint64_t nvlink_rx_kib[SIM_MAX_NVLINKS];
    uint32_t power_average_mw;
    uint32_t power_instant_mw;
    uint32_t utilization_percent;
    uint32_t memory_utilization_percent;
    uint32_t graphics_mhz;
    uint32_t sm_mhz;
    uint32_t memory_mhz;
    uint32_t video_mhz;
    int32_t temperature_c;
    int32_t memory_temperature_c;
    uint32_t encoder_percent;
    uint32_t decoder_percent;
    uint32_t pcie_tx_kbps; /* kilobytes per second */
    uint32_t pcie_rx_kbps;
    uint32_t performance_state;
    uint32_t process_count;
    struct sim_process processes[SIM_MAX_PROCESSES];
};

/*
 * A seqlock with two slots. `sequence` is the last complete publication and its parity names the
 * slot; the controller fills the other slot first and stores `sequence` last. So a reader always
 * has a whole slot to read, even when the controller was killed in the middle of a publication.
 */
struct sim_device {
    struct sim_facts facts;
    uint64_t sequence;
    struct sim_values slots[2];
};

_Static_assert(sizeof(struct sim_header) <= SIM_HEADER_BYTES, "the header outgrew its page");
_Static_assert(sizeof(struct sim_device) <= SIM_DEVICE_BYTES, "a device outgrew its page");
_Static_assert(sizeof(struct sim_values) % sizeof(uint64_t) == 0, "slots are read by words");
_Static_assert(_Alignof(struct sim_device) == 8, "words must be aligned");

#endif

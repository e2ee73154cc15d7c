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
#define SIM_STATE_VERSION 2u
#define SIM_HEADER_BYTES 4096u
#define SIM_DEVICE_BYTES 16384u
#define SIM_MAX_DEVICES 64u
#define SIM_MAX_PROCESSES 32u
#define SIM_MAX_NVLINKS 18u
#define SIM_MAX_INSTANCES 7u
#define SIM_MAX_SAMPLES 120u
#define SIM_MAX_EVENTS 64u

/* What a model of GPU can do: bits of sim_facts.capabilities. */
#define SIM_CAN_AVERAGE_POWER 1u    /* field 185; GetPowerUsage is the 1 s average */
#define SIM_CAN_MEMORY_TEMPERATURE 2u /* field 82 */
#define SIM_CAN_MIG 4u              /* MIG mode exists */
#define SIM_CAN_GPM 8u              /* Hopper and newer */
#define SIM_CAN_REMAP_ROWS 16u      /* Ampere and newer; older parts retire pages */
#define SIM_HAS_NVLINK5 32u         /* bytes of each link instead of KiB */

/*
 * Faults, by the place of their switch in an array of sim_fault. Those of the header concern the
 * whole library; there only the first four have a meaning. The library obeys the first six, the
 * controller brings the others about.
 */
#define SIM_FAULT_ANSWER 0u    /* every call answers `value`, an nvmlReturn_t */
#define SIM_FAULT_HANG 1u      /* every call returns only when the fault is over */
#define SIM_FAULT_SLOW 2u      /* every call takes `value` microseconds longer */
#define SIM_FAULT_CRASH 3u     /* a call is the end of the process */
#define SIM_FAULT_GARBAGE 4u   /* process lists and shares of nonsense */
#define SIM_FAULT_ABSENT 5u    /* the driver no longer lists it; `value` counts its removals */
#define SIM_FAULT_ECC_STORM 6u /* `value` corrected errors a second, a hundredth of it otherwise */
#define SIM_FAULT_THERMAL 7u   /* too hot: clocks are halved */
#define SIM_FAULT_POWER_CAP 8u /* clocks are lowered to keep a power limit */
#define SIM_FAULT_WRAP 9u      /* PCIe and NVLink counters have 32 bits */
#define SIM_FAULT_RESET 10u    /* `value` counts how often the counters began anew */
#define SIM_FAULTS 12u
#define SIM_NO_END UINT64_MAX

/* The counters of time in which clocks were limited, in the order of sim_values.limited_ns. */
#define SIM_LIMITS 9u

/*
 * One fault's switch: in force before `until_ns` of CLOCK_MONOTONIC; 0 is off. Whoever holds the
 * lock on the file (flock) may store it, `until_ns` last; each word is read by itself.
 */
struct sim_fault {
    uint64_t until_ns;
    uint64_t value;
};

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
    uint64_t driver_loads; /* how often the driver was loaded since the file was made */
    struct sim_fault faults[SIM_FAULTS];
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
    uint32_t mig_slices; /* compute slices that MIG can cut it into; 0: no MIG */
    uint32_t multiprocessors;
};

/* An event as nvmlEventData_t has it. */
struct sim_event {
    uint64_t type;
    uint64_t data;
    uint32_t gpu_instance;
    uint32_t compute_instance;
};

/* The last events of a device: number n, counted from 0, is at n % SIM_MAX_EVENTS. */
struct sim_events {
    uint64_t count; /* stored last, by whoever holds the lock on the file */
    struct sim_event ring[SIM_MAX_EVENTS];
};

struct sim_process {
    uint32_t pid;
    uint32_t sm_percent;
    uint32_t memory_percent;
    uint32_t gpu_instance; /* UINT32_MAX: on no MIG instance */
    uint64_t used_bytes;
    uint64_t sampled_us; /* since 1970 */
    uint32_t compute_instance;
    uint32_t reserved;
};

/* A MIG instance; its place is the index of its handle. `compute_slices` 0: there is none. */
struct sim_instance {
    char uuid[64];
    char profile[16]; /* 1g.10gb */
    uint32_t gpu_instance;
    uint32_t compute_instance;
    uint32_t compute_slices;
    uint32_t multiprocessors;
    uint64_t memory_total_bytes;
    uint64_t memory_used_bytes;
    uint64_t busy_ppm_ns; /* as sim_values.busy_ppm_ns, of this instance alone */
};

/* One entry of the driver's sample buffers. */
struct sim_sample {
    uint64_t time_us; /* since 1970 */
    uint32_t power_mw;
    uint32_t utilization_percent;
};

/*
 * What the controller publishes. All words are read together or not at all; most readers need only
 * those before the lists.
 */
struct sim_values {
    uint64_t sequence;       /* the publication that this slot holds */
    uint64_t checksum;       /* of the words up to the lists, see state.c */
    uint64_t lists_checksum; /* of the lists */
    uint64_t published_us; /* since 1970 */
    uint64_t energy_mj;
    uint64_t memory_used_bytes;
    uint64_t event_reasons;
    uint64_t pcie_tx_bytes;
    uint64_t pcie_rx_bytes;
    uint64_t nvlink_tx_bytes[SIM_MAX_NVLINKS];
    uint64_t nvlink_rx_bytes[SIM_MAX_NVLINKS];
    uint64_t elapsed_ns;  /* since the controller started, monotonic */
    uint64_t busy_ppm_ns; /* utilisation in parts per million, integrated over elapsed_ns */
    uint64_t limited_ns[SIM_LIMITS];
    uint64_t ecc_errors[2][2]; /* corrected and uncorrected; volatile and aggregate */
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
    uint32_t remapped_rows[2]; /* by corrected and by uncorrected errors */
    uint32_t remapping_pending;
    uint32_t recovery_action; /* nvmlDeviceGpuRecoveryAction_t */
    uint32_t mig_enabled;
    uint32_t sample_count;
    /* The lists. */
    struct sim_process processes[SIM_MAX_PROCESSES];
    struct sim_instance instances[SIM_MAX_INSTANCES];
    struct sim_sample samples[SIM_MAX_SAMPLES]; /* oldest first */
};

/*
 * A seqlock with two slots. `sequence` is the last complete publication and its parity names the
 * slot; the controller fills the other slot first and stores `sequence` last. So a reader always
 * has a whole slot to read, even when the controller was killed in the middle of a publication.
 */
struct sim_device {
    struct sim_facts facts;
    struct sim_fault faults[SIM_FAULTS];
    struct sim_events events;
    uint64_t sequence;
    struct sim_values slots[2];
};

_Static_assert(sizeof(struct sim_header) <= SIM_HEADER_BYTES, "the header outgrew its page");
_Static_assert(sizeof(struct sim_device) <= SIM_DEVICE_BYTES, "a device outgrew its page");
_Static_assert(sizeof(struct sim_values) % sizeof(uint64_t) == 0, "slots are read by words");
_Static_assert(_Alignof(struct sim_device) == 8, "words must be aligned");

#endif

/* GPM: activity between two samples of a device or of a MIG instance, from Hopper on. */
#include <stddef.h>
#include <stdlib.h>

#include "library.h"

#define PERCENT_PER_PPM 1e-4
#define NS_PER_SECOND 1e9
#define MIB 1048576.0
#define METRICS_GET_VERSION 1u

/* Metric identifiers; the names are NVML's without their NVML_GPM_METRIC_ prefix. */
enum {
    METRIC_GRAPHICS_UTIL = 1,
    METRIC_SM_UTIL = 2,
    METRIC_SM_OCCUPANCY = 3,
    METRIC_INTEGER_UTIL = 4,
    METRIC_ANY_TENSOR_UTIL = 5,
    METRIC_DFMA_TENSOR_UTIL = 6,
    METRIC_HMMA_TENSOR_UTIL = 7,
    METRIC_DMMA_TENSOR_UTIL = 8,
    METRIC_IMMA_TENSOR_UTIL = 9,
    METRIC_DRAM_BW_UTIL = 10,
    METRIC_FP64_UTIL = 11,
    METRIC_FP32_UTIL = 12,
    METRIC_FP16_UTIL = 13,
    METRIC_PCIE_TX_PER_SEC = 20,
    METRIC_PCIE_RX_PER_SEC = 21,
    METRIC_NVLINK_TOTAL_RX_PER_SEC = 60,
    METRIC_NVLINK_TOTAL_TX_PER_SEC = 61
};

/* How much of the busy time each unit is busy: an assumption of the model, not data. */
static const double shares[] = {
    [METRIC_GRAPHICS_UTIL] = 1.0,     [METRIC_SM_UTIL] = 0.9,
    [METRIC_SM_OCCUPANCY] = 0.4,      [METRIC_INTEGER_UTIL] = 0.1,
    [METRIC_ANY_TENSOR_UTIL] = 0.5,   [METRIC_DFMA_TENSOR_UTIL] = 0.0,
    [METRIC_HMMA_TENSOR_UTIL] = 0.5,  [METRIC_DMMA_TENSOR_UTIL] = 0.0,
    [METRIC_IMMA_TENSOR_UTIL] = 0.0,  [METRIC_DRAM_BW_UTIL] = 0.5,
    [METRIC_FP64_UTIL] = 0.0,         [METRIC_FP32_UTIL] = 0.2,
    [METRIC_FP16_UTIL] = 0.1,
};

/* The sums at one time; a metric is the difference of two over the time between them. */
struct nvmlGpmSample_st {
    int filled;
    int is_instance;
    unsigned int index;
    unsigned int gpu_instance;
    uint64_t elapsed_ns;
    uint64_t busy_ppm_ns;
    uint64_t pcie_tx_bytes;
    uint64_t pcie_rx_bytes;
    uint64_t nvlink_tx_bytes;
    uint64_t nvlink_rx_bytes;
};

EXPORT nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *gpmSupport)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (gpmSupport == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (gpmSupport->version != NVML_GPM_SUPPORT_VERSION)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    gpmSupport->isSupportedDevice = (target.facts->capabilities & SIM_CAN_GPM) != 0;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *gpmSample)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (gpmSample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *gpmSample = calloc(1, sizeof(struct nvmlGpmSample_st));
    return *gpmSample == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t gpmSample)
{
    if (gpmSample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(gpmSample);
    return NVML_SUCCESS;
}

static uint64_t sum(const uint64_t *links)
{
    uint64_t total = 0;
    for (unsigned int link = 0; link < SIM_MAX_NVLINKS; link++)
        total += links[link];
    return total;
}

static nvmlReturn_t fill(const struct sim_target *target, nvmlGpmSample_t sample)
{
    if (sample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((target->facts->capabilities & SIM_CAN_GPM) == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    const struct sim_instance *instance = target->instance;
    *sample = (struct nvmlGpmSample_st){
        .filled = 1,
        .is_instance = instance != NULL,
        .index = target->index,
        .gpu_instance = instance != NULL ? instance->gpu_instance : SIM_NO_INSTANCE,
        .elapsed_ns = target->values.elapsed_ns,
        .busy_ppm_ns = instance != NULL ? instance->busy_ppm_ns : target->values.busy_ppm_ns,
        .pcie_tx_bytes = target->values.pcie_tx_bytes,
        .pcie_rx_bytes = target->values.pcie_rx_bytes,
        .nvlink_tx_bytes = sum(target->values.nvlink_tx_bytes),
        .nvlink_rx_bytes = sum(target->values.nvlink_rx_bytes),
    };
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t gpmSample)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target(device, &target);
    return result == NVML_SUCCESS ? fill(&target, gpmSample) : result;
}

EXPORT nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gpuInstanceId,
                                        nvmlGpmSample_t gpmSample)
{
    struct sim_target target;
    nvmlReturn_t result = sim_target_with_lists(device, &target);
    if (result != NVML_SUCCESS)
        return result;
    if (target.instance != NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int place = 0; place < SIM_MAX_INSTANCES; place++) {
        const struct sim_instance *instance = &target.values.instances[place];
        if (instance->compute_slices == 0 || instance->gpu_instance != gpuInstanceId)
            continue;
        target.instance = instance;
        return fill(&target, gpmSample);
    }
    return NVML_ERROR_NOT_FOUND;
}

static double mib_per_second(uint64_t before, uint64_t after, double elapsed_s)
{
    return after >= before ? (double)(after - before) / MIB / elapsed_s : 0.0;
}

static nvmlReturn_t measure(nvmlGpmMetric_t *metric, const struct nvmlGpmSample_st *before,
                            const struct nvmlGpmSample_st *after)
{
    double elapsed_ns = (double)(after->elapsed_ns - before->elapsed_ns);
    double elapsed_s = elapsed_ns / NS_PER_SECOND;
    unsigned int id = metric->metricId;
    if (id >= METRIC_GRAPHICS_UTIL && id <= METRIC_FP16_UTIL) {
        double busy = (double)(after->busy_ppm_ns - before->busy_ppm_ns) / elapsed_ns;
        metric->value = busy * PERCENT_PER_PPM * shares[id];
        return NVML_SUCCESS;
    }
    if (after->is_instance) /* links belong to the whole device */
        return NVML_ERROR_NOT_SUPPORTED;
    switch (id) {
    case METRIC_PCIE_TX_PER_SEC:
        metric->value = mib_per_second(before->pcie_tx_bytes, after->pcie_tx_bytes, elapsed_s);
        return NVML_SUCCESS;
    case METRIC_PCIE_RX_PER_SEC:
        metric->value = mib_per_second(before->pcie_rx_bytes, after->pcie_rx_bytes, elapsed_s);
        return NVML_SUCCESS;
    case METRIC_NVLINK_TOTAL_TX_PER_SEC:
        metric->value = mib_per_second(before->nvlink_tx_bytes, after->nvlink_tx_bytes, elapsed_s);
        return NVML_SUCCESS;
    case METRIC_NVLINK_TOTAL_RX_PER_SEC:
        metric->value = mib_per_second(before->nvlink_rx_bytes, after->nvlink_rx_bytes, elapsed_s);
        return NVML_SUCCESS;
    default:
        return id > 0 && id < NVML_GPM_METRIC_MAX ? NVML_ERROR_NOT_SUPPORTED
                                                  : NVML_ERROR_INVALID_ARGUMENT;
    }
}

/* Only the metrics that are asked for are touched: a caller that was compiled against an older
 * header has a shorter array. */
EXPORT nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *metricsGet)
{
    nvmlReturn_t result = sim_ready();
    if (result != NVML_SUCCESS)
        return result;
    if (metricsGet == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (metricsGet->version != METRICS_GET_VERSION)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct nvmlGpmSample_st *before = metricsGet->sample1, *after = metricsGet->sample2;
    if (before == NULL || after == NULL || !before->filled || !after->filled ||
        before->index != after->index || before->gpu_instance != after->gpu_instance)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int place = 0; place < metricsGet->numMetrics; place++) {
        nvmlGpmMetric_t *metric = &metricsGet->metrics[place];
        metric->metricInfo.shortName = metric->metricInfo.longName = metric->metricInfo.unit = NULL;
        metric->value = 0.0;
        /* The same counters twice: the samples were too close to each other. */
        metric->nvmlReturn = after->elapsed_ns > before->elapsed_ns &&
                                     after->busy_ppm_ns >= before->busy_ppm_ns
                                 ? measure(metric, before, after)
                                 : NVML_ERROR_NO_DATA;
    }
    return NVML_SUCCESS;
}

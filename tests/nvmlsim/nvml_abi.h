/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/*
 * The part of the NVML binary interface that the simulator speaks: return codes, identifiers and struct layouts.
 * Written from NVML's published interface; every size that a caller passes in `version` is asserted at the end.
 * A version word is sizeof(struct) | n << 24.
 */
#ifndef NVML_ABI_H
#define NVML_ABI_H

#include <stdint.h>

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlGpuInstance_st *nvmlGpuInstance_t;
typedef struct nvmlComputeInstance_st *nvmlComputeInstance_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;
typedef struct nvmlGpmSample_st *nvmlGpmSample_t;
typedef unsigned int uint;
typedef unsigned long long ull;

typedef enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_ALREADY_INITIALIZED = 5,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_INSUFFICIENT_POWER = 8,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_IRQ_ISSUE = 11,
    NVML_ERROR_LIBRARY_NOT_FOUND = 12,
    NVML_ERROR_FUNCTION_NOT_FOUND = 13,
    NVML_ERROR_CORRUPTED_INFOROM = 14,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_RESET_REQUIRED = 16,
    NVML_ERROR_OPERATING_SYSTEM = 17,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_IN_USE = 19,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_NO_DATA = 21,
    NVML_ERROR_VGPU_ECC_NOT_SUPPORTED = 22,
    NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
    NVML_ERROR_FREQ_NOT_SUPPORTED = 24,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_DEPRECATED = 26,
    NVML_ERROR_NOT_READY = 27,
    NVML_ERROR_GPU_NOT_FOUND = 28,
    NVML_ERROR_INVALID_STATE = 29,
    NVML_ERROR_RESET_TYPE_NOT_SUPPORTED = 30,
    NVML_ERROR_UNKNOWN = 999
} nvmlReturn_t;

enum { ARCH_PASCAL = 4, ARCH_VOLTA, ARCH_TURING, ARCH_AMPERE, ARCH_ADA, ARCH_HOPPER, ARCH_BLACKWELL };
enum { BRAND_TESLA = 2, BRAND_GEFORCE = 5, BRAND_NVIDIA_RTX = 13, BRAND_NVIDIA = 14 };
enum { CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEM, CLOCK_VIDEO, CLOCK_COUNT };
enum { CLOCK_ID_CURRENT, CLOCK_ID_APP_TARGET, CLOCK_ID_APP_DEFAULT, CLOCK_ID_CUSTOMER_BOOST_MAX, CLOCK_ID_COUNT };
enum { TEMP_SHUTDOWN, TEMP_SLOWDOWN, TEMP_MEM_MAX, TEMP_GPU_MAX, TEMP_ACOUSTIC_MIN, TEMP_ACOUSTIC_CURR,
       TEMP_ACOUSTIC_MAX, TEMP_GPS_CURR, TEMP_THRESHOLD_COUNT };
enum { COMPUTEMODE_DEFAULT, COMPUTEMODE_EXCLUSIVE_THREAD, COMPUTEMODE_PROHIBITED, COMPUTEMODE_EXCLUSIVE_PROCESS };
enum { ECC_CORRECTED, ECC_UNCORRECTED };
enum { ECC_VOLATILE, ECC_AGGREGATE };
enum { MEM_L1, MEM_L2, MEM_DRAM, MEM_REGISTER, MEM_TEXTURE, MEM_TEX_SHM, MEM_CBU, MEM_SRAM, MEM_COUNT };
enum { VALUE_DOUBLE, VALUE_UINT, VALUE_ULONG, VALUE_ULL, VALUE_SLL, VALUE_SINT, VALUE_USHORT };
enum { SAMPLES_POWER, SAMPLES_GPU_UTIL, SAMPLES_MEM_UTIL, SAMPLES_ENC, SAMPLES_DEC, SAMPLES_CLK, SAMPLES_MEM_CLK,
       SAMPLES_MODULE_POWER, SAMPLES_JPG, SAMPLES_OFA, SAMPLES_COUNT };
enum { POWER_SCOPE_GPU, POWER_SCOPE_MODULE, POWER_SCOPE_MEMORY };

#define CLOCK_LIMIT_TDP 0xFFFFFF01u
#define CLOCK_LIMIT_UNLIMITED 0xFFFFFF02u
#define NO_INSTANCE 0xFFFFFFFFu
#define VALUE_NOT_AVAILABLE (~0ull)

#define REASON_IDLE 0x1ull
#define REASON_APP_CLOCKS 0x2ull
#define REASON_SW_POWER_CAP 0x4ull
#define REASON_HW_SLOWDOWN 0x8ull
#define REASON_SYNC_BOOST 0x10ull
#define REASON_SW_THERMAL 0x20ull
#define REASON_HW_THERMAL 0x40ull
#define REASON_POWER_BRAKE 0x80ull
#define REASON_DISPLAY 0x100ull

#define EVENT_SINGLE_BIT_ECC 0x1ull
#define EVENT_DOUBLE_BIT_ECC 0x2ull
#define EVENT_PSTATE 0x4ull
#define EVENT_XID 0x8ull
#define EVENT_CLOCK 0x10ull
#define EVENT_POWER_SOURCE 0x80ull
#define EVENT_MIG_CONFIG 0x100ull
#define EVENT_ECC_STORM 0x200ull
#define EVENT_DRAM_RETIREMENT 0x400ull
#define EVENT_DRAM_RETIREMENT_FAILURE 0x800ull
#define EVENT_NON_FATAL_POISON 0x1000ull
#define EVENT_FATAL_POISON 0x2000ull
#define EVENT_UNAVAILABLE 0x4000ull
#define EVENT_RECOVERY_ACTION 0x8000ull

typedef union {
    double dVal;
    int siVal;
    uint uiVal;
    unsigned long ulVal;
    ull ullVal;
    long long sllVal;
    unsigned short usVal;
} nvmlValue_t;

typedef struct { char busIdLegacy[16]; uint domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32]; } nvmlPciInfo_t;
/* What the unversioned GetPciInfo and GetPciInfo_v2 fill: busId is the 16 characters long one. */
typedef struct { char busId[16]; uint domain, bus, device, pciDeviceId, pciSubSystemId; uint reserved[4]; } nvmlPciInfo_v2_t;
typedef struct { uint version, domain, bus, device, pciDeviceId, pciSubSystemId, baseClass, subClass; char busId[32]; } nvmlPciInfoExt_v1_t;
typedef struct { uint gpu, memory; } nvmlUtilization_t;
typedef struct { ull total, free, used; } nvmlMemory_t;
typedef struct { uint version; ull total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { ull total, free, used; } nvmlBAR1Memory_t;
typedef struct { uint pid; ull usedGpuMemory; } nvmlProcessInfo_v1_t;
typedef struct { uint pid; ull usedGpuMemory; uint gpuInstanceId, computeInstanceId; } nvmlProcessInfo_v2_t;
typedef struct { uint pid; ull usedGpuMemory; uint gpuInstanceId, computeInstanceId; ull usedGpuCcProtectedMemory; } nvmlProcessDetail_v1_t;
typedef struct { uint version, mode, numProcArrayEntries; nvmlProcessDetail_v1_t *procArray; } nvmlProcessDetailList_v1_t;
typedef struct { uint pid; ull timeStamp; uint smUtil, memUtil, encUtil, decUtil; } nvmlProcessUtilizationSample_t;
typedef struct { ull timeStamp; uint pid, smUtil, memUtil, encUtil, decUtil, jpgUtil, ofaUtil; } nvmlProcessUtilizationInfo_v1_t;
typedef struct { uint version, processSamplesCount; ull lastSeenTimeStamp; nvmlProcessUtilizationInfo_v1_t *procUtilArray; } nvmlProcessesUtilizationInfo_v1_t;
typedef struct { uint multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount, sharedJpegCount,
                 sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount; ull memorySizeMB; } nvmlDeviceAttributes_t;
typedef struct { uint isC2cEnabled; } nvmlC2cModeInfo_v1_t;
typedef struct { uint version, value; } nvmlDeviceAddressingMode_v1_t;
typedef struct { uint version, bChannelRepairPending, bTpcRepairPending; } nvmlRepairStatus_v1_t;
typedef struct { uint max, high, partial, low, none; } nvmlRowRemapperHistogramValues_t;
typedef struct { uint corrActiveRemaps, corrInactiveRemaps, uncActiveRemaps, uncInactiveRemaps, bPending, bFailureOccurred; } nvmlRemappedRowsInfo_v2_t;
typedef struct { ull l1Cache, l2Cache, deviceMemory, registerFile; } nvmlEccErrorCounts_t;
typedef struct { uint version; ull aggregateUncParity, aggregateUncSecDed, aggregateCor, volatileUncParity, volatileUncSecDed,
                 volatileCor, aggregateUncBucketL2, aggregateUncBucketSm, aggregateUncBucketPcie, aggregateUncBucketMcu,
                 aggregateUncBucketOther; uint bThresholdExceeded; } nvmlEccSramErrorStatus_v1_t;
typedef struct { ull timeStamp; nvmlValue_t sampleValue; } nvmlSample_t;
typedef struct { ull referenceTime, violationTime; } nvmlViolationTime_t;
typedef struct { uint fieldId, scopeId; long long timestamp, latencyUsec; uint valueType, nvmlReturn; nvmlValue_t value; } nvmlFieldValue_t;
typedef struct { uint version; uint sensorType; int temperature; } nvmlTemperature_v1_t;
typedef struct { uint version; int marginTemperature; } nvmlMarginTemperature_v1_t;
typedef struct { uint count; struct { int controller, defaultMinTemp, defaultMaxTemp, currentTemp, target; } sensor[3]; } nvmlGpuThermalSettings_t;
typedef struct { uint version, type, pstate; int clockOffsetMHz, minClockOffsetMHz, maxClockOffsetMHz; } nvmlClockOffset_v1_t;
typedef struct { uint version, fan, speed; } nvmlFanSpeedInfo_v1_t;
typedef struct { uint version, index, signalType, target; } nvmlCoolerInfo_v1_t;
typedef struct { uint version; char str[2048]; } nvmlDeviceCurrentClockFreqs_v1_t;
typedef struct { uint version, capMask; } nvmlDeviceCapabilities_v1_t;
typedef struct { uint version; unsigned char powerScope; uint powerValueMw; } nvmlPowerValue_v2_t;
typedef struct { uint version, type; union { char str[41]; unsigned char bytes[16]; } value; } nvmlUUID_v1_t;
typedef struct { uint version; ull value; } nvmlPdi_v1_t;
typedef struct { uint uptime; } nvmlGpuUptime_v1_t;
typedef struct { uint version; char branch[80]; } nvmlSystemDriverBranchInfo_v1_t;
typedef struct { uint flags; struct { uint bIsPresent, percentage, incThreshold, decThreshold; } utilization[8]; } nvmlGpuDynamicPstatesInfo_t;
typedef struct { uint gpuUtilization, memoryUtilization; ull maxMemoryUsage, time, startTime; uint isRunning, reserved[5]; } nvmlAccountingStats_t;
typedef struct { uint sessionsCount, averageFPS, averageLatency; } nvmlFBCStats_t;
typedef struct { unsigned char clusterUuid[16]; uint status, cliqueId; unsigned char state; } nvmlGpuFabricInfo_t;
typedef struct { uint version; unsigned char clusterUuid[16]; uint status, cliqueId; unsigned char state; uint healthMask; } nvmlGpuFabricInfo_v2_t;
typedef struct { uint version; unsigned char clusterUuid[16]; uint status, cliqueId; unsigned char state; uint healthMask; unsigned char healthSummary; } nvmlGpuFabricInfo_v3_t;
typedef struct { uint version; unsigned char ibGuid[16], chassisSerialNumber[16]; unsigned char slotNumber, trayIndex, hostId, peerType, moduleId; } nvmlPlatformInfo_v2_t;
typedef struct { unsigned char bridgeCount; struct { uint type, fwVersion; } bridgeChipInfo[128]; } nvmlBridgeChipHierarchy_t;

typedef struct { nvmlDevice_t device; ull eventType, eventData; uint gpuInstanceId, computeInstanceId; } nvmlEventData_t;
typedef struct { nvmlDevice_t device; ull eventType, eventData; } nvmlEventData_v1_t;

typedef struct { uint start, size; } nvmlPlacement_t;
typedef struct { uint id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
                 encoderCount, jpegCount, ofaCount; ull memorySizeMB; } nvmlGpuInstanceProfileInfo_t;
typedef struct { uint version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
                 encoderCount, jpegCount, ofaCount; ull memorySizeMB; char name[96]; } nvmlGpuInstanceProfileInfo_v2_t;
typedef struct { uint version, id, sliceCount, instanceCount, multiprocessorCount, copyEngineCount, decoderCount,
                 encoderCount, jpegCount, ofaCount; ull memorySizeMB; char name[96]; uint capabilities; } nvmlGpuInstanceProfileInfo_v3_t;
typedef struct { nvmlDevice_t device; uint id, profileId; nvmlPlacement_t placement; } nvmlGpuInstanceInfo_t;
typedef struct { uint id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
                 sharedEncoderCount, sharedJpegCount, sharedOfaCount; } nvmlComputeInstanceProfileInfo_t;
typedef struct { uint version, id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
                 sharedEncoderCount, sharedJpegCount, sharedOfaCount; char name[96]; } nvmlComputeInstanceProfileInfo_v2_t;
typedef struct { uint version, id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount,
                 sharedEncoderCount, sharedJpegCount, sharedOfaCount; char name[96]; uint capabilities; } nvmlComputeInstanceProfileInfo_v3_t;
typedef struct { nvmlDevice_t device; nvmlGpuInstance_t gpuInstance; uint id, profileId; nvmlPlacement_t placement; } nvmlComputeInstanceInfo_t;
typedef struct { nvmlDevice_t device; nvmlGpuInstance_t gpuInstance; uint id, profileId; } nvmlComputeInstanceInfo_v1_t;

typedef struct { uint metricId, nvmlReturn; double value; struct { const char *shortName, *longName, *unit; } metricInfo; } nvmlGpmMetric_t;
/* The array's length differs between releases of NVML; only numMetrics entries may be touched. */
typedef struct { uint version, numMetrics; nvmlGpmSample_t sample1, sample2; nvmlGpmMetric_t metrics[]; } nvmlGpmMetricsGet_t;
typedef struct { uint version, isSupportedDevice; } nvmlGpmSupport_t;

typedef struct { uint mask[8]; } nvmlMask255_t;
typedef struct { uint version, profileId, priority; nvmlMask255_t conflictingMask; } nvmlWorkloadPowerProfileInfo_v1_t;
typedef struct { uint version; nvmlMask255_t perfProfilesMask; nvmlWorkloadPowerProfileInfo_v1_t perfProfile[255]; } nvmlWorkloadPowerProfileProfilesInfo_v1_t;
typedef struct { uint version; nvmlMask255_t perfProfilesMask, requestedProfilesMask, enforcedProfilesMask; } nvmlWorkloadPowerProfileCurrentProfiles_v1_t;
typedef struct { uint version; nvmlMask255_t requestedProfilesMask; } nvmlWorkloadPowerProfileRequestedProfiles_v1_t;
typedef struct { uint operation; nvmlMask255_t updateProfilesMask; } nvmlWorkloadPowerProfileUpdateProfiles_v1_t;

#define STRUCT_VERSION(type, n) ((uint)sizeof(type) | (n) << 24)
#define ASSERT_VERSION(type, n, word) _Static_assert(STRUCT_VERSION(type, n) == (word), #type " has another layout than NVML's")
#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " has another size than NVML's")
ASSERT_VERSION(nvmlMemory_v2_t, 2u, 0x02000028u);
ASSERT_VERSION(nvmlPowerValue_v2_t, 2u, 0x0200000Cu);
ASSERT_VERSION(nvmlTemperature_v1_t, 1u, 0x0100000Cu);
ASSERT_VERSION(nvmlMarginTemperature_v1_t, 1u, 0x01000008u);
ASSERT_VERSION(nvmlClockOffset_v1_t, 1u, 0x01000018u);
ASSERT_VERSION(nvmlFanSpeedInfo_v1_t, 1u, 0x0100000Cu);
ASSERT_VERSION(nvmlGpuFabricInfo_v3_t, 3u, 0x03000028u);
ASSERT_VERSION(nvmlPciInfoExt_v1_t, 1u, 0x01000040u);
ASSERT_VERSION(nvmlProcessDetailList_v1_t, 1u, 0x01000018u);
ASSERT_VERSION(nvmlEccSramErrorStatus_v1_t, 1u, 0x01000068u);
ASSERT_VERSION(nvmlWorkloadPowerProfileCurrentProfiles_v1_t, 1u, 0x01000064u);
ASSERT_VERSION(nvmlWorkloadPowerProfileProfilesInfo_v1_t, 1u, 0x01002BF8u);
ASSERT_VERSION(nvmlWorkloadPowerProfileRequestedProfiles_v1_t, 1u, 0x01000024u);
ASSERT_VERSION(nvmlUUID_v1_t, 1u, 0x01000034u);
ASSERT_VERSION(nvmlDeviceCurrentClockFreqs_v1_t, 1u, 0x01000804u);
ASSERT_VERSION(nvmlDeviceCapabilities_v1_t, 1u, 0x01000008u);
ASSERT_SIZE(nvmlUtilization_t, 8);
ASSERT_SIZE(nvmlMemory_t, 24);
ASSERT_SIZE(nvmlBAR1Memory_t, 24);
ASSERT_SIZE(nvmlPciInfo_t, 68);
ASSERT_SIZE(nvmlProcessInfo_v1_t, 16);
ASSERT_SIZE(nvmlProcessInfo_v2_t, 24);
ASSERT_SIZE(nvmlFieldValue_t, 40);
ASSERT_SIZE(nvmlSample_t, 16);
ASSERT_SIZE(nvmlEventData_t, 32);
ASSERT_SIZE(nvmlViolationTime_t, 16);
ASSERT_SIZE(nvmlAccountingStats_t, 56);
ASSERT_SIZE(nvmlEccErrorCounts_t, 32);
ASSERT_SIZE(nvmlRowRemapperHistogramValues_t, 20);
ASSERT_SIZE(nvmlGpuThermalSettings_t, 64);
ASSERT_SIZE(nvmlGpmMetric_t, 40);
_Static_assert(sizeof(nvmlGpmMetricsGet_t) + 210 * sizeof(nvmlGpmMetric_t) == 8424, "GpmMetricsGet of NVML 13.0");
_Static_assert(__builtin_offsetof(nvmlPciInfo_t, busId) == 36, "PciInfo.busId");
_Static_assert(__builtin_offsetof(nvmlFieldValue_t, value) == 32, "FieldValue.value");
_Static_assert(__builtin_offsetof(nvmlPowerValue_v2_t, powerValueMw) == 8, "PowerValue.powerValueMw");

#endif

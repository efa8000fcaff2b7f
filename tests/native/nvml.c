/*
 * NVML's own C boundary, answered from a file: what a driver says of a machine that is not here.
 *
 * The file is named by NVML_MACHINE; its lines are `key = value`. A key that is missing is answered
 * with NVML_ERROR_NOT_SUPPORTED, a value `!15` with error 15; `!hang` never, `!crash` ends us. Keys of a device are `gpu.0.name`; what
 * all devices share is `gpu.*.name`, and so for links. A MIG instance is `gpu.0.mig.1`.
 * Compiled with -DOLD_DRIVER it lacks the functions that a driver of 2019 lacks.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       NOT_LOADED = 9 };

typedef struct { char key[64]; char value[160]; } Line;
typedef struct { unsigned gpu; int mig; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
} Pci;

static Line lines[4096];
static int count = -1;
static Device devices[64][9]; /* the second index: the device itself, then its MIG instances */

static const char *look(const char *key) {
  for (int i = 0; i < count; i++)
    if (strcmp(lines[i].key, key) == 0) return lines[i].value;
  return NULL;
}

static int load(void) {
  const char *path = getenv("NVML_MACHINE");
  FILE *file = path ? fopen(path, "r") : NULL;
  char text[256];
  if (!file) return NOT_LOADED;
  count = 0;
  while (count < 4096 && fgets(text, sizeof text, file))
    if (sscanf(text, " %63[^ =#] = %159[^\n]", lines[count].key, lines[count].value) == 2) count++;
  fclose(file);
  return OK;
}

/* Find a device's answer: its own, then what all devices share. */
static const char *find(const Device *device, const char *name) {
  char key[96];
  const char *value;
  if (device->mig >= 0) {
    snprintf(key, sizeof key, "gpu.%u.mig.%d.%s", device->gpu, device->mig, name);
    if ((value = look(key))) return value;
    snprintf(key, sizeof key, "gpu.*.mig.%d.%s", device->mig, name);
    return look(key);
  }
  snprintf(key, sizeof key, "gpu.%u.%s", device->gpu, name);
  if ((value = look(key))) return value;
  snprintf(key, sizeof key, "gpu.*.%s", name);
  return look(key);
}

static int judge(const char *value) {
  if (count < 0) return UNINITIALIZED;
  if (!value) return NOT_SUPPORTED;
  if (strcmp(value, "!hang") == 0) pause();
  if (strcmp(value, "!crash") == 0) abort();
  return value[0] == '!' ? atoi(value + 1) : OK;
}

static int give_text(const char *value, char *into, unsigned size) {
  int code = judge(value);
  if (code) return code;
  if (strlen(value) >= size) return TOO_SMALL;
  strcpy(into, value);
  return OK;
}

static int give(const char *value, unsigned *into) {
  int code = judge(value);
  if (!code) *into = (unsigned)strtoul(value, NULL, 0);
  return code;
}

static int give_long(const char *value, unsigned long long *into) {
  int code = judge(value);
  if (!code) *into = strtoull(value, NULL, 0);
  return code;
}

static int give_two(const char *value, unsigned *one, unsigned *other) {
  int code = judge(value);
  if (!code && sscanf(value, "%u %u", one, other) != 2) return BAD_ARGUMENT;
  return code;
}

static int give_pci(const char *value, Pci *pci) {
  int code = judge(value);
  if (code) return code;
  memset(pci, 0, sizeof *pci);
  snprintf(pci->bus_id, sizeof pci->bus_id, "%s", value);
  snprintf(pci->legacy, sizeof pci->legacy, "%s", value + 4);
  sscanf(value, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
  return OK;
}

static const char *find_link(const Device *device, unsigned link, const char *name) {
  char key[48];
  const char *value;
  snprintf(key, sizeof key, "link.%u.%s", link, name);
  if ((value = find(device, key))) return value;
  snprintf(key, sizeof key, "link.*.%s", name);
  return find(device, key);
}

/* ---- the library and the system ---- */

int nvmlInitWithFlags(unsigned flags) {
  int code = flags ? BAD_ARGUMENT : load();
  const char *said;
  if (code) return code;
  said = look("init");
  return said ? judge(said) : OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { count = -1; return OK; }
const char *nvmlErrorString(int code) {
  switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_LOADED: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
  }
}
int nvmlSystemGetDriverVersion(char *into, unsigned size) {
  return give_text(look("driver"), into, size);
}
int nvmlSystemGetCudaDriverVersion(int *into) { return give(look("cuda"), (unsigned *)into); }
int nvmlDeviceGetCount_v2(unsigned *into) { return give(look("count"), into); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **into) {
  const char *lost;
  if (index >= 64) return BAD_ARGUMENT;
  devices[index][0].gpu = index;
  devices[index][0].mig = -1;
  *into = &devices[index][0];
  lost = find(*into, "handle");
  return lost ? judge(lost) : OK;
}

/* ---- one device ---- */

int nvmlDeviceGetName(Device *d, char *into, unsigned size) {
  return give_text(find(d, "name"), into, size);
}
int nvmlDeviceGetUUID(Device *d, char *into, unsigned size) {
  return give_text(find(d, "uuid"), into, size);
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **into) {
  const char *value;
  for (unsigned index = 0; count >= 0 && index < 64; index++) {
    devices[index][0].gpu = index;
    devices[index][0].mig = -1;
    value = find(&devices[index][0], "uuid");
    *into = &devices[index][0];
    if (value && strcmp(value, uuid) == 0) return OK;
  }
  return count < 0 ? UNINITIALIZED : NOT_FOUND;
}
int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *into) {
  /* A counter moves: the file is read again, so that a test can move it. */
  int code = count < 0 ? UNINITIALIZED : load();
  return code ? code : give_long(find(d, "energy"), into);
}
int nvmlDeviceGetMemoryInfo(Device *d, Memory *into) {
  memset(into, 0, sizeof *into);
  return give_long(find(d, "memory"), &into->total);
}
int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) {
  return give_two(find(d, "capability"), (unsigned *)major, (unsigned *)minor);
}
int nvmlDeviceGetPciInfo_v3(Device *d, Pci *into) { return give_pci(find(d, "bus"), into); }
int nvmlDeviceGetPowerManagementLimit(Device *d, unsigned *into) {
  return give(find(d, "power_limit"), into);
}
int nvmlDeviceGetPowerUsage(Device *d, unsigned *into) { return give(find(d, "power"), into); }
int nvmlDeviceGetTemperature(Device *d, int sensor, unsigned *into) {
  return sensor ? BAD_ARGUMENT : give(find(d, "temperature"), into);
}
int nvmlDeviceGetMaxClockInfo(Device *d, int kind, unsigned *into) {
  return give(find(d, kind == 1 ? "clock_max" : "memory_clock_max"), into);
}
int nvmlDeviceGetClockInfo(Device *d, int kind, unsigned *into) {
  return give(find(d, kind == 1 ? "clock" : "memory_clock"), into);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, unsigned long long *into) {
  return give_long(find(d, "slowed"), into);
}
int nvmlDeviceGetEccMode(Device *d, unsigned *current, unsigned *pending) {
  int code = give(find(d, "ecc"), current);
  *pending = *current;
  return code;
}
int nvmlDeviceGetTotalEccErrors(Device *d, int kind, int counter, unsigned long long *into) {
  return give_long(find(d, kind == 1 && counter == 0 ? "uncorrected" : "other_errors"), into);
}
int nvmlDeviceGetMaxPcieLinkGeneration(Device *d, unsigned *into) {
  return give(find(d, "pcie_generation"), into);
}
int nvmlDeviceGetMaxPcieLinkWidth(Device *d, unsigned *into) {
  return give(find(d, "pcie_width"), into);
}
int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, int *into) {
  unsigned a = one->gpu, b = other->gpu, low = a < b ? a : b, high = a < b ? b : a;
  char key[48];
  const char *value;
  snprintf(key, sizeof key, "pair.%u.%u", low, high);
  value = look(key);
  return give(value ? value : look("pair.*"), (unsigned *)into);
}

/* ---- links ---- */

int nvmlDeviceGetNvLinkState(Device *d, unsigned link, unsigned *into) {
  const char *links = find(d, "links");
  if (!links) return NOT_SUPPORTED;
  if (link >= strtoul(links, NULL, 0)) return BAD_ARGUMENT;
  links = find_link(d, link, "state");
  return give(links ? links : "1", into);
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *d, unsigned link, Pci *into) {
  return give_pci(find_link(d, link, "remote"), into);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetNvLinkRemoteDeviceType(Device *d, unsigned link, int *into) {
  return give(find_link(d, link, "kind"), (unsigned *)into);
}
int nvmlDeviceGetArchitecture(Device *d, unsigned *into) { return give(find(d, "arch"), into); }
int nvmlDeviceGetNumaNodeId(Device *d, unsigned *into) { return give(find(d, "numa"), into); }
int nvmlDeviceGetRemappedRows(Device *d, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed) {
  *corrected = *uncorrected = *pending = 0;
  return give(find(d, "rows_failed"), failed);
}

/* ---- multi-instance ---- */

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) {
  int code = give(find(d, "mig_mode"), current);
  *pending = *current;
  return code;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *into) {
  return give(find(d, "mig_max"), into);
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **into) {
  Device *part;
  if (index >= 8) return BAD_ARGUMENT;
  part = &devices[d->gpu][index + 1];
  part->gpu = d->gpu;
  part->mig = (int)index;
  if (!find(part, "uuid")) return NOT_FOUND; /* an empty slot */
  *into = part;
  return OK;
}
#endif

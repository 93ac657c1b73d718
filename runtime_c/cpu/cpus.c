/* cpus.c: how many threads this machine deserves: the physical cores that affinity and the cgroup's quota
 * allow. It starts none (threads.c does). Called when a model opens, and by doctor through
 * ak42_build_info. */
#include "cpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "threads.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static void explain(char *why, size_t why_size, uint32_t n, uint32_t n_cores, uint32_t n_cpus,
                    uint64_t quota) {
    if (!why || !why_size) return;
    if (quota == UINT64_MAX)
        snprintf(why, why_size, "%u of %u cores, %u CPUs allowed, no quota", n, n_cores, n_cpus);
    else
        snprintf(why, why_size, "%u of %u cores, %u CPUs allowed, cgroup quota of %llu.%03u CPUs", n,
                 n_cores, n_cpus,
                 (unsigned long long)(quota / 1000), (unsigned)(quota % 1000));
}

#if defined(__linux__)

/* More CPUs than any kernel is built for. */
enum { MASK_CPUS = 64 * CPUS_MASK_WORDS, CORE_KEYS_MAX = 1024 };

static bool mask_has(const uint64_t *cpus, uint32_t cpu) {
    return cpu < MASK_CPUS && cpus[cpu / 64] >> cpu % 64 & 1;
}

/* A small text file under root; false where there is none. */
static bool read_text(char *text, size_t size, const char *root, const char *path) {
    char full[4096];
    int length = snprintf(full, sizeof full, "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof full) return false;
    FILE *file = fopen(full, "re");
    if (!file) return false;
    size_t n = fread(text, 1, size - 1, file);
    fclose(file);
    text[n] = 0;
    return n > 0;
}

static bool read_topology(char *text, size_t size, const char *root, uint32_t cpu, const char *name) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/%s", cpu, name);
    return read_text(text, size, root, path);
}

/* The first CPU of a list like "0-3,8" that the mask has; MASK_CPUS where there is none. */
static uint32_t first_allowed(const char *list, const uint64_t *cpus) {
    while (*list >= '0' && *list <= '9') {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (*end == '-') last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < MASK_CPUS; cpu++)
            if (mask_has(cpus, (uint32_t)cpu)) return (uint32_t)cpu;
        list = *end == ',' ? end + 1 : end;
    }
    return MASK_CPUS;
}

/* Cores with at least one allowed CPU: a CPU counts where it is the first allowed one of its core. */
static uint32_t count_cores(const char *root, const uint64_t *cpus) {
    uint64_t keys[CORE_KEYS_MAX];              /* (package, core) of those that have no list of siblings */
    uint32_t n_keys = 0, n_cores = 0;
    char text[1024], package[32];
    for (uint32_t cpu = 0; cpu < MASK_CPUS; cpu++) {
        if (!mask_has(cpus, cpu)) continue;
        uint32_t first = cpu;
        if (read_topology(text, sizeof text, root, cpu, "thread_siblings_list")) {
            first = first_allowed(text, cpus);
        } else if (read_topology(text, sizeof text, root, cpu, "core_id") &&
                   read_topology(package, sizeof package, root, cpu, "physical_package_id") &&
                   n_keys < CORE_KEYS_MAX) {
            uint64_t key = strtoull(package, NULL, 10) << 32 | (strtoull(text, NULL, 10) & UINT32_MAX);
            uint32_t i = 0;
            while (i < n_keys && keys[i] != key) i++;
            if (i < n_keys)
                first = MASK_CPUS;
            else
                keys[n_keys++] = key;
        }
        n_cores += first == cpu;
    }
    return n_cores;
}

/* Thousandths of a CPU that "quota period" (microseconds) allows; UINT64_MAX for "max" and -1, which are
 * no limit. */
static uint64_t parse_quota(const char *quota, const char *period) {
    char *end;
    long long q = strtoll(quota, &end, 10);
    if (end == quota || q <= 0) return UINT64_MAX;
    long long p = strtoll(period ? period : end, NULL, 10);
    return p <= 0 || q > INT64_MAX / 1000 ? UINT64_MAX : (uint64_t)q * 1000 / (uint64_t)p;
}

/* The smallest quota from the group's folder up to the mount; folders that cannot be seen from here have
 * no say. */
static uint64_t group_quota(const char *root, const char *mount, const char *group, bool v2) {
    uint64_t least = UINT64_MAX;
    char folder[1024], path[1200], quota[64], period[64];
    if (strstr(group, "..")) group = "";       /* outside of our namespace */
    int length = snprintf(folder, sizeof folder, "%s", group);
    if (length < 0 || (size_t)length >= sizeof folder) folder[0] = 0;
    for (;;) {
        uint64_t here = UINT64_MAX;
        if (v2) {
            snprintf(path, sizeof path, "%s%s/cpu.max", mount, folder);
            if (read_text(quota, sizeof quota, root, path)) here = parse_quota(quota, NULL);
        } else {
            snprintf(path, sizeof path, "%s%s/cpu.cfs_quota_us", mount, folder);
            bool found = read_text(quota, sizeof quota, root, path);
            snprintf(path, sizeof path, "%s%s/cpu.cfs_period_us", mount, folder);
            if (found && read_text(period, sizeof period, root, path)) here = parse_quota(quota, period);
        }
        if (here < least) least = here;
        char *slash = strrchr(folder, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

/* Lines of /proc/self/cgroup are "id:controllers:/group"; v2's has no controllers. */
static uint64_t quota_of(const char *root) {
    static const char *const MOUNTS_V1[] = { "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu" };
    char text[4096], *rest = text;
    uint64_t least = UINT64_MAX, quota;
    if (!read_text(text, sizeof text, root, "/proc/self/cgroup")) strcpy(text, "0::/\n1:cpu:/\n");
    while (*rest) {
        char *line = rest;
        rest += strcspn(rest, "\n");
        if (*rest) *rest++ = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *controllers++ = 0;
        *group++ = 0;
        if (!*controllers) {
            quota = group_quota(root, "/sys/fs/cgroup", group, true);
            if (quota < least) least = quota;
        }
        if (strcmp(controllers, "cpu") == 0 || strcmp(controllers, "cpu,cpuacct") == 0 ||
            strcmp(controllers, "cpuacct,cpu") == 0)
            for (size_t i = 0; i < ARRAY_LEN(MOUNTS_V1); i++) {
                quota = group_quota(root, MOUNTS_V1[i], group, false);
                if (quota < least) least = quota;
            }
    }
    return least;
}

/* A quota of 1.5 CPUs gives 2 threads. */
static uint32_t limit(uint32_t n, uint64_t quota) {
    uint64_t whole = quota / 1000 + (quota % 1000 != 0);
    if (whole < n) n = (uint32_t)whole;
    return n ? n : 1;
}

uint32_t cpus_threads(const char *root, const uint64_t *cpus, char *why, size_t why_size) {
    uint32_t n_cpus = 0;
    for (uint32_t cpu = 0; cpu < MASK_CPUS; cpu++) n_cpus += mask_has(cpus, cpu);
    uint32_t n_cores = count_cores(root, cpus);
    uint64_t quota = quota_of(root);
    uint32_t n = limit(n_cores ? n_cores : n_cpus, quota);
    explain(why, why_size, n, n_cores, n_cpus, quota);
    return n;
}

/* The CPUs that this thread may run on. */
static void affinity(uint64_t *cpus) {
    unsigned long mask[MASK_CPUS / (8 * sizeof(unsigned long))];
    enum { BITS = 8 * sizeof mask[0] };
    memset(cpus, 0, MASK_CPUS / 8);
    memset(mask, 0, sizeof mask);
    if (sched_getaffinity(0, sizeof mask, (cpu_set_t *)(void *)mask)) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        for (long i = 0; i < n && i < MASK_CPUS; i++) mask[i / BITS] |= 1ul << i % BITS;
    }
    for (uint32_t i = 0; i < MASK_CPUS; i++)
        cpus[i / 64] |= (uint64_t)(mask[i / BITS] >> i % BITS & 1) << i % 64;
}

uint32_t threads_default(char *why, size_t why_size) {
    uint64_t cpus[CPUS_MASK_WORDS];
    affinity(cpus);
    return cpus_threads("", cpus, why, why_size);
}

/* Logical CPUs, within the quota: more threads than this must not spin. */
uint32_t cpus_allowed(void) {
    uint64_t cpus[CPUS_MASK_WORDS];
    uint32_t n = 0;
    affinity(cpus);
    for (uint32_t cpu = 0; cpu < MASK_CPUS; cpu++) n += mask_has(cpus, cpu);
    return limit(n, quota_of(""));
}

#else

uint32_t cpus_allowed(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

#if defined(__APPLE__)
static uint32_t physical_cores(void) {
    static const char *const NAMES[] = { "hw.perflevel0.physicalcpu", "hw.physicalcpu" };
    for (size_t i = 0; i < ARRAY_LEN(NAMES); i++) {
        int n = 0;
        size_t size = sizeof n;
        if (sysctlbyname(NAMES[i], &n, &size, NULL, 0) == 0 && n > 0) return (uint32_t)n;
    }
    return cpus_allowed();
}
#else
static uint32_t physical_cores(void) { return cpus_allowed(); }
#endif

uint32_t threads_default(char *why, size_t why_size) {
    uint32_t n = physical_cores();
    explain(why, why_size, n, n, cpus_allowed(), UINT64_MAX);
    return n;
}

#endif

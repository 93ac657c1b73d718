/* check_threads.c: the pool's promises (every index once, memory seen across barriers, one run at a time,
 * fork, floating-point modes) on random runs, oversubscribed too, that hands deal every panel once, what a thread's pace chooses, and the
 * count of threads on faked machines. Meant to be run plain and under -fsanitize=thread. `check_threads [SECTIONS]`; `check_threads
 * --bench` prints latencies. */
#include <fenv.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../runtime_c/cpu/cpus.h"
#include "../../runtime_c/cpu/pace.h"
#include "../../runtime_c/cpu/shares.h"
#include "../../runtime_c/cpu/threads.h"

#if defined(__SANITIZE_THREAD__)
enum { UNDER_TSAN = 1 };
#else
enum { UNDER_TSAN = 0 };
#endif

static int n_passed, n_failed;

static void check(bool ok, const char *what) {
    if (ok) {
        n_passed++;
    } else {
        n_failed++;
        printf("FAILED %s\n", what);
    }
}

static uint64_t rng_state = 88172645463325252u;
static uint32_t rng(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 32);
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void nap_us(long us) {
    struct timespec t = { 0, us * 1000 };
    nanosleep(&t, NULL);
}

/* ---- random runs ---- */

enum { SECTIONS_MAX = 48, ITEMS_MAX = 40, THREADS_TESTED = 9 };

/* What all threads of a run do. Plain memory, so that TSan sees what the barriers order. */
typedef struct script {
    uint32_t n_sections;
    uint32_t counts[SECTIONS_MAX];             /* items to draw in the section; 0: nobody draws */
    bool exchange[SECTIONS_MAX];               /* afterwards each thread reads what the others wrote */
    uint8_t drawn[SECTIONS_MAX][ITEMS_MAX];    /* times each item was handed out */
    uint32_t cells[THREADS_TESTED];            /* one a thread */
    uint32_t n_wrong[THREADS_TESTED];
    uint32_t n_runs[THREADS_TESTED];
} script;

static void follow(void *argument, team *t) {
    script *s = argument;
    s->n_runs[t->thread]++;
    for (uint32_t i = 0; i < s->n_sections; i++) {
        uint32_t item;
        if (s->counts[i])
            while ((item = team_next(t, s->counts[i])) < s->counts[i]) s->drawn[i][item]++;
        if (s->exchange[i]) s->cells[t->thread] = i * 31 + t->thread;
        team_barrier(t);
        if (!s->exchange[i]) continue;
        for (uint32_t other = 0; other < t->n_threads; other++)
            if (s->cells[other] != i * 31 + other) s->n_wrong[t->thread]++;
        team_barrier(t);
    }
}

static void test_random(uint32_t n_threads, uint32_t n_sections) {
    char what[64];
    snprintf(what, sizeof what, "random sections on %u threads", n_threads);
    pool *p = NULL;
    if (pool_new(&p, n_threads, NULL)) {
        check(false, what);
        return;
    }
    bool ok = pool_threads(p) == n_threads;
    script *s = malloc(sizeof *s);
    for (uint32_t done = 0; s && done < n_sections; done += s->n_sections + 1) {
        memset(s, 0, sizeof *s);
        s->n_sections = rng() % (SECTIONS_MAX + 1);
        for (uint32_t i = 0; i < s->n_sections; i++) {
            s->counts[i] = rng() % 4 ? rng() % (ITEMS_MAX + 1) : 0;
            s->exchange[i] = rng() % 2;
        }
        pool_run(p, follow, s);
        for (uint32_t i = 0; i < s->n_sections; i++)
            for (uint32_t k = 0; k < s->counts[i]; k++) ok &= s->drawn[i][k] == 1;
        for (uint32_t i = 0; i < n_threads; i++) ok &= s->n_runs[i] == 1 && s->n_wrong[i] == 0;
        if (rng() % 64 == 0) nap_us(200);      /* the workers fall asleep now and then */
    }
    free(s);
    pool_free(p);
    check(ok, what);
}

/* ---- panels from hands ---- */

enum { PANELS_MAX = 200, PRODUCTS = 24 };

typedef struct deal {
    hand hands[THREADS_TESTED];
    uint32_t n_panels[PRODUCTS], least[PRODUCTS];
    uint8_t drawn[PRODUCTS][PANELS_MAX];       /* times each panel was drawn; plain, as in script */
    uint32_t n_odd[THREADS_TESTED];            /* pieces that are no multiple of least, or lie beyond the end */
    uint32_t n_astray[THREADS_TESTED];         /* pieces of the own slice that did not begin where the one before said */
    uint32_t dawdler;                          /* a thread that comes late to every product */
} deal;

static void draw_all(void *argument, team *t) {
    deal *d = argument;
    if (!t->thread) shares_reset(d->hands, t->n_threads);
    team_barrier(t);
    for (uint32_t i = 0; i < PRODUCTS; i++) {
        share s = share_open(d->hands, t, i, d->n_panels[i], d->least[i]);
        if (t->thread == d->dawdler && i % 8 == 0) nap_us(100);
        for (uint32_t n_drawn = 0, next = s.next; share_draw(&s); next = s.next) {
            if (s.begin >= s.end || s.end > d->n_panels[i] || s.begin % d->least[i]) d->n_odd[t->thread]++;
            if (s.end % d->least[i] && s.end != d->n_panels[i]) d->n_odd[t->thread]++;
            if (t->n_threads == 1 && s.begin != (n_drawn ? next : 0)) d->n_astray[t->thread]++;
            for (uint32_t panel = s.begin; panel < s.end; panel++) d->drawn[i][panel]++;
            n_drawn += s.end - s.begin;
        }
        team_barrier(t);
    }
}

static void test_shares(uint32_t n_threads, uint32_t n_runs) {
    char what[64];
    snprintf(what, sizeof what, "every panel once on %u threads", n_threads);
    pool *p = NULL;
    deal *d = malloc(sizeof *d);
    if (!d || pool_new(&p, n_threads, NULL)) {
        free(d);
        check(false, what);
        return;
    }
    bool ok = true;
    for (uint32_t run = 0; run < n_runs; run++) {
        memset(d, 0, sizeof *d);
        d->dawdler = rng() % 2 ? rng() % n_threads : n_threads;
        for (uint32_t i = 0; i < PRODUCTS; i++) {
            d->n_panels[i] = rng() % (rng() % 2 ? PANELS_MAX + 1 : 2 * THREADS_TESTED);
            d->least[i] = 2 + rng() % 4 * 2;
        }
        pool_run(p, draw_all, d);
        for (uint32_t i = 0; i < PRODUCTS; i++)
            for (uint32_t k = 0; k < d->n_panels[i]; k++) ok &= d->drawn[i][k] == 1;
        for (uint32_t i = 0; i < n_threads; i++) ok &= !d->n_odd[i] && !d->n_astray[i];
    }
    free(d);
    pool_free(p);
    check(ok, what);
}

/* ---- callers, processes, modes ---- */

typedef struct shared_count {
    pool *pool;
    int n;                         /* plain: only the one run at a time may touch it */
} shared_count;

static void count_one(void *argument, team *t) {
    shared_count *c = argument;
    if (t->thread == 0) c->n++;
    team_barrier(t);
    if (t->thread == t->n_threads - 1) c->n++;
}
static void *caller_main(void *argument) {
    shared_count *c = argument;
    for (int i = 0; i < 200; i++) pool_run(c->pool, count_one, c);
    return NULL;
}
static void test_callers(void) {
    for (uint32_t n = 1; n <= 3; n++) {
        shared_count c = { 0 };
        pthread_t callers[4];
        check(pool_new(&c.pool, n, NULL) == AK42_STATUS_OK, "pool_new for several callers");
        for (int i = 0; i < 4; i++) pthread_create(&callers[i], NULL, caller_main, &c);
        for (int i = 0; i < 4; i++) pthread_join(callers[i], NULL);
        check(c.n == 4 * 200 * 2, "several callers take turns");
        pool_free(c.pool);
    }
}

/* A child that inherits the pool, perhaps in the middle of another thread's run, computes and frees it. */
static void test_fork(void) {
    if (UNDER_TSAN) return;                    /* TSan refuses threads in a forked child */
    shared_count c = { 0 };
    check(pool_new(&c.pool, 3, NULL) == AK42_STATUS_OK, "pool_new before fork");
    pthread_t caller;
    pthread_create(&caller, NULL, caller_main, &c);
    int n_good = 0;
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            c.n = 0;
            for (int k = 0; k < 3; k++) pool_run(c.pool, count_one, &c);
            if (i % 2) pool_free(c.pool);
            _exit(c.n == 6 ? 0 : 1);
        }
        int status = -1;
        n_good += child > 0 && waitpid(child, &status, 0) == child && status == 0;
    }
    pthread_join(caller, NULL);
    check(n_good == 20, "a forked child makes its threads anew");
    check(c.n == 200 * 2, "the parent is not disturbed");
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        pool_free(c.pool);                     /* inherited and never used */
        _exit(0);
    }
    int status = -1;
    check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "an inherited pool can be freed");
    pool_free(c.pool);
}

/* 1 + 2^-24 is 1 rounded to nearest, and the next float rounded upward. */
static void add_tiny(void *argument, team *t) {
    volatile float one = 1.0f, tiny = 0x1p-24f;
    ((float *)argument)[t->thread] = one + tiny;
}
static void test_modes(void) {
    float sums[3] = { 0 };
    pool *p = NULL;
    fesetround(FE_UPWARD);
    check(pool_new(&p, 3, NULL) == AK42_STATUS_OK, "pool_new in another rounding mode");
    pool_run(p, add_tiny, sums);
    volatile float one = 1.0f, tiny = 0x1p-24f;
    check(one + tiny > 1.0f, "the caller's rounding mode is kept");
    fesetround(FE_TONEAREST);
    check(sums[0] == 1.0f && sums[1] == 1.0f && sums[2] == 1.0f, "all threads round to nearest");
    pool_free(p);
}

static void test_ends(void) {
    pool *p = NULL;
    ak42_error err;
    check(pool_new(&p, 0, &err) == AK42_STATUS_ARG && !p, "0 threads are refused");
    check(pool_new(&p, 1000000, &err) == AK42_STATUS_ARG && !p, "a million threads are refused");
    pool_free(NULL);
    bool ok = true;
    for (int i = 0; i < 50; i++) {
        ok &= pool_new(&p, 4, NULL) == AK42_STATUS_OK;
        if (i % 5 == 0) nap_us(300);
        pool_free(p);
    }
    check(ok, "pools that never run");
    char why[128] = "";
    uint32_t n = threads_default(why, sizeof why), all = cpus_allowed();
    check(n >= 1 && all >= 1 && why[0] && threads_default(NULL, 0) == n, "threads_default on this machine");
}

/* ---- faked machines ---- */

#if defined(__linux__)

static char root[] = "/tmp/check_threads_XXXXXX";

static void write_text(const char *path, const char *text) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + sizeof root, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    if (!file) return;
    fputs(text, file);
    fclose(file);
}
static void remove_text(const char *path) {
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    remove(full);
}
static void write_cpu(int cpu, const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, name);
    write_text(path, text);
}
static void expect_threads(uint64_t mask, uint32_t expected, const char *what) {
    uint64_t cpus[CPUS_MASK_WORDS] = { mask };
    char why[128], message[256];
    uint32_t n = cpus_threads(root, cpus, why, sizeof why);
    snprintf(message, sizeof message, "%s: expected %u, found %u (%s)", what, expected, n, why);
    check(n == expected, message);
}

static void test_machines(void) {
    if (!mkdtemp(root)) {
        check(false, "mkdtemp");
        return;
    }
    expect_threads(0xf, 4, "no files at all");
    expect_threads(0, 1, "no CPU at all");
    for (int cpu = 0; cpu < 8; cpu++) {        /* 4 cores in 2 packages, siblings 4 apart */
        char text[32];
        snprintf(text, sizeof text, "%d\n", cpu % 4 % 2);
        write_cpu(cpu, "core_id", text);
        snprintf(text, sizeof text, "%d\n", cpu % 4 / 2);
        write_cpu(cpu, "physical_package_id", text);
    }
    expect_threads(0xff, 4, "core and package ids");
    expect_threads(0xf1, 4, "core and package ids, both siblings of one");
    for (int cpu = 0; cpu < 8; cpu++) {
        char text[32];
        snprintf(text, sizeof text, "%d,%d\n", cpu % 4, cpu % 4 + 4);
        write_cpu(cpu, "thread_siblings_list", text);
    }
    expect_threads(0xff, 4, "siblings 4 apart");
    expect_threads(0xf0, 4, "the second siblings alone");
    expect_threads(0x11, 1, "one core's two siblings");
    expect_threads(0x31, 2, "three of four siblings");
    for (int cpu = 0; cpu < 8; cpu++) {
        char text[32];
        snprintf(text, sizeof text, "%d-%d\n", cpu / 2 * 2, cpu / 2 * 2 + 1);
        write_cpu(cpu, "thread_siblings_list", text);
    }
    expect_threads(0xff, 4, "siblings side by side");
    expect_threads(0xaa, 4, "odd siblings alone");
    expect_threads(0x3, 1, "one pair");

    write_text("/proc/self/cgroup", "0::/a/b\n");
    write_text("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    expect_threads(0xff, 4, "v2 max");
    write_text("/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
    expect_threads(0xff, 2, "v2 quota of 1.5, rounded up");
    write_text("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
    expect_threads(0xff, 1, "v2 quota of the parent");
    remove_text("/sys/fs/cgroup/a/cpu.max");
    write_text("/sys/fs/cgroup/a/b/cpu.max", "900000 100000\n");
    expect_threads(0xff, 4, "v2 quota of more than there is");
    write_text("/sys/fs/cgroup/cpu.max", "300000 100000\n");
    write_text("/proc/self/cgroup", "0::/\n");
    expect_threads(0xff, 3, "v2 quota at the mount, as in a container");
    write_text("/proc/self/cgroup", "0::/../../elsewhere\n");
    expect_threads(0xff, 3, "v2 group outside of the namespace");
    write_text("/sys/fs/cgroup/cpu.max", "rubbish\n");
    expect_threads(0xff, 4, "v2 rubbish");
    write_text("/sys/fs/cgroup/cpu.max", "0 0\n");
    expect_threads(0xff, 4, "v2 zeros");
    remove_text("/sys/fs/cgroup/cpu.max");

    write_text("/proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n");
    write_text("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    write_text("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    expect_threads(0xff, 4, "v1 without limit");
    write_text("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "210000\n");
    expect_threads(0xff, 3, "v1 quota of 2.1 at the mount");
    write_text("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "20000\n");
    write_text("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "50000\n");
    expect_threads(0xff, 1, "v1 quota of the group");

    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    check(system(command) == 0, "the faked machine goes away");
}

#else
static void test_machines(void) {}
#endif

/* ---- latencies ---- */

enum { BARRIERS = 2000, REPETITIONS = 200 };

static void many_barriers(void *argument, team *t) {
    for (int i = 0; i < *(int *)argument; i++) team_barrier(t);
}
static void nothing(void *argument, team *t) {
    (void)argument;
    (void)t;
}

static void bench(void) {
    static const uint32_t THREADS[] = { 1, 2, 4 };
    for (size_t i = 0; i < ARRAY_LEN(THREADS); i++) {
        pool *p = NULL;
        if (pool_new(&p, THREADS[i], NULL)) continue;
        double barrier = 1e30, run = 1e30;
        int n = THREADS[i] > cpus_allowed() ? BARRIERS / 20 : BARRIERS, n_runs = n / 10;
        for (int rep = 0; rep < REPETITIONS; rep++) {
            double start = now_ns();
            pool_run(p, many_barriers, &n);
            double took = (now_ns() - start) / n;
            barrier = took < barrier ? took : barrier;
            start = now_ns();
            for (int k = 0; k < n_runs; k++) pool_run(p, nothing, NULL);
            took = (now_ns() - start) / n_runs;
            run = took < run ? took : run;
        }
        printf("%u threads: barrier %.0f ns, empty run %.0f ns\n", THREADS[i], barrier, run);
        pool_free(p);
    }
}

/* A draw of `bytes` that takes so many nanoseconds a byte where it asks and where it is foreseen. */
static bool pace_draws(pace *p, size_t bytes, float asked, float foreseen) {
    pace_draw draw = pace_begin(p, bytes);
    draw.began = clock_ns() - (int64_t)((draw.foreseen ? foreseen : asked) * (float)bytes);
    pace_end(p, &draw);
    return draw.foreseen;
}

/* Times are far above what the test itself takes. */
static void test_pace(void) {
    enum { LONG = 1 << 20, SHORT = 1 << 10 };
    pace p = {0};
    check(pace_draws(&p, SHORT, 4.0f, 8.0f) && p.foreseen == 0.0f, "pace: a short draw is foreseen and not measured");
    check(pace_draws(&p, LONG, 4.0f, 8.0f), "pace: the first long draw is foreseen");
    check(!pace_draws(&p, LONG, 4.0f, 8.0f), "pace: the second asks");
    check(!pace_draws(&p, SHORT, 4.0f, 8.0f), "pace: short draws do what was faster");
    uint32_t n_foreseen = 0;
    for (int i = 0; i < 1024; i++) n_foreseen += pace_draws(&p, LONG, 4.0f, 8.0f);
    check(n_foreseen >= 2 && n_foreseen <= 8, "pace: what is slower is tried seldom");
    for (int i = 0; i < 2048; i++) pace_draws(&p, LONG, 4.0f, 2.0f);
    n_foreseen = 0;
    for (int i = 0; i < 1024; i++) n_foreseen += pace_draws(&p, LONG, 4.0f, 2.0f);
    check(n_foreseen >= 1016 && n_foreseen <= 1022, "pace: a change is noticed");
    p = (pace){.asked = 4.0f, .foreseen = 4.1f};
    check(pace_draws(&p, SHORT, 1.0f, 1.0f), "pace: requests must be faster by a margin");
    p = (pace){.asked = 4.0f, .foreseen = 3.0f};
    pace_draws(&p, LONG, 1000.0f, 1000.0f);
    check(p.foreseen > 3.0f && p.foreseen < 4.0f, "pace: an interruption counts as twice the mean");
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    uint32_t n_sections = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;
    test_ends();
    test_random(1, n_sections);
    test_random(2, n_sections);
    test_random(3, n_sections / 10);
    test_random(THREADS_TESTED, n_sections / 20);
    for (uint32_t n = 1; n <= THREADS_TESTED; n += n < 3 ? 1 : 3) test_shares(n, n_sections / 40);
    test_pace();
    test_callers();
    test_modes();
    test_fork();
    test_machines();
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed ? 1 : 0;
}

/* options.c: the arguments of the native program: its help, its flags, what each may be. Reads no file and no environment. Called by
 * run.c. */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage_text[] =
    "usage: run CHECKPOINT [options]\n"
    "Generates text from a model file: ak42 (v0 to v3) or GGUF.\n"
    "\n"
    "  -i, --prompt TEXT          what to continue (generate) or to ask (chat); default: begin at BOS, ask on the terminal\n"
    "  -n, --n-steps N            positions in all, prompt included; 0: the whole context          [256]\n"
    "  -t, --temperature F        0: greedy                                                        [1.0]\n"
    "  -p, --top-p F              nucleus; 1: off                                                  [0.9]\n"
    "  -s, --seed N               the same seed gives the same text                                [the time]\n"
    "  -m, --mode MODE            generate or chat                                                 [generate]\n"
    "  -y, --system TEXT          system prompt of a chat\n"
    "  -z, --tokenizer FILE       tokenizer.bin for files that carry no vocabulary                 [tokenizer.bin]\n"
    "      --n-ctx N              context                                                          [4096, or as -n asks]\n"
    "      --n-threads N          threads                                                          [cores]\n"
    "      --isa NAME             kernels: auto, generic, avx2, ...                                [auto]\n"
    "      --kv-type TYPE         cache: f32, f16, bf16, int8                                      [by weights]\n"
    "      --no-mmap              read the file instead of mapping it\n"
    "      --no-stats             no figures on stderr\n"
    "  -h, --help                 this text\n"
    "\n"
    "  run model.bin -t 0.8 -n 256 -i \"Once upon a time\"\n"
    "  run model.bin -m chat -i \"What is a llama?\"\n";

void fail(int code, const char *text) {
    fprintf(stderr, "run: %s\n", text);
    exit(code);
}

void fail_option(const char *option, const char *expected, const char *found) {
    fprintf(stderr, "run: %s: expected %s, found %s; see run --help\n", option, expected, found ? found : "nothing");
    exit(EXIT_USAGE);
}

static double parse_number(const char *option, const char *text, double lowest, double highest) {
    char *end;
    errno = 0;
    const double value = strtod(text, &end);
    char expected[64];
    snprintf(expected, sizeof expected, "a number from %g to %g", lowest, highest);
    if (end == text || *end || errno || !(value >= lowest && value <= highest)) fail_option(option, expected, text);
    return value;
}

int32_t parse_count(const char *option, const char *text, int32_t highest) {
    char *end, expected[64];
    errno = 0;
    const long value = strtol(text, &end, 10);
    snprintf(expected, sizeof expected, "a whole number from 0 to %" PRId32, highest);
    if (end == text || *end || errno || value < 0 || value > highest) fail_option(option, expected, text);
    return (int32_t)value;
}

static uint64_t parse_seed(const char *option, const char *text) {
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end || errno || *text == '-') fail_option(option, "a whole number", text);
    return value;
}

typedef struct flag {
    char letter;
    const char *name;
    bool takes_value;
} flag;

static const flag flags[] = {
    {'i', "prompt", true}, {'n', "n-steps", true}, {'t', "temperature", true}, {'p', "top-p", true}, {'s', "seed", true},
    {'m', "mode", true}, {'y', "system", true}, {'z', "tokenizer", true}, {0, "n-ctx", true}, {0, "n-threads", true},
    {0, "isa", true}, {0, "kv-type", true}, {0, "no-mmap", false}, {0, "no-stats", false}, {'h', "help", false},
};

/* The flag that an argument names, with the value after "=", if any. */
static const flag *find_flag(const char *argument, const char **value) {
    *value = NULL;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const size_t length = strlen(flags[i].name);
        if (argument[1] != '-') {
            if (flags[i].letter && argument[1] == flags[i].letter && !argument[2]) return &flags[i];
        } else if (!strncmp(argument + 2, flags[i].name, length)) {
            if (!argument[2 + length]) return &flags[i];
            if (argument[2 + length] == '=' && flags[i].takes_value) {
                *value = argument + 3 + length;
                return &flags[i];
            }
        }
    }
    return NULL;
}

static void set_option(options *o, const char *name, const char *value) {
    if (!strcmp(name, "prompt")) o->prompt = value;
    else if (!strcmp(name, "n-steps")) o->n_steps = parse_count("-n", value, INT32_MAX);
    else if (!strcmp(name, "temperature")) o->temperature = (float)parse_number("-t", value, 0, 1e6);
    else if (!strcmp(name, "top-p")) o->top_p = (float)parse_number("-p", value, 0, 1);
    else if (!strcmp(name, "seed")) o->seed = parse_seed("-s", value);
    else if (!strcmp(name, "mode")) o->mode = value;
    else if (!strcmp(name, "system")) o->system_prompt = value;
    else if (!strcmp(name, "tokenizer")) o->tokenizer = value;
    else if (!strcmp(name, "n-ctx")) o->n_ctx = parse_count("--n-ctx", value, 1 << 30);
    else if (!strcmp(name, "n-threads")) o->n_threads = parse_count("--n-threads", value, 1024);
    else if (!strcmp(name, "isa")) o->isa = value;
    else if (!strcmp(name, "kv-type")) o->kv_type = value;
    else if (!strcmp(name, "no-mmap")) o->no_mmap = true;
    else o->stats = false;
}

options parse_options(int argc, char **argv) {
    options o = {.mode = "generate", .temperature = 1.0f, .top_p = 0.9f, .n_steps = 256, .stats = true};
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i], *value;
        if (argument[0] != '-' || !argument[1]) {
            if (o.checkpoint) fail_option("arguments", "one checkpoint", argument);
            o.checkpoint = argument;
            continue;
        }
        const flag *f = find_flag(argument, &value);
        if (!f) fail_option("arguments", "an option that is known", argument);
        if (!strcmp(f->name, "help")) {
            fputs(usage_text, stdout);
            exit(0);
        }
        if (f->takes_value && !value && !(value = i + 1 < argc ? argv[++i] : NULL)) fail_option(argument, "a value", NULL);
        set_option(&o, f->name, value);
    }
    if (!o.checkpoint) {
        fputs(usage_text, stderr);
        exit(EXIT_USAGE);
    }
    if (strcmp(o.mode, "generate") && strcmp(o.mode, "chat")) fail_option("-m", "generate or chat", o.mode);
    if (!o.seed) o.seed = (uint64_t)time(NULL);
    return o;
}

/* run.c: the native program: a drop-in for llama2.c's `run` that takes every format the library reads. The library's first user: it
 * knows nothing that ak42.h does not say. The only C file with main, exit, stdout and getenv. stdout carries the text alone.
 *
 * A file that llama2.c's own programs read (v0 to v2 with a tokenizer.bin beside it) is run by their rules to the byte: BOS alone
 * ends a text, every piece of the prompt is printed as the vocabulary spells it, and so are control tokens; a byte token is printed
 * where it is ASCII that prints or white space. Any other file ends at its own end tokens and prints what its text is. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../include/ak42.h"
#include "chat.h"

/* Exit codes, as the pyllama command has them. */
enum { EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3, EXIT_SYSTEM = 74, EXIT_INTERRUPTED = 130, EXIT_TERMINATED = 143 };

/* The context where nobody says; and llama2.c's ids: 1 begins a text and so ends the one before, byte b is 3 + b. */
enum { CONTEXT_DEFAULT = 4096, LLAMA2C_BOS = 1, LLAMA2C_EOS = 2, LLAMA2C_BYTES = 3 };

/* ---- options ---- */

typedef struct options {
    const char *checkpoint, *tokenizer, *prompt, *mode, *system_prompt, *isa, *kv_type;
    float temperature, top_p;
    uint64_t seed;
    int32_t n_steps, n_ctx, n_threads;
    bool no_mmap, stats;
} options;

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

static void fail(int code, const char *text) {
    fprintf(stderr, "run: %s\n", text);
    exit(code);
}

static void fail_option(const char *option, const char *expected, const char *found) {
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

static int32_t parse_count(const char *option, const char *text, int32_t highest) {
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

static options parse_options(int argc, char **argv) {
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

/* ---- errors and signals ---- */

static int exit_code(ak42_status status) {
    switch (status) {
    case AK42_STATUS_IO: case AK42_STATUS_NOMEM: return EXIT_SYSTEM;
    case AK42_STATUS_DEVICE: return EXIT_REFUSED;
    case AK42_STATUS_CANCELLED: return EXIT_INTERRUPTED;
    default: return EXIT_INPUT;
    }
}

static volatile sig_atomic_t signal_seen;

static void on_signal(int number) { signal_seen = number; }

static int32_t is_cancelled(void *user) {
    (void)user;
    return signal_seen != 0;
}

static void check(ak42_status status, const ak42_error *err) {
    if (!status) return;
    fflush(stdout);
    if (signal_seen) exit(signal_seen == SIGTERM ? EXIT_TERMINATED : EXIT_INTERRUPTED);
    fail(exit_code(status), err->text);
}

/* ---- the program's state ---- */

typedef struct program {
    options o;
    ak42_model *model;
    ak42_model_info info;
    ak42_tokenizer *own_tokenizer;         /* from a tokenizer.bin; NULL: the model's */
    const ak42_tokenizer *tokenizer;
    ak42_session *session;
    int32_t bos_id;                        /* the tokenizer's, else the model's; -1: none */
    bool as_llama2c;                       /* one of llama2.c's files: its rules, to the byte */
    uint64_t rng;
    size_t n_positions;                    /* that may be used in all */
    size_t n_generated;
    double seconds_generating;
} program;

static double now(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* v0, v1 or v2 with a vocabulary of its own beside it. */
static bool is_llama2c(const program *p) {
    static const char *const formats[] = {"ak42 v0", "ak42 v1", "ak42 v2"};
    for (size_t i = 0; p->own_tokenizer && i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(p->info.format, formats[i])) return true;
    return false;
}

/* Positions of the session: --n-ctx, else what -n asks for and at least 4096, within what the model can. */
static int32_t context_of(const program *p) {
    const int32_t most = p->as_llama2c ? p->info.seq_len : p->info.trained_ctx;
    if (p->o.n_ctx) return p->o.n_ctx;
    if (p->as_llama2c && !p->o.n_steps) return most;
    const int32_t wanted = p->o.n_steps > CONTEXT_DEFAULT ? p->o.n_steps : CONTEXT_DEFAULT;
    return wanted < most ? wanted : most;
}

static ak42_kv_type kv_type_of(const char *name) {
    static const char *const names[] = {"auto", "f32", "f16", "bf16", "int8"};
    for (int i = 0; name && i < 5; i++)
        if (!strcmp(name, names[i])) return (ak42_kv_type)i;
    if (name) fail_option("--kv-type", "f32, f16, bf16 or int8", name);
    return AK42_KV_TYPE_DEFAULT;
}

static void open_model(program *p) {
    ak42_error err;
    ak42_model_opts opts;
    ak42_model_opts_init(&opts);
    opts.n_threads = p->o.n_threads;
    if (!opts.n_threads && getenv("AK42_THREADS")) opts.n_threads = parse_count("AK42_THREADS", getenv("AK42_THREADS"), 1024);
    opts.isa = p->o.isa ? p->o.isa : getenv("AK42_ISA");
    opts.kv_type = kv_type_of(p->o.kv_type);
    opts.use_mmap = p->o.no_mmap ? AK42_MMAP_NO : AK42_MMAP_YES;
    opts.cancel = is_cancelled;
    check(ak42_model_open(&p->model, p->o.checkpoint, &opts, &err), &err);
    p->info.struct_size = sizeof p->info;
    check(ak42_model_get_info(p->model, &p->info, &err), &err);

    p->tokenizer = ak42_model_tokenizer(p->model);
    if (!p->tokenizer || p->o.tokenizer) {
        const char *path = p->o.tokenizer ? p->o.tokenizer : "tokenizer.bin";
        if (!p->o.tokenizer && access(path, R_OK)) {
            fprintf(stderr, "run: %s: carries no vocabulary, and there is no tokenizer.bin here; give one with -z FILE\n", p->o.checkpoint);
            exit(EXIT_INPUT);
        }
        check(ak42_tokenizer_open(&p->own_tokenizer, path, NULL, 0, &err), &err);
        p->tokenizer = p->own_tokenizer;
    }

    size_t n;
    if (ak42_encode(p->tokenizer, "", 0, AK42_ENCODE_BOS, &p->bos_id, 1, &n, NULL) || n != 1) p->bos_id = p->info.bos_id;

    p->as_llama2c = is_llama2c(p);
    ak42_session_opts session_opts;
    ak42_session_opts_init(&session_opts);
    session_opts.n_ctx = context_of(p);
    check(ak42_session_new(&p->session, p->model, &session_opts, &err), &err);
    p->n_positions = (size_t)(p->o.n_steps && p->o.n_steps < session_opts.n_ctx ? p->o.n_steps : session_opts.n_ctx);
    p->rng = p->o.seed;
}

/* ---- text in and out ---- */

typedef struct ids {
    int32_t *data;
    size_t n;
} ids;

/* Appends the ids of a text. */
static void append_text(const program *p, ids *out, const char *text, size_t size, uint32_t flags) {
    ak42_error err;
    size_t n;
    check(ak42_encode(p->tokenizer, text, size, flags, NULL, 0, &n, &err) == AK42_STATUS_RANGE ? AK42_STATUS_OK : err.code, &err);
    int32_t *data = realloc(out->data, (out->n + n + 1) * sizeof *data);
    if (!data) fail(EXIT_SYSTEM, "out of memory");
    out->data = data;
    check(ak42_encode(p->tokenizer, text, size, flags, data + out->n, n, &n, &err), &err);
    out->n += n;
}

static bool is_end(const program *p, int32_t token) {
    if (p->as_llama2c) return token == LLAMA2C_BOS;
    for (int32_t i = 0; i < p->info.n_eos; i++)
        if (token == p->info.eos_ids[i]) return true;
    return token == p->bos_id;
}

/* Whether llama2.c prints a piece of one byte: it leaves out what is neither ASCII that prints nor white space. */
static bool prints_alone(unsigned char byte) { return (byte >= ' ' && byte < 127) || (byte >= '\t' && byte <= '\r'); }

/* Bytes of a token to stdout, at once; first: BOS or nothing stands before it, and its leading space is dropped. A lone byte that
 * is a control character is left out. */
static void print_token(const program *p, int32_t token, bool first) {
    const bool is_byte = token >= LLAMA2C_BYTES && token < LLAMA2C_BYTES + 256;
    const uint32_t skip = p->as_llama2c ? 0 : AK42_DECODE_SKIP_SPECIAL;
    const uint32_t follows = first && !(p->as_llama2c && is_byte) ? 0 : AK42_DECODE_CONTINUE;
    char text[4096];
    size_t size;
    ak42_error err;
    check(ak42_decode(p->tokenizer, &token, 1, skip | follows, text, sizeof text, &size, &err), &err);
    const unsigned char only = size == 1 ? (unsigned char)text[0] : 'x';
    if (!prints_alone(only) && (p->as_llama2c || only < 128)) return;
    const char *frame = p->as_llama2c && token == LLAMA2C_EOS ? "\n" : "";     /* as tokenizer.bin spells it */
    fputs(frame, stdout);
    fwrite(text, 1, size, stdout);
    fputs(frame, stdout);
    fflush(stdout);
}

/* Evaluates the prompt, then draws tokens until an end token or until n_positions have been evaluated, as llama2.c counts; the end
 * token is not printed. */
static void generate(program *p, const ids *prompt) {
    ak42_sampler_opts sampler;
    ak42_sampler_opts_init(&sampler);
    sampler.sampler = AK42_SAMPLER_LLAMA2C;
    sampler.temperature = p->o.temperature;
    sampler.top_p = p->o.top_p;
    sampler.top_k = 0;
    ak42_error err;
    check(ak42_session_eval(p->session, prompt->data, prompt->n, NULL, 0, &err), &err);
    const double start = now();
    bool first = prompt->n == 1 && prompt->data[0] == p->bos_id;       /* of the text */
    for (;;) {
        int32_t token;
        check(ak42_session_sample(p->session, &sampler, &p->rng, &token, &err), &err);
        p->n_generated++;
        if (is_end(p, token)) break;
        print_token(p, token, first);
        first = false;
        if (ak42_session_position(p->session) >= p->n_positions) break;
        check(ak42_session_eval(p->session, &token, 1, NULL, 0, &err), &err);
    }
    p->seconds_generating += now() - start;
}

static void print_stats(const program *p) {
    if (!p->o.stats || !p->n_generated || p->seconds_generating <= 0) return;
    fprintf(stderr, "%.1f tokens/s (%zu tokens, %s, %s, %" PRId32 " threads, seed %" PRIu64 ")\n",
            (double)p->n_generated / p->seconds_generating, p->n_generated, p->info.weight_type, p->info.isa, p->info.n_threads, p->o.seed);
}

/* ---- modes ---- */

/* The prompt as it was given; llama2.c's files: piece by piece, BOS apart, as far as there are positions. */
static void print_prompt(const program *p, const ids *prompt, const char *text) {
    if (!p->as_llama2c) fputs(text, stdout);
    else
        for (size_t i = 1; i < prompt->n && i <= p->n_positions; i++) print_token(p, prompt->data[i], i == 1);
    fflush(stdout);
}

static void run_generate(program *p) {
    ids prompt = {NULL, 0};
    const char *text = p->o.prompt ? p->o.prompt : "";
    append_text(p, &prompt, text, strlen(text), 0);
    if (!prompt.n && p->bos_id >= 0 && !*text) append_text(p, &prompt, "", 0, AK42_ENCODE_BOS);
    if (!prompt.n) {
        fprintf(stderr, "run: %s: nothing to evaluate: no prompt, and the tokenizer has no BOS; give a prompt with -i\n", p->o.checkpoint);
        exit(EXIT_INPUT);
    }
    print_prompt(p, &prompt, text);
    if (prompt.n <= p->n_positions) generate(p, &prompt);
    putchar('\n');
    free(prompt.data);
}

/* Whether a token has a text of its own that is left out with AK42_DECODE_SKIP_SPECIAL. */
static bool is_control(const program *p, int32_t token) {
    char spelled[4096];
    size_t shown, whole;
    return !ak42_decode(p->tokenizer, &token, 1, AK42_DECODE_CONTINUE, spelled, sizeof spelled, &whole, NULL) && whole &&
           !ak42_decode(p->tokenizer, &token, 1, AK42_DECODE_CONTINUE | AK42_DECODE_SKIP_SPECIAL, spelled, sizeof spelled, &shown, NULL) &&
           !shown;
}

static void keep_controls(const program *p, ids *of) {
    size_t n = 0;
    for (size_t i = 0; i < of->n; i++)
        if (is_control(p, of->data[i])) of->data[n++] = of->data[i];
    of->n = n;
}

/* The ids of a turn. It is one text to the tokenizer, as Hugging Face's is; where somebody's words spell a control token, or a part
 * of one, its runs of template and of words are encoded each by itself. */
static void append_turn(const program *p, ids *out, const turn *t, bool follows) {
    text runs[TURN_PARTS];
    bool is_content[TURN_PARTS];
    size_t n = 0, size = 0;
    for (size_t i = 0; i < t->n; i++) size += t->parts[i].what.size;
    char *data = malloc(size + 1), *at = data;
    if (!data) fail(EXIT_SYSTEM, "out of memory");
    for (size_t i = 0; i < t->n; i++) {
        const part *next = &t->parts[i];
        if (!next->what.size) continue;
        memcpy(at, next->what.data, next->what.size);
        if (n && is_content[n - 1] == next->is_content) {
            runs[n - 1].size += next->what.size;
        } else {
            runs[n] = (text){at, next->what.size};
            is_content[n++] = next->is_content;
        }
        at += next->what.size;
    }
    const uint32_t begins = AK42_ENCODE_NO_BOS | (follows ? AK42_ENCODE_CONTINUE : 0);
    ids found = {NULL, 0}, wanted = {NULL, 0};
    append_text(p, &found, data, size, begins | AK42_ENCODE_SPECIAL);
    for (size_t i = 0; i < n; i++)
        if (!is_content[i]) append_text(p, &wanted, runs[i].data, runs[i].size, AK42_ENCODE_NO_BOS | AK42_ENCODE_CONTINUE | AK42_ENCODE_SPECIAL);
    keep_controls(p, &found);
    keep_controls(p, &wanted);
    if (found.n == wanted.n && (!found.n || !memcmp(found.data, wanted.data, found.n * sizeof *found.data))) {
        append_text(p, out, data, size, begins | AK42_ENCODE_SPECIAL);
    } else {
        for (size_t i = 0; i < n; i++)
            append_text(p, out, runs[i].data, runs[i].size, AK42_ENCODE_NO_BOS | (i ? AK42_ENCODE_CONTINUE : begins) |
                        (is_content[i] ? 0 : AK42_ENCODE_SPECIAL));
    }
    free(found.data);
    free(wanted.data);
    free(data);
}

/* A line from the terminal or the pipe without its newline; false at the end. */
static bool read_line(char **line, size_t *capacity, text *out) {
    const ssize_t n = getline(line, capacity, stdin);
    if (n < 0) return false;
    *out = (text){*line, (size_t)n};
    while (out->size && (out->data[out->size - 1] == '\n' || out->data[out->size - 1] == '\r')) out->size--;
    return true;
}

static void run_chat(program *p) {
    chat c;
    size_t size;
    const unsigned char *section = ak42_model_metadata(p->model, "CHAT", &size);
    if (!section || !chat_parse(&c, section, size)) {
        fprintf(stderr, "run: %s: has no CHAT section, so the native program cannot chat with it; use `pyllama chat`, which reads the "
                "chat template, or -m generate\n", p->o.checkpoint);
        exit(EXIT_INPUT);
    }
    if (p->o.system_prompt && c.flags & CHAT_NO_SYSTEM) {
        fprintf(stderr, "run: %s: its CHAT section tells no conversation with a system message; leave -y out, or use `pyllama chat "
                "--system`, which asks the chat template\n", p->o.checkpoint);
        exit(EXIT_INPUT);
    }
    turn next = {.n = 0};
    ids prompt = {NULL, 0};
    char *line = NULL;
    size_t capacity = 0;
    const bool terminal = isatty(STDIN_FILENO);
    for (bool first = true;; first = false) {
        text question;
        if (first && p->o.prompt) {
            question = (text){p->o.prompt, strlen(p->o.prompt)};
        } else {
            if (p->o.prompt && !terminal) break;
            if (terminal) fputs("> ", stderr);
            if (!read_line(&line, &capacity, &question)) break;
        }
        chat_add_question(&next, &c, question, first, p->o.system_prompt);
        prompt.n = 0;
        append_turn(p, &prompt, &next, !first);
        if (ak42_session_position(p->session) + prompt.n >= p->n_positions) {
            fprintf(stderr, "run: context exceeded: the conversation needs more than %zu positions; raise -n or --n-ctx\n", p->n_positions);
            exit(EXIT_INPUT);
        }
        generate(p, &prompt);
        putchar('\n');
        fflush(stdout);
        /* The end token that was drawn has not been evaluated; the template's own suffix stands for it. */
        next.n = 0;
        chat_add_template(&next, &c, CHAT_ASSISTANT_SUFFIX);
        if (ak42_session_position(p->session) + 1 >= p->n_positions) break;
    }
    free(line);
    free(prompt.data);
}

int main(int argc, char **argv) {
    program p = {.o = parse_options(argc, argv)};
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    open_model(&p);
    if (!strcmp(p.o.mode, "chat")) run_chat(&p);
    else run_generate(&p);
    print_stats(&p);
    ak42_session_close(p.session);
    ak42_tokenizer_close(p.own_tokenizer);
    ak42_model_close(p.model);
    if (fflush(stdout) || ferror(stdout)) fail(EXIT_SYSTEM, "stdout: the text could not be written");
    return 0;
}

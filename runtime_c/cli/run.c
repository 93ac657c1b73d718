/* run.c: the native program: a drop-in for llama2.c's `run` that takes every format the library reads. The library's first user: it
 * knows nothing that ak42.h does not say. The only C file with main, getenv and, for what a model says, stdout; with options.c the only
 * one that ends the program.
 *
 * A file that llama2.c's own programs read (v0 to v2 with a tokenizer.bin beside it) is run by their rules to the byte: BOS alone
 * ends a text, every piece of the prompt is printed as the vocabulary spells it, and so are control tokens; a byte token is printed
 * where it is ASCII that prints or white space. Any other file ends at its own end tokens and prints what its text is. */
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
#include "options.h"

/* The context where nobody says; and llama2.c's ids: 1 begins a text and so ends the one before, byte b is 3 + b. */
enum { CONTEXT_DEFAULT = 4096, LLAMA2C_BOS = 1, LLAMA2C_EOS = 2, LLAMA2C_BYTES = 3 };

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

static void reserve(ids *out, size_t n) {
    int32_t *data = realloc(out->data, (out->n + n + 1) * sizeof *data);
    if (!data) fail(EXIT_SYSTEM, "out of memory");
    out->data = data;
}

static void append_id(ids *out, int32_t id) {
    reserve(out, 1);
    out->data[out->n++] = id;
}

/* Appends the ids of a text. */
static void append_text(const program *p, ids *out, const char *text, size_t size, uint32_t flags) {
    ak42_error err;
    size_t n;
    check(ak42_encode(p->tokenizer, text, size, flags, NULL, 0, &n, &err) == AK42_STATUS_RANGE ? AK42_STATUS_OK : err.code, &err);
    reserve(out, n);
    check(ak42_encode(p->tokenizer, text, size, flags, out->data + out->n, n, &n, &err), &err);
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
 * token is not printed. answer gets what is; NULL: nobody asks. */
static void generate(program *p, const ids *prompt, ids *answer) {
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
        if (answer) append_id(answer, token);
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
    if (prompt.n <= p->n_positions) generate(p, &prompt, NULL);
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
        if (!is_content[i])
            append_text(p, &wanted, runs[i].data, runs[i].size, AK42_ENCODE_NO_BOS | AK42_ENCODE_CONTINUE | AK42_ENCODE_SPECIAL);
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

/* The model's chat, with today's dates; *buffer is the caller's to free. */
static chat open_chat(const program *p, char **buffer) {
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
    *buffer = NULL;
    if (c.flags & CHAT_DATED) {
        const time_t today = time(NULL);
        if (!(*buffer = malloc(CHAT_DATE_GROWTH * size))) fail(EXIT_SYSTEM, "out of memory");
        chat_write_dates(&c, *buffer, localtime(&today));
    }
    return c;
}

/* Evaluates the last turn, which began at a position, anew, with what the template tells of its answer: thoughts are left out of what
 * comes before a question. */
static void forget_thoughts(program *p, const chat *c, turn *last, size_t begin, const ids *answer) {
    ak42_error err;
    size_t size;
    ids again = {NULL, 0};
    const uint32_t flags = AK42_DECODE_SKIP_SPECIAL | AK42_DECODE_CONTINUE;
    const ak42_status status = ak42_decode(p->tokenizer, answer->data, answer->n, flags, NULL, 0, &size, &err);
    if (status != AK42_STATUS_RANGE) check(status, &err);
    char *said = malloc(size + 1);
    if (!said) fail(EXIT_SYSTEM, "out of memory");
    check(ak42_decode(p->tokenizer, answer->data, answer->n, flags, said, size, &size, &err), &err);
    chat_add_answer(last, c, (text){said, size});
    append_turn(p, &again, last, begin > 0);
    check(ak42_session_truncate(p->session, begin, &err), &err);
    check(ak42_session_eval(p->session, again.data, again.n, NULL, 0, &err), &err);
    free(again.data);
    free(said);
}

static void run_chat(program *p) {
    char *dates, *lines[2] = {NULL, NULL};             /* a question, and the one before it */
    size_t capacities[2] = {0, 0}, begin = 0;
    const chat c = open_chat(p, &dates);
    turn next = {.n = 0};
    ids prompt = {NULL, 0}, answer = {NULL, 0};
    const bool terminal = isatty(STDIN_FILENO);
    for (size_t number = 0;; number++) {
        text question;
        if (!number && p->o.prompt) {
            question = (text){p->o.prompt, strlen(p->o.prompt)};
        } else {
            if (p->o.prompt && !terminal) break;
            if (terminal) fputs("> ", stderr);
            if (!read_line(&lines[number % 2], &capacities[number % 2], &question)) break;
        }
        if (number && c.flags & CHAT_THOUGHTS) forget_thoughts(p, &c, &next, begin, &answer);
        next.n = 0;
        /* The end token that was drawn has not been evaluated; the template's own suffix stands for it. */
        if (number) chat_add_template(&next, &c, CHAT_ASSISTANT_SUFFIX);
        chat_add_question(&next, &c, question, !number, p->o.system_prompt);
        begin = ak42_session_position(p->session);
        prompt.n = answer.n = 0;
        append_turn(p, &prompt, &next, number > 0);
        if (begin + prompt.n >= p->n_positions) {
            fprintf(stderr, "run: context exceeded: the conversation needs more than %zu positions; raise -n or --n-ctx\n", p->n_positions);
            exit(EXIT_INPUT);
        }
        generate(p, &prompt, &answer);
        putchar('\n');
        fflush(stdout);
        if (ak42_session_position(p->session) + 1 >= p->n_positions) break;
    }
    free(lines[0]);
    free(lines[1]);
    free(prompt.data);
    free(answer.data);
    free(dates);
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

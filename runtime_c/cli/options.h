/* options.h: the native program's command line, and how it ends where something is wrong. Called by run.c. */
#ifndef AK42_CLI_OPTIONS_H
#define AK42_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Exit codes, as the pyllama command has them. */
enum { EXIT_INPUT = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3, EXIT_SYSTEM = 74, EXIT_INTERRUPTED = 130, EXIT_TERMINATED = 143 };

typedef struct options {
    const char *checkpoint, *tokenizer, *prompt, *mode, *system_prompt, *isa, *kv_type;
    float temperature, top_p;
    uint64_t seed;
    int32_t n_steps, n_ctx, n_threads;
    bool no_mmap, stats;
} options;

/* Ends the program where an argument is wrong, and after --help. Everything is filled in but what only a model can tell. */
options parse_options(int argc, char **argv);
/* A whole number from 0 to highest, or the end of the program. */
int32_t parse_count(const char *option, const char *text, int32_t highest);
/* One line on stderr and the program's end. */
void fail(int code, const char *text);
void fail_option(const char *option, const char *expected, const char *found);

#endif

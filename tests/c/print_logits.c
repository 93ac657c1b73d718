/* print_logits.c: the logits of every token of a prompt, raw f32 rows on stdout: what the tests of a foreign machine's kernels
 * compare. `print_logits MODEL ISA KV_TYPE THREADS CHUNK ID...`: KV_TYPE by number (0: the default), CHUNK tokens a call. It judges
 * nothing; tests/test_neon.py builds it for the other machine and runs it there. */
#include <stdio.h>
#include <stdlib.h>

#include "../../runtime_c/include/ak42.h"

enum { ARGUMENTS = 6 };

static int fail(const char *text) {
    fprintf(stderr, "print_logits: %s\n", text);
    return 1;
}

int main(int argc, char **argv) {
    if (argc <= ARGUMENTS) return fail("usage: print_logits MODEL ISA KV_TYPE THREADS CHUNK ID...");
    ak42_error err;
    ak42_model *model = NULL;
    ak42_session *session = NULL;
    ak42_model_opts opts;
    ak42_model_opts_init(&opts);
    opts.isa = argv[2];
    opts.kv_type = (ak42_kv_type)atoi(argv[3]);
    opts.n_threads = atoi(argv[4]);
    if (ak42_model_open(&model, argv[1], &opts, &err)) return fail(err.text);
    ak42_model_info info = {.struct_size = sizeof info};
    if (ak42_model_get_info(model, &info, &err) || ak42_session_new(&session, model, NULL, &err)) return fail(err.text);
    const int n = argc - ARGUMENTS, chunk = atoi(argv[5]);
    for (int at = 0; at < n; at += chunk) {
        int32_t ids[512];
        int count = 0;
        while (count < chunk && count < 512 && at + count < n) ids[count] = atoi(argv[ARGUMENTS + at + count]), count++;
        if (ak42_session_eval(session, ids, (size_t)count, NULL, AK42_EVAL_ALL_LOGITS, &err)) return fail(err.text);
        size_t rows;
        const float *logits = ak42_session_logits(session, &rows);
        fwrite(logits, sizeof *logits, rows * (size_t)info.vocab_size, stdout);
    }
    ak42_session_close(session);
    ak42_model_close(model);
    return fflush(stdout) ? fail("stdout could not be written") : 0;
}

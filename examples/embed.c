/* embed.c: the runtime inside a program of your own: continues a text and prints it.
 *
 *     make lib
 *     cc -Iruntime_c/include examples/embed.c build/libak42.a -lm -lpthread -o build/embed
 *     build/embed model.bin "Once upon a time" 64
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ak42.h"

enum { IDS_MAX = 4096, PIECE_MAX = 4096 };

static int is_end(const ak42_model_info *info, int32_t id) {
    for (int32_t i = 0; i < info->n_eos; i++)
        if (info->eos_ids[i] == id) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: embed MODEL PROMPT [TOKENS]\n"), 2;
    const int n_new = argc > 3 ? atoi(argv[3]) : 64;

    ak42_error err = {AK42_STATUS_OK, ""};
    ak42_model *model = NULL;
    ak42_session *session = NULL;
    ak42_model_info info = {.struct_size = sizeof info};
    ak42_sampler_opts sampler;
    static int32_t ids[IDS_MAX];
    size_t n_ids;
    uint64_t rng = 42;

    if (ak42_model_open(&model, argv[1], NULL, &err)) goto done;
    if (ak42_model_get_info(model, &info, &err)) goto done;
    const ak42_tokenizer *tokenizer = ak42_model_tokenizer(model);
    if (ak42_encode(tokenizer, argv[2], strlen(argv[2]), 0, ids, IDS_MAX, &n_ids, &err)) goto done;
    if (ak42_session_new(&session, model, NULL, &err)) goto done;
    if (ak42_session_eval(session, ids, n_ids, NULL, 0, &err)) goto done;

    ak42_sampler_opts_init(&sampler);
    sampler.temperature = 0;                       /* greedy */
    fputs(argv[2], stdout);
    for (int i = 0; i < n_new; i++) {
        int32_t id;
        char piece[PIECE_MAX];
        size_t size;
        if (ak42_session_sample(session, &sampler, &rng, &id, &err) || is_end(&info, id)) break;
        if (ak42_decode(tokenizer, &id, 1, AK42_DECODE_CONTINUE, piece, sizeof piece, &size, &err)) break;
        fwrite(piece, 1, size, stdout);
        if (i + 1 < n_new && ak42_session_eval(session, &id, 1, NULL, 0, &err)) break;
    }
    putchar('\n');

done:
    if (err.code) fprintf(stderr, "embed: %s\n", err.text);
    ak42_session_close(session);
    ak42_model_close(model);
    return err.code ? 1 : 0;
}

/* tokenizer.h: text to ids and back, for SentencePiece BPE and byte-level BPE. The vocabulary comes from a TOKN section, from GGUF
 * keys or from llama2.c's tokenizer.bin; the steps before the merges (normaliser, pre-tokenizer) are data, in the op table of
 * docs/tokenizer.md. Immutable once built. */
#ifndef AK42_TOKENIZER_H
#define AK42_TOKENIZER_H

#include "container.h"

/* Each copies what it needs, so that the source may go. name is for messages. */
ak42_status tokenizer_from_tokn(ak42_tokenizer **tokenizer, const uint8_t *data, uint64_t size, const char *name,
                                const allocator *alloc, ak42_error *err);
ak42_status tokenizer_from_gguf(ak42_tokenizer **tokenizer, const gguf_vocab *vocab, const char *name, const allocator *alloc,
                                ak42_error *err);
ak42_status tokenizer_from_bin(ak42_tokenizer **tokenizer, const uint8_t *data, uint64_t size, const char *name,
                               const allocator *alloc, ak42_error *err);
void tokenizer_free(ak42_tokenizer *tokenizer);            /* accepts NULL and half-built ones */

uint32_t tokenizer_vocab_size(const ak42_tokenizer *tokenizer);
/* ids (at most AK42_EOS_MAX); returns how many. */
int32_t tokenizer_eos(const ak42_tokenizer *tokenizer, int32_t *ids);
int32_t tokenizer_bos(const ak42_tokenizer *tokenizer);    /* -1: none */
bool tokenizer_adds_bos(const ak42_tokenizer *tokenizer);

/* ak42_encode and ak42_decode, arguments checked. */
ak42_status tokenizer_encode(const ak42_tokenizer *tokenizer, const char *text, size_t size, uint32_t flags,
                             int32_t *ids, size_t n_max, size_t *n_ids, ak42_error *err);
ak42_status tokenizer_decode(const ak42_tokenizer *tokenizer, const int32_t *ids, size_t n_ids, uint32_t flags,
                             char *text, size_t size_max, size_t *size, ak42_error *err);

#endif

/* kernels.h: the one table through which the CPU computes: per weight type a tile multiply and its activation format, per cache
 * type a store and an attention chunk, and the vector steps. k_generic.c fills every slot and is the definition; an ISA file
 * replaces some slots of it; kernels.c fills the table upward. A kernel has no threads, no allocation and no dispatch inside.
 *
 * Bits: each kernel computes every output element in one fixed order (columns ascending, blocks ascending, positions ascending)
 * that depends neither on how many tokens or panels share the call nor on the thread. So logits are bitwise the same for any
 * number of threads, any chunking of a prompt and any batch. Between ISAs only the rounding of float sums may differ. */
#ifndef AK42_KERNELS_H
#define AK42_KERNELS_H

#include "../core/types.h"

/* ---- activations ---- */

/* The packed form of a tile of w <= nr tokens, columns padded with zeros to SUPER_K (k_pad):
 * F32   for k in 0..k_pad-1: f32 x[w]
 * BF16  for k-pair in 0..k_pad/2-1: w times two bf16 (rounded to nearest even), the lower k first
 * Q8    for block of 32 k: i8 q[w][32]; f32 d[w]; i32 s[w]     with d = max|x|/127, q = round-to-nearest-even(x / d) computed
 *       as x * (127/max|x|), s = sum of q; an all-zero block, or one so small that 127/max|x| overflows, has d = 0, q = 0; one
 *       with a NaN or an infinity has d = NaN, so that the products show it
 * Q8_SUPER   columns padded to SUPER_K_MAX; for superblock of 256 k, of which the blocks share d: for block of 32 k: i8 q[w][32];
 *       i32 start[2][w], SUPER_START - 128 times the sum of q of 16 k; behind the blocks f32 d[w] and pairs of i16 sums, the first in
 *       the low half: [8][w] of 16 k, pair p of the sums p / 2 * 4 + p % 2 and the next but one, and [4][w] of 32 k alike
 * Tiles follow one another: tile i starts at i * nr * act_token_bytes(kind, columns), is 64-byte aligned only for i = 0. */
typedef enum act_kind { ACT_F32, ACT_BF16, ACT_Q8, ACT_Q8_SUPER, ACT_COUNT } act_kind;
enum { ACT_BLOCK = 32, ACT_Q8_BLOCK_BYTES = 40, TILE_TOKENS_MAX = 16 };
/* Of Q8_SUPER, bytes for one token: of a block, up to where d and the pairs lie, and all. SUPER_START is 1.5 * 2^23 as the bits of a
 * float. */
enum {
    SUPER_START = 0x4b400000, ACT_SUPER_BLOCK_BYTES = ACT_BLOCK + 2 * 4, SUPER_D = 8 * ACT_SUPER_BLOCK_BYTES, SUPER_PAIRS_16 = SUPER_D + 4,
    SUPER_PAIRS_32 = SUPER_PAIRS_16 + 32, ACT_SUPER_BYTES = SUPER_PAIRS_32 + 16
};
static inline bool act_is_q8(act_kind kind) { return kind == ACT_Q8 || kind == ACT_Q8_SUPER; }
static inline size_t act_token_bytes(act_kind kind, uint32_t columns) {
    size_t k_pad = round_up(columns, SUPER_K);
    if (kind == ACT_Q8_SUPER) return round_up(columns, SUPER_K_MAX) / SUPER_K_MAX * ACT_SUPER_BYTES;
    return kind == ACT_F32 ? k_pad * 4 : kind == ACT_BF16 ? k_pad * 2 : k_pad / ACT_BLOCK * ACT_Q8_BLOCK_BYTES;
}

/* An activation that is too large for its block: it counts as zero in Q8 and Q8_SUPER tiles, and its products are added in f32 (outliers.h). */
enum { OUTLIERS = 2 };
typedef struct outlier {
    uint32_t column;
    float value;
} outlier;

/* Packs one tile: x is (n_tokens, ldx) of which columns are used. Q8 and Q8_SUPER also fill lists, (n_tokens, OUTLIERS), columns
 * ascending, both the same; the other kinds leave it. */
typedef void kernel_pack(uint8_t *act, outlier *lists, const float *x, size_t ldx, uint32_t n_tokens, uint32_t columns);

/* ---- matrices ---- */

/* One tile of a matrix product on panel16 weights:
 *     out[t * ldo + r] (+)= sum over k of weight[r][k] * x[t][k]        t < n_tokens <= nr, r < 16 * n_panels
 * Each panel has n_super superblocks and is panel_bytes apart from the next. With accumulate the complete sum is added to what out
 * held, once. A product may be cut along k: the sums of the first part are the start of the second, with the same bits as uncut.
 * Any n_panels and n_tokens give the same bits for the same (r, t). Panels are at least 64-byte aligned; out is 64-byte aligned
 * only where ldo and the row are. Rows past a matrix's end in its last panel are computed (they give 0). */
typedef struct gemm_args {
    float *out;                    /* (n_tokens, ldo) */
    size_t ldo;
    const uint8_t *panels;
    size_t panel_bytes;
    uint32_t n_panels;
    const uint8_t *act;            /* one packed tile */
    uint32_t n_tokens;
    uint32_t n_super;              /* superblocks of 64 columns */
    uint32_t super_bytes;          /* of one superblock of panels */
    uint32_t group_size;           /* INT8 only: 4, 8, 16, 32 or 64 */
    const float *start;            /* (n_tokens, ld_start): what the sums go on from; NULL: zeros. May be out. */
    size_t ld_start;
    bool accumulate;
    const uint8_t *next;           /* the panels that the thread reads after these, to ask for them in time; NULL: what lies behind */
    size_t next_panel_bytes;
    bool foreseen;                 /* the processor asks for the panels' lines by itself; kernels do not */
} gemm_args;
/* From the end of panel p of the np that are read together from `panel` on to where p's place among the next np is. */
static inline size_t gemm_jump(const gemm_args *a, uint32_t panel, uint32_t np, uint32_t p) {
    if (!a->next || panel + np < a->n_panels) return (np - 1) * a->panel_bytes;
    return (size_t)((uintptr_t)a->next + p * a->next_panel_bytes - (uintptr_t)a->panels - (panel + p + 1) * a->panel_bytes);
}
typedef void kernel_gemm(const gemm_args *args);

/* The products of a tile's outliers. */
typedef struct outliers_args {
    float *out;                    /* (n_tokens, ldo) */
    size_t ldo;
    const uint8_t *panels;         /* panel16; unpacked for type_kernels.outliers_wide */
    size_t panel_bytes;
    uint32_t n_panels;
    const outlier *lists;          /* (n_tokens, OUTLIERS), columns ascending */
    uint32_t n_tokens;
    uint32_t group_size;           /* INT8 only */
} outliers_args;
/* out[t * ldo + r] += sum over the token's outliers of weight[r][column] * value, as one sum. */
typedef void kernel_outliers(const outliers_args *args);

/* Rewrites one panel into a wider form that suits many tokens; dst is 64-byte aligned. */
typedef void kernel_unpack(uint8_t *dst, const uint8_t *panel, uint32_t n_super, uint32_t group_size);

typedef struct type_kernels {
    act_kind act;                  /* the activations that gemm and gemm_wide read */
    uint32_t nr;                   /* tokens of a full tile; <= TILE_TOKENS_MAX */
    kernel_gemm *gemm;
    kernel_unpack *unpack;         /* NULL: gemm serves any number of tokens */
    kernel_gemm *gemm_wide;        /* on unpacked panels; bitwise the same results as gemm */
    kernel_outliers *outliers_wide;          /* the same of kernel_table.outliers; NULL: panel16 serves as well */
    uint32_t wide_super_bytes;     /* bytes of an unpacked superblock */
    uint32_t wide_from;            /* rows from which unpacking pays; 0: more than nr */
    bool in_order;                 /* one token's gemm reads a panel's lines nearly as they lie, so that they may be foreseen */
} type_kernels;

/* Encodes n weights to the blocks of a type whose scales are searched for (Q2_K to Q6_K, IQ4_NL, IQ4_XS); false of another type. The
 * same bytes on every ISA. */
typedef bool kernel_encode(const type_info *type, uint8_t *blocks, const float *src, uint64_t n);

/* Rows of type_kernels: the panel16 types. */
enum {
    KERNEL_F32, KERNEL_F16, KERNEL_BF16, KERNEL_Q8_0, KERNEL_INT8, KERNEL_Q4_0, KERNEL_Q4_1,
    KERNEL_Q5_0, KERNEL_Q5_1, KERNEL_Q2_K, KERNEL_Q3_K, KERNEL_Q4_K, KERNEL_Q5_K, KERNEL_Q6_K, KERNEL_IQ4_NL, KERNEL_IQ4_XS, KERNEL_MXFP4,
    KERNEL_NF4, KERNEL_TYPES
};
int kernel_type_row(uint32_t type_id);      /* that of the type in memory; -1 where a type has no row */
uint32_t kernel_row_type(uint32_t row);     /* the type id of a row */

/* ---- attention ---- */

/* The cache of one (layer, kv head), n_ctx positions, all arrays 64-byte aligned. head_dim is even; hd4 = head_dim rounded up to 4.
 *        k                                                     v                  scales
 * F32    f32 [pos/16][head_dim][16]                            f32 [pos][hd]      -
 * F16    f16 [pos/16][head_dim/2][16][2]                       f16 [pos][hd]      -
 * BF16   bf16, as F16
 * INT8   u8 = q + 128 [pos/16][hd4/4][16][4]                   i8 [pos][hd]       f32 k_scale[pos], v_scale[pos] = max|x|/127
 * k of the last group of 16 positions is partly unwritten; kernels must not let it reach a result. */
typedef struct kv_head {
    uint8_t *k, *v;
    float *k_scale, *v_scale;
} kv_head;

/* ATTN_ROWS_MAX rows are whole tiles of 12 and of 6, which AVX-512 has. */
enum { KV_BLOCK = 16, ATTN_CHUNK = 256, ATTN_ROWS_MAX = 48 };

/* Writes one position: k and v are (head_dim). */
typedef void kernel_kv_store(const kv_head *kv, uint32_t position, const float *k, const float *v, uint32_t head_dim);

/* Softmax attention of up to ATTN_ROWS_MAX query rows over one chunk of positions, [chunk, chunk + ATTN_CHUNK), not yet divided:
 * row i sees the positions p with begin[i] <= p < end[i] (absolute) that lie in the chunk; score = q[i] . k[p] (q is already
 * scaled), capped to softcap * tanh(score / softcap) where softcap > 0;
 *     m[i] = max score (-INFINITY where the row sees none), l[i] = sum of exp(score - m), o[i] = sum of exp(score - m) * v[p].
 * A row's result does not depend on the rows beside it. For a BF16 cache a kernel may round q to bf16. */
typedef struct attn_args {
    float *m, *l;                  /* (n_rows) */
    float *o;                      /* (n_rows, head_dim) */
    const float *const *q;         /* n_rows pointers to (head_dim) */
    const uint32_t *begin, *end;   /* (n_rows) */
    uint32_t n_rows, head_dim;
    uint32_t chunk;                /* a multiple of ATTN_CHUNK */
    const kv_head *kv;
    float softcap;
} attn_args;
typedef void kernel_attn(const attn_args *args);

/* Adds a chunk's (m, l, o) to a running (m, l, o), in place; chunks are merged in ascending order, onto the first.
 * Merging with m = -INFINITY, l = 0, o = 0 changes nothing. */
typedef void kernel_attn_merge(float *m, float *l, float *o, float m_chunk, float l_chunk, const float *o_chunk, uint32_t head_dim);

typedef struct kv_kernels {
    kernel_kv_store *store;
    kernel_attn *attn;
} kv_kernels;
enum { KV_TYPES = 5 };             /* indexed by ak42_kv_type; slot DEFAULT is empty */

/* ---- vectors ---- */

/* out = x / sqrt(mean(x^2) + eps) * weight      (RMSNorm, Zhang and Sennrich 2019) */
typedef void kernel_rmsnorm(float *out, const float *x, const float *weight, uint32_t n, float eps);
/* Rotates the first rotary_dim of each of n_heads heads in place by the angles whose cos and sin are given (rotary_dim / 2);
 * pairs as in ROPE_LAYOUT_*. */
typedef void kernel_rope(float *x, const float *cosine, const float *sine, uint32_t n_heads, uint32_t head_dim,
                         uint32_t rotary_dim, uint32_t rope_layout);
/* out = silu(gate) * up, elementwise; out may be gate. */
typedef void kernel_silu_mul(float *out, const float *gate, const float *up, uint32_t n);
/* gelu_mul, gelu_tanh_mul: the same of gelu(gate) = gate * Phi(gate), and of its approximation by
 * gate / (1 + exp(-2 sqrt(2/pi) (gate + 0.044715 gate^3))), which is 0.5 gate (1 + tanh(..)) (Hendrycks and Gimpel 2016). */
/* out = cap * tanh(x * factor / cap), elementwise; out may be x. cap 0: out = x * factor. */
typedef void kernel_cap(float *out, const float *x, float factor, float cap, uint32_t n);
/* out = x * factor. */
typedef void kernel_scale(float *out, const float *x, float factor, uint32_t n);

/* ---- peaks, for ak42_measure ---- */

/* Runs the instruction that the matrix kernels live on, n times over independent registers; returns the arithmetic operations done
 * (a multiply and an add are two). The result is written to sink so that nothing is removed. */
typedef double kernel_peak(uint64_t n, float *sink);
/* Sums size bytes (64-byte aligned, multiple of 4096). foreseen: as in gemm_args. */
typedef uint64_t kernel_read(const uint8_t *data, size_t size, bool foreseen);

typedef struct kernel_table {
    const char *isa;               /* "reference", "generic", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_vbmi",
                                    * "avx512_vnni_bf16", "neon", "neon_dot", "neon_i8mm" */
    ak42_kv_type kv_default;       /* of sessions on quantised or 16-bit weights */
    type_kernels types[KERNEL_TYPES];
    kernel_outliers *outliers[KERNEL_TYPES];            /* of types whose activations are Q8 */
    kernel_pack *pack[ACT_COUNT];
    kernel_encode *encode;
    kv_kernels kv[KV_TYPES];
    kernel_attn_merge *attn_merge;
    kernel_rmsnorm *rmsnorm;
    kernel_rope *rope;
    kernel_silu_mul *silu_mul, *gelu_mul, *gelu_tanh_mul;
    kernel_cap *cap;
    kernel_scale *scale;
    kernel_read *read;
    bool foresees;                 /* cpu_features.foresees */
    kernel_peak *peak_f32, *peak_bf16, *peak_int8;      /* NULL where the ISA has no such instruction */
} kernel_table;

/* Whether the processor mostly asks for the panels of a product with n_rows rows better by itself (pace.h). */
static inline bool kernel_foreseen(const kernel_table *table, const type_kernels *type, uint32_t n_rows) {
    return n_rows == 1 && type->in_order && table->foresees;
}

/* Fills the table for an ISA by name (NULL or "auto": the best that this machine has). ARG for an unknown name, listing the known
 * ones; DEVICE for one that this machine lacks. "reference" is plain C with exact f32 activations and weights for every type;
 * "generic" is plain C with the activations that the fast kernels use. "avx512_vnni_bf16" is the best only where vdpbf16ps is faster
 * than vfmadd (AMD; not Intel), else "avx512_vbmi". */
ak42_status kernels_select(kernel_table *table, const char *isa, ak42_error *err);
/* Names of the ISAs built in, best last, separated by commas; static. */
const char *kernels_built(void);

/* Each ISA file's own step of the filling; called in ascending order. A build for another architecture has empty ones. */
void kernels_fill_reference(kernel_table *table);
void kernels_fill_generic(kernel_table *table);
void kernels_fill_avx2(kernel_table *table);
void kernels_fill_avx2_vnni(kernel_table *table);
void kernels_fill_avx512(kernel_table *table);          /* F, BW, DQ, VL */
void kernels_fill_avx512_vnni(kernel_table *table);
void kernels_fill_avx512_vbmi(kernel_table *table);     /* VNNI, too */
void kernels_fill_avx512_vnni_bf16(kernel_table *table);
void kernels_fill_neon(kernel_table *table);
void kernels_fill_neon_dot(kernel_table *table);
void kernels_fill_neon_i8mm(kernel_table *table);

#endif

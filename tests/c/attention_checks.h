/* attention_checks.h: the checks of the KV cache kernels: what is stored, and attention against sums in
 * double, each row together with others and alone. Included by check_kernels.c. */
#ifndef AK42_ATTENTION_CHECKS_H
#define AK42_ATTENTION_CHECKS_H

#include "kernel_checks.h"

/* A cache of n_positions, in memory of the exact size, filled with bytes that are NaN in every type before
 * anything is written. */
typedef struct cache {
    ak42_kv_type type;
    uint32_t n_positions, head_dim;
    guarded k, v, k_scale, v_scale;
    kv_head head;
} cache;

static cache cache_new(ak42_kv_type type, uint32_t n_positions, uint32_t head_dim) {
    const size_t element = type == AK42_KV_TYPE_F32 ? 4 : type == AK42_KV_TYPE_INT8 ? 1 : 2;
    const size_t k_dim = type == AK42_KV_TYPE_INT8 ? up(head_dim, 4) : head_dim;
    cache c = {.type = type, .n_positions = n_positions, .head_dim = head_dim};
    c.k = guarded_new(up(n_positions, 16) * k_dim * element);
    c.v = guarded_new(n_positions * head_dim * element);
    c.k_scale = guarded_new(n_positions * 4);
    c.v_scale = guarded_new(n_positions * 4);
    memset(c.k.data, 0xff, up(n_positions, 16) * k_dim * element);
    memset(c.v.data, 0xff, n_positions * head_dim * element);
    memset(c.k_scale.data, 0xff, n_positions * 4);
    memset(c.v_scale.data, 0xff, n_positions * 4);
    c.head = (kv_head){c.k.data, c.v.data, (float *)(void *)c.k_scale.data, (float *)(void *)c.v_scale.data};
    return c;
}
static void cache_free(cache *c) {
    guarded_free(&c->k);
    guarded_free(&c->v);
    guarded_free(&c->k_scale);
    guarded_free(&c->v_scale);
}
static bool cache_whole(const cache *c) {
    return guarded_whole(&c->k) && guarded_whole(&c->v) && guarded_whole(&c->k_scale) &&
        guarded_whole(&c->v_scale);
}

static double key_at(const cache *c, uint32_t p, uint32_t d) {
    const size_t group = p / 16, hd = c->head_dim, lane = p % 16;
    switch (c->type) {
        case AK42_KV_TYPE_F32: return float_at(c->k.data, (group * hd + d) * 16 + lane);
        case AK42_KV_TYPE_F16: return half_at(c->k.data,
                                              ((group * (hd / 2) + d / 2) * 16 + lane) * 2 + d % 2);
        case AK42_KV_TYPE_BF16: return bf16_at(c->k.data,
                                               ((group * (hd / 2) + d / 2) * 16 + lane) * 2 + d % 2);
        default: return (double)c->head.k_scale[p] * (c->k.data[((group * (up(hd, 4) / 4) + d / 4) * 16 +
                                                                 lane) * 4 + d % 4] - 128);
    }
}
static double value_at(const cache *c, uint32_t p, uint32_t d) {
    const size_t i = (size_t)p * c->head_dim + d;
    switch (c->type) {
        case AK42_KV_TYPE_F32: return float_at(c->v.data, i);
        case AK42_KV_TYPE_F16: return half_at(c->v.data, i);
        case AK42_KV_TYPE_BF16: return bf16_at(c->v.data, i);
        default: return (double)c->head.v_scale[p] * (int8_t)c->v.data[i];
    }
}

/* Stores the same rows with both tables: the same bytes. */
static void check_store(const kernel_table *table, const kernel_table *generic, ak42_kv_type type,
                        uint32_t head_dim) {
    cache mine = cache_new(type, 40, head_dim), theirs = cache_new(type, 40, head_dim);
    guarded k = guarded_new(head_dim * 4), v = guarded_new(head_dim * 4);
    for (uint32_t i = 0; i < 30; i++) {
        for (uint32_t d = 0; d < head_dim; d++) {
            put_float(k.data, d, i == 3 ? 0.0f : i == 4 ? 1e-39f : rng_value());
            put_float(v.data, d, i == 5 ? 0.0f : i == 6 ? 70000.0f * rng_float() : rng_value());
        }
        const uint32_t p = rng_below(40);
        table->kv[type].store(&mine.head, p, (float *)(void *)k.data, (float *)(void *)v.data, head_dim);
        generic->kv[type].store(&theirs.head, p, (float *)(void *)k.data, (float *)(void *)v.data, head_dim);
    }
    check(guarded_same(&mine.k, &theirs.k) && guarded_same(&mine.v, &theirs.v) &&
          guarded_same(&mine.k_scale, &theirs.k_scale) &&
              guarded_same(&mine.v_scale, &theirs.v_scale),
          table->isa, "store (type, head_dim)", type, head_dim, 0, 0);
    guarded_free(&k);
    guarded_free(&v);
    cache_free(&mine);
    cache_free(&theirs);
}

typedef struct attn_problem {
    cache cache;
    uint32_t n_rows, chunk, begin[ATTN_ROWS_MAX], end[ATTN_ROWS_MAX];
    float softcap;
    guarded q_rows[ATTN_ROWS_MAX];
    const float *q[ATTN_ROWS_MAX];
} attn_problem;

/* Row i against doubles. With BF16 keys a kernel may round q to bf16: then it must be right for the
 * rounded one. */
static bool attn_row_right(const attn_problem *p, uint32_t i, float m, float l, const float *o,
                           bool rounded) {
    const uint32_t hd = p->cache.head_dim, begin = p->begin[i] > p->chunk ? p->begin[i] : p->chunk;
    const uint32_t end = p->end[i] < p->chunk + ATTN_CHUNK ? p->end[i] : p->chunk + ATTN_CHUNK;
    double score[ATTN_CHUNK], max = -INFINITY, sum = 0, size = 1;
    for (uint32_t at = begin; at < end; at++) {
        double dot = 0, dot_size = 0;
        for (uint32_t d = 0; d < hd; d++) {
            const double q = rounded ? bf16_to_f32(f32_to_bf16(p->q[i][d])) : p->q[i][d],
                product = q * key_at(&p->cache, at, d);
            dot += product;
            dot_size += fabs(product);
        }
        if (dot_size > size) size = dot_size;
        if (p->softcap > 0) dot = p->softcap * tanh(dot / p->softcap);
        score[at - begin] = dot;
        if (dot > max) max = dot;
    }
    if (begin >= end) {
        for (uint32_t d = 0; d < hd; d++)
            if (o[d] != 0) return false;
        return m == -INFINITY && l == 0;
    }
    const double tolerance = 3e-6 * size + 1e-6;       /* chains of head_dim products */
    if (!(fabs(m - max) <= tolerance)) return false;
    for (uint32_t at = begin; at < end; at++) sum += exp(score[at - begin] - m);
    if (!(fabs(l - sum) <= 2 * tolerance * sum)) return false;
    for (uint32_t d = 0; d < hd; d++) {
        double value = 0, value_size = 0;
        for (uint32_t at = begin; at < end; at++) {
            const double product = exp(score[at - begin] - m) * value_at(&p->cache, at, d);
            value += product;
            value_size += fabs(product);
        }
        if (!(fabs(o[d] - value) <= 2 * tolerance * value_size + 1e-30)) return false;
    }
    return true;
}

static void attn_run(const kernel_table *table, const attn_problem *p, uint32_t first, uint32_t n, guarded *m,
                     guarded *l, guarded *o) {
    *m = guarded_new(n * 4);
    *l = guarded_new(n * 4);
    *o = guarded_new((size_t)n * p->cache.head_dim * 4);
    table->kv[p->cache.type].attn(&(attn_args){
        .m = (float *)(void *)m->data, .l = (float *)(void *)l->data, .o = (float *)(void *)o->data,
            .q = p->q + first,
        .begin = p->begin + first, .end = p->end + first, .n_rows = n, .head_dim = p->cache.head_dim,
            .chunk = p->chunk,
        .kv = &p->cache.head, .softcap = p->softcap});
    check(guarded_whole(m) && guarded_whole(l) && guarded_whole(o), table->isa,
          "attn writes outside (type, head_dim, rows)", p->cache.type, p->cache.head_dim, n, 0);
}
static void attn_free(guarded *m, guarded *l, guarded *o) {
    guarded_free(m);
    guarded_free(l);
    guarded_free(o);
}

/* All rows together: right, and the same bits as each row alone. */
static void check_attn_problem(const kernel_table *table, const attn_problem *p) {
    guarded m, l, o, m1, l1, o1;
    const size_t o_bytes = (size_t)p->cache.head_dim * 4;
    attn_run(table, p, 0, p->n_rows, &m, &l, &o);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        const float *o_row = (const float *)(const void *)(o.data + i * o_bytes);
        bool right = attn_row_right(p, i, float_at(m.data, i), float_at(l.data, i), o_row, false);
        if (!right && p->cache.type == AK42_KV_TYPE_BF16)
            right = attn_row_right(p, i, float_at(m.data, i), float_at(l.data, i), o_row, true);
        check(right, table->isa, "attn against double (type, head_dim, rows, row)", p->cache.type,
              p->cache.head_dim, p->n_rows, i);
        attn_run(table, p, i, 1, &m1, &l1, &o1);
        check(memcmp(m.data + i * 4, m1.data, 4) == 0 && memcmp(l.data + i * 4, l1.data, 4) == 0 &&
                  memcmp(o.data + i * o_bytes, o1.data, o_bytes) == 0,
              table->isa, "attn row alone (type, head_dim, rows, row)", p->cache.type, p->cache.head_dim,
                  p->n_rows, i);
        attn_free(&m1, &l1, &o1);
    }
    attn_free(&m, &l, &o);
}

static void check_attn(const kernel_table *table, const kernel_table *generic, ak42_kv_type type,
                       uint32_t head_dim, uint32_t n_rows, uint32_t style) {
    const uint32_t n_positions = style == 0 ? 1 + rng_below(60) : 300 + rng_below(300);
    attn_problem p = {.cache = cache_new(type, n_positions, head_dim), .n_rows = n_rows,
                      .softcap = style == 3 ? 20.0f : 0.0f};
    p.chunk = style == 0 ? 0 : rng_below(n_positions / ATTN_CHUNK + 1) * ATTN_CHUNK;
    guarded k = guarded_new(head_dim * 4), v = guarded_new(head_dim * 4);
    const uint32_t written = n_positions - rng_below(n_positions < 20 ? n_positions : 20);
    for (uint32_t at = 0; at < written; at++) {
        for (uint32_t d = 0; d < head_dim; d++) {
            put_float(k.data, d, rng_value());
            put_float(v.data, d, rng_value());
        }
        generic->kv[type].store(&p.cache.head, at, (float *)(void *)k.data, (float *)(void *)v.data,
                                head_dim);
    }
    guarded_free(&k);
    guarded_free(&v);
    for (uint32_t i = 0; i < n_rows; i++) {
        p.q_rows[i] = guarded_new(head_dim * 4);
        for (uint32_t d = 0; d < head_dim; d++)
            put_float(p.q_rows[i].data, d, rng_value() / sqrtf((float)head_dim));
        p.q[i] = (const float *)(const void *)p.q_rows[i].data;
        const uint32_t causal = written < n_rows / 3 ? rng_below(written + 1) : written - n_rows / 3 + i / 3;
        p.end[i] = style < 2 || rng_below(4) ? (causal < written ? causal : written) : rng_below(written + 1);
        p.begin[i] = style == 2 ? rng_below(written + 1) : style == 1 && p.end[i] > 70 ? p.end[i] - 70 : 0;
    }
    check_attn_problem(table, &p);
    check(cache_whole(&p.cache), table->isa, "attn leaves the cache", type, head_dim, 0, 0);
    for (uint32_t i = 0; i < n_rows; i++) guarded_free(&p.q_rows[i]);
    cache_free(&p.cache);
}

static void check_attention(const kernel_table *table, const kernel_table *generic, ak42_kv_type type) {
    static const uint32_t head_dims[] = {64, 128, 2, 6, 16, 30, 32, 48, 80, 96, 100, 130, 256, 264};
    for (uint32_t i = 0; i < ARRAY_LEN(head_dims); i++) {
        check_store(table, generic, type, head_dims[i]);
        for (uint32_t style = 0; style < 4; style++)
            check_attn(table, generic, type, head_dims[i], 1 + rng_below(ATTN_ROWS_MAX), style);
    }
    for (uint32_t n_rows = 1; n_rows <= ATTN_ROWS_MAX; n_rows++) check_attn(table, generic, type, 16, n_rows, n_rows % 4);
}

#endif

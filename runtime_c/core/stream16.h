/* stream16.h: panel16 with the lines of a superblock (64 bytes: word w of 16 rows) in the order in which a product with one token reads
 * them: scales first, and behind them what is taken together. For the types whose blocks keep their bytes, of which panel16 has the
 * scales last or codes of the same columns far apart; all others are read as they lie. A processor that asks for memory by what was
 * read before foresees only what is read in order (docs/performance.md). Here is where the line of word w of panel16 stands
 * (docs/format.md), w counting the words of a block. Read by panel_words.c and by the kernels. */
#ifndef AK42_STREAM16_H
#define AK42_STREAM16_H

/* 0..3 d, dmin and scales, 4..11 fifth bits, 12..43 codes, 8 for two blocks of 32 */
static inline int stream16_q5_k(int w) { return w < 4 || w >= 20 ? w : w < 12 ? 4 + 2 * (w - 4) : 5 + 2 * (w - 12); }
/* 0..31 low nibbles, 8 for blocks of 32 of one parity in a half; 32..47 high bits, 8 for a half; 48..51 scales, 52 d */
static inline int stream16_q6_k(int w) {
    if (w >= 48) return w == 52 ? 0 : w - 47;
    return w >= 32 ? 5 + 24 * ((w - 32) / 8) + 3 * (w % 8) + 2 : 5 + 24 * (w / 16) + 3 * (w % 8) + w / 8 % 2;
}
/* 0, 1 d and scales, then 4 for each block of 32 */
static inline int stream16_iq4_xs(int w) { return w < 2 ? w : 2 + (w - 2) / 8 * 8 + (w - 2) % 4 * 2 + (w - 2) / 4 % 2; }

#endif

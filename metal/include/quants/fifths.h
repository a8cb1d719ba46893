// Q5_0 and Q5_1: a word of all fifth bits of the 32 weights, in their order, and words of eight nibbles as in Q4_0. A type
// defines `high` (that word of each lane's, or a lane's, block), `word` and `words` as for nibbles.h, before it includes this.
#define CODES 5
#define OFFSET 1

inline eight_bytes load_bytes(weights w, vlane lane, int n) {
    nibble_word t = word(w, lane, n);
    vuint bits = high(w, lane, n), at = vuint(vint(lane) % 4 * 4);
    eight_bytes e;
    e.a = (t.w & 0x0f0f0f0fu) | bits_to_bytes(bits, at);
    e.b = (t.w >> 4 & 0x0f0f0f0fu) | bits_to_bytes(bits, at + 16u);
    e.scale = t.scale;
    e.offset = t.offset;
    return e;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    nibble_block t = words(w, row, k, K);
    vuint bits = high(w, row, k, K);
    codes32 c;
    put4(c, 0, masked(t.w, 0, 0x0f0f0f0fu));
    put4(c, 4, masked(t.w, 4, 0x0f0f0f0fu));
    UNROLL for (int j = 0; j < 8; ++j) c.c[j] = c.c[j] | bits_to_bytes(bits, vuint(4 * j));
    return scaled(c, t.scale, t.offset);
}
#include "quants/bytes.h"

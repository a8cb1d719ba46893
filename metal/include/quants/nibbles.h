// Types whose words of eight nibbles stand for weights as in Q4_0: the low half of byte i for weight i of a block of 32, the
// high one for i + 16. A type defines
//   nibble_word word(w, lane, n)         each lane's word, with its scale and offset
//   nibble_block words(w, row, k, K)     a lane's block
// before it includes this. Floats: codes stay where they are in the word, and x is divided by that power of two.
#define UNIT(i) ((i) == 7 ? 1.0f : float(1u << ((i) % 4 * 8 + (i) / 4 * 4)))
#define CODES 4
#define OFFSET 1

inline chunk nibbles(vuint w) {
    chunk q;
    UNROLL for (int i = 0; i < 7; ++i) q.c[i] = number(w & (15u << (i % 4 * 8 + i / 4 * 4)));
    q.c[7] = number(w >> 28);
    return q;
}
inline chunk load(weights w, vlane lane, int n) {
    nibble_word t = word(w, lane, n);
    chunk q = nibbles(t.w);
    q.scale = t.scale;
    q.offset = t.offset;
    return q;
}
inline eight_bytes load_bytes(weights w, vlane lane, int n) {
    nibble_word t = word(w, lane, n);
    eight_bytes e;
    e.a = t.w & 0x0f0f0f0fu;
    e.b = t.w >> 4 & 0x0f0f0f0fu;
    e.scale = t.scale;
    e.offset = t.offset;
    return e;
}
inline void decode_word(thread block& b, int j, vuint w, vfloat scale, vfloat offset) {
    chunk q = nibbles(w);
    UNROLL for (int i = 0; i < 8; ++i) b.v[4 * j + i % 4 + i / 4 * 16] = q.c[i] * (scale * (1.0f / UNIT(i))) + offset;
}
inline block decode(weights w, vint row, int k, int K) {
    nibble_block t = words(w, row, k, K);
    block b;
    decode_word(b, 0, t.w.x, t.scale, t.offset);
    decode_word(b, 1, t.w.y, t.scale, t.offset);
    decode_word(b, 2, t.w.z, t.scale, t.offset);
    decode_word(b, 3, t.w.w, t.scale, t.offset);
    return b;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    nibble_block t = words(w, row, k, K);
    codes32 c;
    put4(c, 0, masked(t.w, 0, 0x0f0f0f0fu));
    put4(c, 4, masked(t.w, 4, 0x0f0f0f0fu));
    return scaled(c, t.scale, t.offset);
}

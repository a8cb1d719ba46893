// Types whose nibbles, placed as in Q4_0, stand for 16 constants: EACH_VALUE(V), these with a macro around each, of which ZERO
// makes bytes. `word` and `words` as for nibbles.h.
#define UNIT(i) 1.0f
#define OFFSET 0
#define AS_FLOAT(v) float(v)
#define AS_BYTE(v) v + ZERO
TABLE16(VALUES, EACH_VALUE(AS_FLOAT));
BYTES16(BYTE_VALUES, EACH_VALUE(AS_BYTE));

inline chunk from_values(vuint w) {
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = pick16(VALUES, w >> (i % 4 * 8 + i / 4 * 4));
    return q;
}
inline chunk load(weights w, vlane lane, int n) {
    nibble_word t = word(w, lane, n);
    chunk q = from_values(t.w);
    q.scale = t.scale;
    return q;
}
inline eight_bytes load_bytes(weights w, vlane lane, int n) {
    nibble_word t = word(w, lane, n);
    eight_bytes e;
    e.a = pick_bytes(BYTE_VALUES, t.w & 0x0f0f0f0fu);
    e.b = pick_bytes(BYTE_VALUES, t.w >> 4 & 0x0f0f0f0fu);
    e.scale = t.scale;
    return e;
}
inline void decode_word(thread block& b, int j, vuint w, vfloat scale) {
    chunk q = from_values(w);
    UNROLL for (int i = 0; i < 8; ++i) b.v[4 * j + i % 4 + i / 4 * 16] = q.c[i] * scale;
}
inline block decode(weights w, vint row, int k, int K) {
    nibble_block t = words(w, row, k, K);
    block b;
    decode_word(b, 0, t.w.x, t.scale);
    decode_word(b, 1, t.w.y, t.scale);
    decode_word(b, 2, t.w.z, t.scale);
    decode_word(b, 3, t.w.w, t.scale);
    return b;
}
inline codes32 codes(weights w, vint row, int k, int K) {
    nibble_block t = words(w, row, k, K);
    codes32 c;
    put4(c, 0, masked(t.w, 0, 0x0f0f0f0fu));
    put4(c, 4, masked(t.w, 4, 0x0f0f0f0fu));
    UNROLL for (int j = 0; j < 8; ++j) c.c[j] = pick_bytes(BYTE_VALUES, c.c[j]);
    return scaled(c, t.scale, t.scale * -float(ZERO));
}

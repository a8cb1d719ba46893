// For types with `load_bytes` and `codes` of up to 7 bits: floats of them. Codes stay where they are in their word, and x is
// divided by that power of two.
#define UNIT(i) float(1u << ((i) % 4 * 8))

inline chunk load(weights w, vlane lane, int n) {
    eight_bytes e = load_bytes(w, lane, n);
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = number((i < 4 ? e.a : e.b) & (255u << (i % 4 * 8)));
    q.scale = e.scale;
    q.offset = e.offset;
    return q;
}
inline block decode(weights w, vint row, int k, int K) {
    codes32 c = codes(w, row, k, K);
    block b;
    UNROLL for (int e = 0; e < 32; ++e)
        b.v[e] = number(c.c[e / 4] & (255u << (e % 4 * 8))) * (c.scale[e / 16] * (1.0f / UNIT(e))) + c.offset[e / 16];
    return b;
}

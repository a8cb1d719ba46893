// The IQ2 and IQ3 types: weights are magnitudes from a grid, times signs, times a scale. `grid` is an input: 16-bit entries
// of the numbers of 8 magnitudes (2 bits each; ENTRY 8) or of 4 (3 bits; ENTRY 4), the first lowest. VALUES are these
// magnitudes, over and over. A lane has the 8 weights of a set of signs. A type defines UNITS (of 16 bits, in a block) and
//   eight_codes codes(w, i, l)   of weights 8 l .. 8 l + 7 of the block at unit i; all may differ per lane
#define WEIGHT_PARAMS dptr<const ushort> w, dptr<const ushort> grid
#define WEIGHTS weights{w, grid}
#define OFFSET 0
#define UNIT(i) 1.0f
struct weights { dptr<const ushort> w, grid; };
struct eight_codes { vuint low, high, signs; vfloat scale; };             // numbers of grid entries (ENTRY 8: one, in low)

inline weights at(weights w, long row, int k, int K) {
    return weights{w.w + (row * (K / 256 * UNITS) + k / 256 * UNITS), w.grid};
}
inline vuint even(vuint s) {                                              // 7 signs, and the eighth that makes them even
    vuint p = s ^ s >> 4;
    p = p ^ p >> 2;
    return s | ((p ^ p >> 1) & 1u) << 7;
}
inline chunk from_grid(weights w, eight_codes e) {
    vuint low = ld(w.grid, vint(e.low)), high = low >> 8;
    int bits = 2;
#if ENTRY == 4
    high = ld(w.grid, vint(e.high));
    bits = 3;
#endif
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) {
        vfloat size = pick16(VALUES, (i < 4 ? low : high) >> (i % 4 * bits));
        q.c[i] = as_float(as_uint(size) ^ (e.signs << (31 - i) & 0x80000000u));
    }
    q.scale = e.scale;
    return q;
}

// The IQ2 and IQ3 types: weights are magnitudes from a grid, times signs, times a scale. `grid` is an input: words
// with the numbers of 8 magnitudes (ENTRY 8: i in the lower half of byte i, i + 4 in the upper one) or of 4 (ENTRY 4: a byte each). EACH_SIZE(V) are these
// magnitudes with a macro around each, 4 or 8; ZERO makes bytes of them, with either sign. A lane has the 8 weights of a set of
// signs. A type defines UNITS (of 16 bits, in a block) and
//   eight_codes codes(w, where)   of the 8 weights of a lane: a template, which reads by unit, pair, byte, factor and number_of
#define WEIGHT_PARAMS dptr<const ushort> w, dptr<const uint> grid
#define WEIGHTS weights{w, grid}
#define OFFSET 0
#define UNIT(i) 1.0f
#define AS_FLOAT(v) float(v)
#define ADDED(v) ZERO + v
#define TAKEN(v) ZERO - v
#if ENTRY == 4
TABLE16(VALUES, EACH_SIZE(AS_FLOAT), EACH_SIZE(AS_FLOAT));
BYTES16(BYTE_VALUES, EACH_SIZE(ADDED), EACH_SIZE(TAKEN));
#else
TABLE16(VALUES, EACH_SIZE(AS_FLOAT), EACH_SIZE(AS_FLOAT), EACH_SIZE(AS_FLOAT), EACH_SIZE(AS_FLOAT));
BYTES16(BYTE_VALUES, EACH_SIZE(ADDED), EACH_SIZE(TAKEN), EACH_SIZE(ADDED), EACH_SIZE(TAKEN));
#endif
struct weights { dptr<const ushort> w; dptr<const uint> grid; };
struct eight_codes { vuint low, high, signs; vfloat scale; };             // numbers of grid entries (ENTRY 8: one, in low)

// Where a lane's 8 weights are: in the block at w, its number the lane's; or each lane's own block, at unit i, and number l.
struct by_lane { vlane lane; };
struct by_row { vint i, l; };
inline vint number_of(by_lane b) { return vint(b.lane); }
inline vint number_of(by_row b) { return b.l; }
template <int N, int STRIDE> inline vuint unit(weights w, by_lane b, int from) { return vuint(ld(w.w, spread<N, STRIDE, 0>(b.lane) + from)); }
template <int N, int STRIDE> inline vuint unit(weights w, by_row b, int from) { return vuint(ld(w.w, b.i + b.l / N * STRIDE + from)); }
template <int N, int STRIDE> inline vuint pair(weights w, by_lane b, int from) { return ld_pair(w.w, spread<N, STRIDE, 0>(b.lane) + from, first(b.lane, 32)); }
template <int N, int STRIDE> inline vuint pair(weights w, by_row b, int from) { return ld_pair(w.w, b.i + b.l / N * STRIDE + from); }
inline vuint byte(weights w, by_lane b, int from) { return vuint(ld(dptr<const uchar>(w.w), b.lane + from)); }      // a lane's own
inline vuint byte(weights w, by_row b, int from) { return vuint(ld(dptr<const uchar>(w.w), b.i * 2 + b.l + from)); }
inline vfloat factor(weights w, by_lane b) { return vfloat(ld(dptr<const half>(w.w), spread<32, 0, 0>(b.lane) + 0)); }
inline vfloat factor(weights w, by_row b) { return vfloat(ld(dptr<const half>(w.w), b.i)); }

inline weights at(weights w, long row, int k, int K) {
    return weights{w.w + (row * (K / 256 * UNITS) + k / 256 * UNITS), w.grid};
}
inline vuint even(vuint s) {                                              // 7 signs, and the eighth that makes them even
    vuint p = s ^ s >> 4;
    p = p ^ p >> 2;
    return s | ((p ^ p >> 1) & 1u) << 7;
}
inline chunk from_grid(weights w, eight_codes e) {
    vuint low = ld(w.grid, vint(e.low)), high = low >> 4;
#if ENTRY == 4
    high = ld(w.grid, vint(e.high));
#endif
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) {
        vfloat size = pick16(VALUES, (i < 4 ? low : high) >> (i % 4 * 8));
        q.c[i] = as_float(as_uint(size) ^ (e.signs << (31 - i) & 0x80000000u));
    }
    q.scale = e.scale;
    return q;
}
// What four numbers, a byte each, stand for, with four of the bits `signs` from bit `from` on.
inline vuint with_signs(vuint w, vuint signs, int from) {
    return pick_bytes(BYTE_VALUES, w | bits_to_bytes(signs, vuint(uint(from))) >> (ENTRY == 4 ? 1 : 2));
}
inline eight_bytes bytes_from_grid(weights w, eight_codes c) {
    vuint low = ld(w.grid, vint(c.low));
    eight_bytes e;
#if ENTRY == 4
    e.a = with_signs(low, c.signs, 0);
    e.b = with_signs(ld(w.grid, vint(c.high)), c.signs, 4);
#else
    e.a = with_signs(low & 0x0f0f0f0fu, c.signs, 0);
    e.b = with_signs(low >> 4 & 0x0f0f0f0fu, c.signs, 4);
#endif
    e.scale = c.scale;
    e.offset = c.scale * -float(ZERO);
    return e;
}

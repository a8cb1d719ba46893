// V rotated, in codes of V_LLOYD (2 or 3) bits for Lloyd-Max levels of a unit normal, with a gain of a byte for each token:
// what q3 and q2 share. Groups of 16 codes are a word; of 32 codes of 3 bits three: two of lower two bits, one of upper ones.
#if V_LLOYD == 3
TABLE16(V_LEVELS, -2.151946f, -1.343909f, -0.7560053f, -0.2450942f, 0.2450942f, 0.7560053f, 1.343909f, 2.151946f,
        -2.151946f, -1.343909f, -0.7560053f, -0.2450942f, 0.2450942f, 0.7560053f, 1.343909f, 2.151946f);
inline vuint v_index(vuint low, vuint high, int j) { return (low >> (2 * (j % 16)) & 3u) | (high >> j & 1u) << 2; }
#define V_CODE(w, j) pick16(V_LEVELS, v_index((w)[(j) / 16], (w)[2], j))
#else
TABLE16(V_LEVELS, -1.510417f, -0.4527801f, 0.4527801f, 1.510417f, -1.510417f, -0.4527801f, 0.4527801f, 1.510417f,
        -1.510417f, -0.4527801f, 0.4527801f, 1.510417f, -1.510417f, -0.4527801f, 0.4527801f, 1.510417f);
#define V_CODE(w, j) pick16(V_LEVELS, (w)[0] >> (2 * (j)))
#endif
#ifdef K_CALIBRATED
// A sequence's first token is stored less what first tokens have. Adds f times that to a token of plain V, or of rotated.
#define V_FIRST
inline void v_first(thread token& x, dptr<const float> head, vlane lane, int rotated, float f) {
    UNROLL for (int c = 0; c < V_COLUMNS; ++c)
        UNROLL for (int j = 0; j < V_PER; ++j)
            x.v[c][j] += ld(head, spread<32, 0, V_PER>(lane) + (H_VALUE + rotated * DV + 32 * c * V_PER + j),
                            first(lane, V_UNITS - 32 * c)) * f;
}
#endif
#define AT_VG (AT_V + PAGE * V_UNITS * V_LOADS)
inline float v_gain(uint byte) {
    return byte == 0u ? 0.0f : byte == 255u ? NAN : exp2((float(byte) - 160.0f) * 0.125f);
}
#define V_VALUE(rec, code, t, j) ((code) * v_gain(uint(rec[AT_VG + (t) / 4]) >> (8 * ((t) % 4)) & 255u))
#define V_TOKEN vfloat
inline vfloat v_factors(dptr<const uint> rec, vlane lane, int t0) {
    vuint four = ld(rec, lane + (AT_VG + t0 / 4), first(lane, BLOCK / 4));
    vuint byte = simd_shuffle(four, vint(lane) / 4) >> vuint((vint(lane) & 3) * 8) & 255u;
    vfloat g = exp2((vfloat(byte) - 160.0f) * 0.125f);
    return select(select(g, vfloat(0.0f), byte == 0u), vfloat(NAN), byte == 255u);
}
inline vfloat v_scale(vfloat factors) { return factors; }

#ifdef SEALING
inline uint v_byte(float square, float product) {
    if (as_uint(square) >= 0x7f800000u) return 255u;      // by its bits: compilers may take it that there is no NaN
    if (square == 0.0f) return 0u;
    uint w = as_uint(square / product);
    float m = as_float((w & 0x7fffffu) | 0x3f800000u);
    int n = int(w >> 23) * 8 - 8 * 127 + 160;
    for (int i = 0; i < 8; ++i) n += m > exp2((float(i) + 0.5f) * 0.125f) ? 1 : 0;
    return uint(min(max(n, 1), 254));
}
inline vuint v_code(vfloat x) {
    vfloat a = abs(x);
    vint n = 0;
#if V_LLOYD == 3
    n = select(n, vint(1), a > 0.50054975f);
    n = select(n, vint(2), a > 1.04995715f);
    n = select(n, vint(3), a > 1.7479275f);
    return vuint(select(3 - n, n + 4, x > 0.0f));
#else
    n = select(n, vint(1), a > 0.98159855f);
    return vuint(select(1 - n, n + 2, x > 0.0f));
#endif
}
// Four tokens' gains share a word, which one SIMD-group writes: they come one after the other (see TOKEN_OF).
inline void encode_v(dptr<uint> rec, vlane lane, int t, thread token& x, thread uint& gains) {
    hadamard<V_STAGES>(x, lane);
    vfloat square = 0.0f, product = 0.0f;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) UNROLL for (int j = 0; j < V_PER; ++j) square += x.v[c][j] * x.v[c][j];
    float all = simd_sum(square), unit = all > 0.0f ? rsqrt(all / DV) : 0.0f;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
        vuint w[3];
        UNROLL for (int i = 0; i < 3; ++i) w[i] = 0u;
        UNROLL for (int j = 0; j < V_PER; ++j) {
            vuint code = v_code(x.v[c][j] * unit);
            product += x.v[c][j] * pick16(V_LEVELS, code);
            w[j / 16] |= (code & 3u) << (2 * (j % 16));
            if (V_LLOYD == 3) w[2] |= (code >> 2) << j;
        }
        vint unit_at = vint(lane) + (t * V_UNITS + 32 * c), at = unit_at / 32 * (32 * V_LOADS) + unit_at % 32;
        UNROLL for (int i = 0; i < V_LOADS; ++i) st(rec, at + (AT_V + 32 * i), w[i], first(lane, V_UNITS - 32 * c));
    }
    uint byte = v_byte(all, simd_sum(product));
    gains = t % 4 == 0 ? byte : gains | byte << (8 * (t % 4));
    if (t % 4 == 3) st(rec, lane + (AT_VG + t / 4), vuint(gains), first(lane, 1));
}
#endif

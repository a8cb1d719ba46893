// V rotated, in trellis codes (trellis.h) of V_LLOYD (2 or 3) bits, with a gain of a byte for each token: what q3 and q2 share.
// A group is 32 codes: a word of their lowest bits, the path, and one of the next, and so on.
#if V_LLOYD == 3
TABLE16(V_LEVELS, -2.48915f, -1.808395f, -1.3665f, -1.051457f, -0.778598f, -0.543486f, -0.315728f, -0.107797f,
        0.107797f, 0.315728f, 0.543486f, 0.778598f, 1.051457f, 1.3665f, 1.808395f, 2.48915f);
#define V_MORE(w, j) ((w)[1] >> (j) & 1u) << 2 | ((w)[2] >> (j) & 1u) << 3
#else
TABLE16(V_LEVELS, -1.86218f, -1.089838f, -0.611198f, -0.196668f, 0.196668f, 0.611198f, 1.089838f, 1.86218f,
        -1.86218f, -1.089838f, -0.611198f, -0.196668f, 0.196668f, 0.611198f, 1.089838f, 1.86218f);
#define V_MORE(w, j) ((w)[1] >> (j) & 1u) << 2
#endif
inline vuint v_subset(vuint u, int j) { return (u << 2 >> j & 1u) | ((u ^ u << 1 ^ u << 3) >> j & 1u) << 1; }
#define V_CODE(w, j) pick16(V_LEVELS, v_subset((w)[0], j) | V_MORE(w, j))
#ifdef K_CALIBRATED
// A token like sequences' first ones is stored less what these have. Adds f times that to a token of rotated V.
#define V_FIRST
inline bool is_like_first(dptr<const uint> rec, int t) { return ((uint(rec[AT_KG + t / 4]) >> (8 * (t % 4)) & 255u) - 1u) < 63u; }
inline void v_first(thread token& x, dptr<const float> head, vlane lane, float f) {
    UNROLL for (int c = 0; c < V_COLUMNS; ++c)
        UNROLL for (int j = 0; j < V_PER; ++j)
            x.v[c][j] += ld(head, spread<32, 0, V_PER>(lane) + (H_VALUE + DV + 32 * c * V_PER + j), first(lane, V_UNITS - 32 * c)) * f;
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
#define V_AT_ONCE (32 / V_UNITS / 4 * 4 < PAGE ? 32 / V_UNITS / 4 * 4 : PAGE)        // tokens: whole words of gains
#ifndef V_GIVEN
#define V_SEALERS (SGS < 2 ? SGS : 2)
#define V_SEAL_ROOM 2048                                  // floats of threadgroup memory of each, before 32 that they share
#endif
// Of each lane's token, the sum over its groups.
inline vfloat v_total(vfloat x, vlane lane) {
    vint from = vint(lane) / V_UNITS * V_UNITS;
    vfloat sum = 0.0f;
    UNROLL for (int i = 0; i < V_UNITS; ++i) sum += simd_shuffle(x, (from + vint(i)) & 31);
    return sum;
}
inline vuint v_byte(vfloat square, vfloat product) {
    vuint w = as_uint(square / product), n = (w >> 23) * 8u;
    vfloat m = as_float((w & 0x7fffffu) | 0x3f800000u);
    for (int i = 0; i < 8; ++i) n += select(vuint(0u), vuint(1u), m > exp2((float(i) + 0.5f) * 0.125f));
    vint byte = select(min(max(vint(n) - (8 * 127 - 160), vint(1)), vint(254)), vint(0), square == 0.0f);
    return vuint(select(byte, vint(255), (as_uint(square) & 0x7f800000u) == 0x7f800000u));       // NaN, too
}
// Levels where all can read them: before encode_v, with a barrier between.
inline void v_prepare(tptr<float> shared, vlane lane) {
    vfloat levels = pick16(V_LEVELS, vuint(vint(lane)));
    st(shared, lane, levels, first(lane, 32));
}
// Tokens t to t + V_AT_ONCE - 1, a group a lane, token after token. Where K is given, V_EXPECTED floats from `levels` on is what to take out.
inline void encode_v(thread const source& s, dptr<uint> rec, vlane lane, int t, tptr<float> levels, tptr<float> room) {
    const int lanes = V_AT_ONCE * V_UNITS;
    vint unit = vint(lane) % V_UNITS, row = ld(s.rows, vint(lane) / V_UNITS + t, first(lane, lanes));
    token x;
    UNROLL for (int j = 0; j < 32; ++j) x.v[0][j] = take_number(s, lane, row, unit * 32 + j, lanes);
#ifdef V_GIVEN
    vint number = vint(lane) / V_UNITS + t;
    vuint gains = ld(dptr<const uint>(rec), number / 4 + AT_KG, first(lane, lanes));
    vfloat like = like_first(gains >> vuint((number & 3) * 8) & 255u);
    if (simd_any(like > 0.0f)) {
        dptr<const float> head = head_of(s.tables, s.head);
        UNROLL for (int j = 0; j < 32; ++j) x.v[0][j] -= like * ld(head, unit * 32 + (H_VALUE + j), first(lane, lanes));
    }
    UNROLL for (int j = 0; j < 32; ++j) {
        vint at = V_PLACE(unit, j) * 32 + vint(lane) / V_UNITS + t % 32;
        x.v[0][j] -= ld(levels, at + V_EXPECTED, first(lane, lanes));
    }
#endif
    hadamard<V_STAGES>(x, lane);
    vfloat square = 0.0f, product = 0.0f;
    UNROLL for (int j = 0; j < 32; ++j) square += x.v[0][j] * x.v[0][j];
    square = v_total(square, lane);
    vfloat scale = select(vfloat(0.0f), 1.0f / sqrt(square / float(DV)), square > 0.0f);
    UNROLL for (int j = 0; j < 32; ++j) room[lane + 32 * j] = x.v[0][j];
    tptr<uint> kept = tptr<uint>(room + 1024);
    trellis path;
    trellis_start(path);
    for (int j = 0; j < 32; ++j) {
        vfloat own = room[lane + 32 * j];
        vuint step = trellis_step(path, own * scale, 1.0f, levels, 2 << V_LLOYD);
        st(kept, lane + 32 * j, step);
    }
    vuint state = trellis_end(path), w0 = 0u, w1 = 0u, w2 = 0u;
    for (int j = 31; j >= 0; --j) {
        vuint u = state & 1u, step = kept[lane + 32 * j], index = trellis_back(state, step);
        vfloat own = room[lane + 32 * j];
        product += own * pick16(V_LEVELS, index);
        w0 |= u << j;
        w1 |= (index >> 2 & 1u) << j;
        w2 |= (index >> 3) << j;
    }
    vuint words[3];
    words[0] = w0; words[1] = w1; words[2] = w2;
    vint at = vint(lane) + t * V_UNITS;
    at = at / 32 * (32 * V_LOADS) + at % 32;
    UNROLL for (int i = 0; i < V_LOADS; ++i) st(rec, at + (AT_V + 32 * i), words[i], first(lane, lanes));
    vuint byte = v_byte(square, v_total(product, lane)), four = 0u;
    UNROLL for (int i = 0; i < 4; ++i) four |= simd_shuffle(byte, (vint(lane) * 4 + vint(i)) * V_UNITS & 31) << (8 * i);
    st(rec, lane + (AT_VG + t / 4), four, first(lane, V_AT_ONCE / 4));
    SG_BARRIER;
}
#endif

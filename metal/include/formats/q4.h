// Page format q4: 4-bit codes of rotated K less its mean over the page, and of rotated V; a scale (fp16) for each token.
// A code stands for a Lloyd-Max level of a unit normal, nearly: a multiple of Q4_STEP. Record: K's codes [DK / 8][PAGE],
// scales [PAGE], the rotated mean [DK], and the same of the token that is farthest from it [DK]: an attention sink, where
// there is one. Its scale is -0; the mean is of the others. V's codes [PAGE / 8][DV], scales [PAGE]. Number j of a word
// lies in byte j % 4, the first four in the lower halves.
#define Q4_STEP 0.022168033f
TABLE16(Q4_LEVELS, -2.72666812f, -2.06162715f, -1.61826646f, -1.26357794f, -0.953225434f, -0.665041029f, -0.399024606f,
        -0.133008197f, 0.133008197f, 0.399024606f, 0.665041029f, 0.953225434f, 1.26357794f, 1.61826646f, 2.06162715f, 2.72666812f);
#define Q4_PLACE(j) (((j) & 3) * 8 + ((j) >> 2) * 4)
#ifdef K_Q4
#define AT_K 0
#define AT_KS (DK / 8 * PAGE)
#define AT_KM (AT_KS + PAGE / 2)
#define AT_KO (AT_KM + DK / 2)
#define K_CODE(w, j) pick16(Q4_LEVELS, (w)[0] >> Q4_PLACE(j))
#if K_INT8                                                // levels by Q4_STEP, and 128 more: they are unsigned
BYTES16(Q4_K_LEVELS, 5, 35, 55, 71, 85, 98, 110, 122, 134, 146, 158, 171, 185, 201, 221, 251);
#define K_BYTES(w, i) pick_bytes(Q4_K_LEVELS, (w)[0] >> (4 * (i)) & 0x0f0f0f0fu)
#define K_ZERO 128.0f
#define K_GRAIN Q4_STEP
#endif
#define K_TOKEN
inline vfloat k_scale(dptr<const uint> rec, vlane lane, int t0) {
    return vfloat(ld(halves(rec + AT_KS), lane + t0, first(lane, BLOCK)));
}
#define K_MEAN
inline vfloat k_mean(dptr<const uint> rec, vlane lane, int d) {
    return vfloat(ld(halves(rec + AT_KM), lane + d, first(lane, DK - d)));
}
#define K_OUTLIER
inline vfloat k_outlier(dptr<const uint> rec, vlane lane, int d) {
    return vfloat(ld(halves(rec + AT_KO), lane + d, first(lane, DK - d)));
}
inline vbool is_outlier(vfloat scale) { return as_uint(scale) == 0x80000000u; }
inline vfloat q4_value(dptr<const uint> rec, vfloat code, int d, vfloat unit) {
    float mean = float(halves(rec + AT_KM)[d]), far = float(halves(rec + AT_KO)[d]);
    return code * unit + mean + select(vfloat(0.0f), vfloat(far), is_outlier(unit));
}
#define K_VALUE(rec, code, d, j, unit) q4_value(rec, code, d, unit)
#endif
#ifdef V_Q4
#define AT_VS (AT_V + PAGE / 8 * DV)
#define V_CODE(w, j) pick16(Q4_LEVELS, (w)[0] >> Q4_PLACE(j))
#if V_INT8                                                // levels by Q4_STEP, signed
BYTES16(Q4_V_LEVELS, 133, 163, 183, 199, 213, 226, 238, 250, 6, 18, 30, 43, 57, 73, 93, 123);
#define V_BYTES(w, i) pick_bytes(Q4_V_LEVELS, (w)[0] >> (4 * (i)) & 0x0f0f0f0fu)
#define V_SIGNED 1
#define V_GRAIN Q4_STEP
#endif
#define V_VALUE(rec, code, t, j) ((code) * float(halves(rec + AT_VS)[t]))
#define V_TOKEN vfloat
inline vfloat v_factors(dptr<const uint> rec, vlane lane, int t0) {
    return vfloat(ld(halves(rec + AT_VS), lane + t0, first(lane, BLOCK)));
}
inline vfloat v_scale(vfloat factors) { return factors; }
#endif

#ifdef SEALING
// The code of a number: by how many of the midpoints between levels its size exceeds.
inline vint q4_code(vfloat x) {
    vfloat a = abs(x);
    vint n = 0;
    n = select(n, vint(1), a > 0.266016394f);
    n = select(n, vint(2), a > 0.532032788f);
    n = select(n, vint(3), a > 0.809133232f);
    n = select(n, vint(4), a > 1.10840166f);
    n = select(n, vint(5), a > 1.44092214f);
    n = select(n, vint(6), a > 1.83994675f);
    n = select(n, vint(7), a > 2.39414763f);
    return select(7 - n, n + 8, x >= 0.0f);
}
// What a vector is times before it is coded: its largest number comes a little beyond the last level. And the scale of the
// codes: <x, x> / <x, levels>.
inline float q4_unit(float square, float largest) { return square > 0.0f ? 2.9f / largest : 0.0f; }
inline float q4_scale(float square, float product) { return square == 0.0f ? 0.0f : square / product; }
#ifdef K_Q4
// Sums of channels over each SIMD-group's tokens; then the token farthest from their mean, which all look for; codes, gathered in threadgroup memory; then lines of them.
#define K_PHASES
#define K_COLUMNS ((DK + 31) / 32)
inline void k_first(thread const source& s, dptr<uint>, vlane lane, int sg, tptr<float> shared) {
    key sum;
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) sum.v[c][0] = 0.0f;
    for (int t = sg; t < PAGE; t += SGS) {
        dptr<const KVTYPE> from = take_token(s, t);
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) sum.v[c][0] += vfloat(ld(from, lane + 32 * c, first(lane, DK - 32 * c)));
    }
    UNROLL for (int c = 0; c < K_COLUMNS; ++c)
        st(shared, lane + (sg * DK + 32 * c), sum.v[c][0], first(lane, DK - 32 * c));
}
// A vector of a head as fp16 pairs.
inline void q4_halves(dptr<uint> to, thread const key& x, vlane lane) {
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        vint even = vint(lane) * 2 & 30;
        vuint w = half_pair(simd_shuffle(x.v[c][0], even), simd_shuffle(x.v[c][0], even + 1));
        st(to, lane + 16 * c, w, first(lane, DK / 2 - 16 * c < 16 ? DK / 2 - 16 * c : 16));
    }
}
inline void k_second(thread const source& s, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    key mean, sum;
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        sum.v[c][0] = 0.0f;
        for (int i = 0; i < SGS; ++i) sum.v[c][0] += ld(shared, lane + (i * DK + 32 * c), first(lane, DK - 32 * c));
    }
    int outlier = 0;
    float most = -1.0f;
    for (int t = 0; t < PAGE; ++t) {
        dptr<const KVTYPE> from = take_token(s, t);
        vfloat square = 0.0f;
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
            vfloat off = vfloat(ld(from, lane + 32 * c, first(lane, DK - 32 * c))) - sum.v[c][0] * (1.0f / PAGE);
            square += off * off;
        }
        float distance = simd_sum(square);
        if (distance > most) {
            most = distance;
            outlier = t;
        }
    }
    dptr<const KVTYPE> far = take_token(s, outlier);
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        vfloat x = vfloat(ld(far, lane + 32 * c, first(lane, DK - 32 * c)));
        mean.v[c][0] = (sum.v[c][0] - x) * (1.0f / (PAGE - 1));
    }
    hadamard<K_STAGES>(mean, lane);
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) mean.v[c][0] = half_lo(half_bits(mean.v[c][0]));
    if (sg == 0) q4_halves(rec + AT_KM, mean, lane);
    tptr<uint> words = tptr<uint>(shared + SGS * DK);
    for (int i = sg; i < PAGE; i += SGS) {
        int t = TOKEN_OF(i);
        dptr<const KVTYPE> from = take_token(s, t);
        key x;
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) x.v[c][0] = vfloat(ld(from, lane + 32 * c, first(lane, DK - 32 * c)));
        hadamard<K_STAGES>(x, lane);
        vfloat square = 0.0f, product = 0.0f, largest = 0.0f;
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
            x.v[c][0] = x.v[c][0] - mean.v[c][0];
            square += x.v[c][0] * x.v[c][0];
            largest = max(largest, abs(x.v[c][0]));
        }
        if (t == outlier) q4_halves(rec + AT_KO, x, lane);
        float all = simd_sum(square), unit = q4_unit(all, simd_max(largest));
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
            vint code = q4_code(x.v[c][0] * unit);
            product += x.v[c][0] * pick16(Q4_LEVELS, vuint(code));
            vuint w = vuint(code) << vuint(Q4_PLACE(vint(lane) & 7));
            w = w | simd_shuffle_xor(w, 1);
            w = w | simd_shuffle_xor(w, 2);
            w = w | simd_shuffle_xor(w, 4);
            st(words, (vint(lane) / 8 + 4 * c) * PAGE + t, w, (vint(lane) & 7) == 0 && vint(lane) < DK - 32 * c);
        }
        st(halves_to(rec + AT_KS), lane + t, vfloat(t == outlier ? -0.0f : q4_scale(all, simd_sum(product))), first(lane, 1));
    }
}
inline void k_third(thread const source&, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    tptr<const uint> words = tptr<const uint>(shared + SGS * DK);
    for (int i = sg * 32; i < DK / 8 * PAGE; i += SGS * 32) {
        vuint w = ld(words, lane + i, first(lane, DK / 8 * PAGE - i));
        st(rec, lane + (AT_K + i), w, first(lane, DK / 8 * PAGE - i));
    }
}
#endif
#ifdef V_Q4
// The codes of a token, in its numbers' place; its scale goes to the record.
inline void code_v(dptr<uint> rec, vlane lane, int t, thread token& x) {
    hadamard<V_STAGES>(x, lane);
    vfloat square = 0.0f, product = 0.0f, largest = 0.0f;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
        square += x.v[c][0] * x.v[c][0];
        largest = max(largest, abs(x.v[c][0]));
    }
    float all = simd_sum(square), unit = q4_unit(all, simd_max(largest));
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
        vint code = q4_code(x.v[c][0] * unit);
        product += x.v[c][0] * pick16(Q4_LEVELS, vuint(code));
        x.v[c][0] = vfloat(code);
    }
    st(halves_to(rec + AT_VS), lane + t, vfloat(q4_scale(all, simd_sum(product))), first(lane, 1));
}
inline void put_v(thread vuint (&w)[3], vuint code, int j) { w[0] |= code << uint(Q4_PLACE(j)); }
#endif
#endif

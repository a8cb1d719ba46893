// Page format q4: 4-bit codes of rotated K less its mean over the page, and of rotated V; a scale (fp16) for each token.
// A code stands for a Lloyd-Max level of a unit normal, nearly: a multiple of Q4_STEP. Record: K's codes [DK / 8][PAGE],
// scales [PAGE], the rotated mean [DK], and the same of the token that is farthest from it [DK]: an attention sink, where
// there is one. Its scale is -0; the mean is of the others. V's codes [PAGE / 8][DV], scales [PAGE]. Number j of a word
// lies in byte j % 4, the first four in the lower halves.
#define Q4_STEP 0.022168033f
TABLE16(Q4_LEVELS, -2.72666812f, -2.06162715f, -1.61826646f, -1.26357794f, -0.953225434f, -0.665041029f, -0.399024606f,
        -0.133008197f, 0.133008197f, 0.399024606f, 0.665041029f, 0.953225434f, 1.26357794f, 1.61826646f, 2.06162715f, 2.72666812f);
#define Q4_PEAK 2.9f                                      // where a vector's largest number is put among them
#if STAGED || V_INT8
BYTES16(Q4_GRAINS, 133, 163, 183, 199, 213, 226, 238, 250, 6, 18, 30, 43, 57, 73, 93, 123);       // levels by Q4_STEP, signed
#endif
#if STAGED                                                // scales then have Q4_STEP
inline vfloat q4_grain(vuint w, int j) {
    vuint four = pick_bytes(Q4_GRAINS, w >> (j / 4 * 4) & 0x0f0f0f0fu);
    return vfloat(vint(four << (24 - j % 4 * 8)) >> 24);
}
#endif
#define Q4_PLACE(j) (((j) & 3) * 8 + ((j) >> 2) * 4)
#ifdef K_Q4
#define AT_K 0
#define AT_KS (DK / 8 * PAGE)
#define AT_KM (AT_KS + PAGE / 2)
#define AT_KO (AT_KM + DK / 2)
#if STAGED && !K_INT8
#define K_CODE(w, j) q4_grain((w)[0], j)
#define K_STEPS Q4_STEP
#else
#define K_CODE(w, j) pick16(Q4_LEVELS, (w)[0] >> Q4_PLACE(j))
#define K_STEPS 1.0f
#endif
#if K_INT8                                                // levels by Q4_STEP, and 128 more: they are unsigned
BYTES16(Q4_K_LEVELS, 5, 35, 55, 71, 85, 98, 110, 122, 134, 146, 158, 171, 185, 201, 221, 251);
#define K_BYTES(w, i) pick_bytes(Q4_K_LEVELS, (w)[0] >> (4 * (i)) & 0x0f0f0f0fu)
#define K_ZERO 128.0f
#define K_GRAIN Q4_STEP
#endif
#define K_TOKEN
inline vfloat k_scale(dptr<const uint> rec, vlane lane, int t0) {
    return vfloat(ld(halves(rec + AT_KS), lane + t0, first(lane, BLOCK))) * K_STEPS;
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
#if STAGED && !V_INT8
#define V_CODE(w, j) q4_grain((w)[0], j)
#define V_STEPS Q4_STEP
#else
#define V_CODE(w, j) pick16(Q4_LEVELS, (w)[0] >> Q4_PLACE(j))
#define V_STEPS 1.0f
#endif
#if V_INT8
#define V_BYTES(w, i) pick_bytes(Q4_GRAINS, (w)[0] >> (4 * (i)) & 0x0f0f0f0fu)
#define V_SIGNED 1
#define V_GRAIN Q4_STEP
#endif
#define V_VALUE(rec, code, t, j) ((code) * (float(halves(rec + AT_VS)[t]) * V_STEPS))
#define V_TOKEN vfloat
inline vfloat v_factors(dptr<const uint> rec, vlane lane, int t0) {
    return vfloat(ld(halves(rec + AT_VS), lane + t0, first(lane, BLOCK))) * V_STEPS;
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
inline float q4_unit(float square, float largest) { return square > 0.0f ? Q4_PEAK / largest : 0.0f; }
inline float q4_scale(float square, float product) { return square == 0.0f ? 0.0f : square / product; }
#ifdef K_Q4
// Rounding errors go where they cost least. What a query adds to a score for a channel is about as large as K is there, for
// such is how models are trained; so a channel's error weighs as K's square, over the page's tokens and over the two channels
// that RoPE turns as a pair. The numbers that are coded are the rotated ones: each is brought, before it is rounded, to where it
// makes up best for what those before it were rounded by (as GPTQ does, Frantar et al., 2022). Where a head is one block of
// the rotation, its channels are 2 halves of Q4_CLASSES classes of Q4_EACH neighbours, which weigh the same; then only the
// numbers of a half at one place of their classes depend on each other, all in the same way. Other heads are rounded as they are.
#define K_PHASES
#define K_COLUMNS ((DK + 31) / 32)
#define Q4_SHAPED (DK == 1 << K_STAGES && DK >= 16)
#define Q4_HALVES (Q4_SHAPED ? 2 : 1)
#define Q4_EACH (!Q4_SHAPED ? 8 : DK < 64 ? 1 : DK / 64)
#define Q4_CLASSES (DK / Q4_HALVES / Q4_EACH)             // 32 at most where there are weights
#define Q4_LOG2_CLASSES (K_STAGES - 1 < 5 ? K_STAGES - 1 : 5)
#define Q4_EVEN 0.2f                                      // what each weight has beside its share: they are 1 on average
// Threadgroup memory: how an error counts for what follows [32][32], the rotated mean [DK], the outlier's number; then sums of
// channels [SGS][DK]; then, in their place, tokens [DK][Q4_LANES] of each of Q4_SEALERS SIMD-groups.
#define Q4_MEAN (Q4_SHAPED ? 1024 : 0)
#define Q4_FAR (Q4_MEAN + DK)
#define Q4_ROOM (Q4_FAR + 8)
#define Q4_MOST (DK <= 128 ? 32 : DK <= 256 ? 16 : 8)
#define Q4_LANES (Q4_MOST < PAGE ? Q4_MOST : PAGE)        // tokens that a SIMD-group codes at once, one a lane
#define Q4_FIT ((8192 - Q4_ROOM) / (DK * Q4_LANES))
#define Q4_PARTS (PAGE / Q4_LANES < SGS ? PAGE / Q4_LANES : SGS)
#define Q4_SEALERS (Q4_FIT < Q4_PARTS ? Q4_FIT : Q4_PARTS)
inline void k_first(thread const source& s, dptr<uint>, vlane lane, int sg, tptr<float> shared) {
    key sum;
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) sum.v[c][0] = 0.0f;
    for (int t = sg; t < PAGE; t += SGS) {
        dptr<const KVTYPE> from = take_token(s, t);
        UNROLL for (int c = 0; c < K_COLUMNS; ++c) sum.v[c][0] += vfloat(ld(from, lane + 32 * c, first(lane, DK - 32 * c)));
    }
    UNROLL for (int c = 0; c < K_COLUMNS; ++c)
        st(shared, lane + (Q4_ROOM + sg * DK + 32 * c), sum.v[c][0], first(lane, DK - 32 * c));
}
// Two neighbours of x as fp16, for each of the first 16 lanes.
inline vuint q4_pair(vfloat x, vlane lane) {
    vint even = vint(lane) * 2 & 30;
    return half_pair(simd_shuffle(x, even), simd_shuffle(x, even + 1));
}
// A vector of a head as fp16 pairs.
inline void q4_halves(dptr<uint> to, thread const key& x, vlane lane) {
    UNROLL for (int c = 0; c < K_COLUMNS; ++c)
        st(to, lane + 16 * c, q4_pair(x.v[c][0], lane), first(lane, DK / 2 - 16 * c < 16 ? DK / 2 - 16 * c : 16));
}
#if Q4_SHAPED
// From the sums of squares of channels [DK], L [32][32]: the weights of the rotated numbers are L D L', with 1 on L's diagonal.
inline void q4_shape(tptr<float> shared, vlane lane) {
    numbers<1, 1> weight;
    vfloat sum = 0.0f;
    UNROLL for (int b = 0; b < 2; ++b)
        UNROLL for (int u = 0; u < Q4_EACH; ++u)
            sum += ld(shared, vint(lane) * Q4_EACH + (Q4_MEAN + b * DK / 2 + u), first(lane, Q4_CLASSES));
    float all = simd_sum(sum);
    weight.v[0][0] = all > 0.0f ? sum * (Q4_CLASSES / all) + Q4_EVEN : vfloat(1.0f + Q4_EVEN);
    hadamard<Q4_LOG2_CLASSES>(weight, lane);
    for (int a = 0; a < Q4_CLASSES; ++a)                  // weights that a Hadamard transform turned depend on a ^ b alone
        st(shared, lane + 32 * a, simd_shuffle(weight.v[0][0], vint(lane) ^ vint(a)), first(lane, Q4_CLASSES));
    for (int i = 0; i < Q4_CLASSES; ++i) {
        vfloat row = ld(shared, lane + 32 * i, first(lane, Q4_CLASSES));
        float by = 1.0f / simd_broadcast(row, i);
        for (int j = i + 1; j < Q4_CLASSES; ++j) {
            vfloat own = ld(shared, lane + 32 * j, first(lane, Q4_CLASSES));
            vfloat l = simd_broadcast(own, i) * by;
            own = select(own, own - l * row, vint(lane) > i);
            st(shared, lane + 32 * j, select(own, l, vint(lane) == i), first(lane, Q4_CLASSES));
        }
    }
}
#endif
// The token farthest from the mean, the mean of the others, and how errors count.
inline void k_second(thread const source& s, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    if (sg != 0) return;
    key mean, sum;
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        sum.v[c][0] = 0.0f;
        for (int i = 0; i < SGS; ++i) sum.v[c][0] += ld(shared, lane + (Q4_ROOM + i * DK + 32 * c), first(lane, DK - 32 * c));
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
    key far;
    dptr<const KVTYPE> at_far = take_token(s, outlier);
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        far.v[c][0] = vfloat(ld(at_far, lane + 32 * c, first(lane, DK - 32 * c)));
        mean.v[c][0] = (sum.v[c][0] - far.v[c][0]) * (1.0f / (PAGE - 1));
    }
#if Q4_SHAPED
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) sum.v[c][0] = 0.0f;
    for (int t = 0; t < PAGE; ++t) {
        dptr<const KVTYPE> from = take_token(s, t);
        if (t != outlier) UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
            vfloat x = vfloat(ld(from, lane + 32 * c, first(lane, DK - 32 * c)));
            sum.v[c][0] += x * x;
        }
    }
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) st(shared, lane + (Q4_MEAN + 32 * c), sum.v[c][0], first(lane, DK - 32 * c));
    SG_BARRIER;
    q4_shape(shared, lane);
    SG_BARRIER;
#endif
    hadamard<K_STAGES>(mean, lane);
    hadamard<K_STAGES>(far, lane);
    UNROLL for (int c = 0; c < K_COLUMNS; ++c) {
        mean.v[c][0] = half_lo(half_bits(mean.v[c][0]));
        far.v[c][0] = far.v[c][0] - mean.v[c][0];
        st(shared, lane + (Q4_MEAN + 32 * c), mean.v[c][0], first(lane, DK - 32 * c));
    }
    st(shared, lane + Q4_FAR, vfloat(float(outlier)), first(lane, 1));
    q4_halves(rec + AT_KM, mean, lane);
    q4_halves(rec + AT_KO, far, lane);
}
// Tokens t0 + lane, rotated, to x [DK][Q4_LANES].
inline void q4_rotated(thread const source& s, tptr<float> x, vlane lane, int t0) {
    vint row = ld(s.rows, lane + t0, first(lane, Q4_LANES));
    for (int d = 0; d < DK; d += 4) {
        vfloat4 y = take_four(s, lane, row, d);
        vfloat a = y.x + y.y, b = y.x - y.y, c = y.z + y.w, e = y.z - y.w;
        st(x, lane + d * Q4_LANES, a + c, first(lane, Q4_LANES));
        st(x, lane + (d + 1) * Q4_LANES, b + e, first(lane, Q4_LANES));
        st(x, lane + (d + 2) * Q4_LANES, a - c, first(lane, Q4_LANES));
        st(x, lane + (d + 3) * Q4_LANES, b - e, first(lane, Q4_LANES));
    }
    for (int n = 4; n < 1 << K_STAGES; n *= 2)
        for (int d = 0; d < DK; ++d)
            if ((d & n) == 0) {
                vfloat a = ld(x, lane + d * Q4_LANES, first(lane, Q4_LANES));
                vfloat b = ld(x, lane + (d + n) * Q4_LANES, first(lane, Q4_LANES));
                st(x, lane + d * Q4_LANES, a + b, first(lane, Q4_LANES));
                st(x, lane + (d + n) * Q4_LANES, a - b, first(lane, Q4_LANES));
            }
}
inline void k_third(thread const source& s, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    tptr<float> x = shared + (Q4_ROOM + sg % Q4_SEALERS * DK * Q4_LANES);
    if (sg < Q4_SEALERS) for (int t0 = sg * Q4_LANES; t0 < PAGE; t0 += Q4_SEALERS * Q4_LANES) {
        q4_rotated(s, x, lane, t0);
        vfloat square = 0.0f, product = 0.0f, largest = 0.0f;
        for (int d = 0; d < DK; ++d) {
            float mean = shared[Q4_MEAN + d];
            vfloat y = ld(x, lane + d * Q4_LANES, first(lane, Q4_LANES)) * rsqrt(float(1 << K_STAGES)) - mean;
            square += y * y;
            largest = max(largest, abs(y));
            st(x, lane + d * Q4_LANES, y, first(lane, Q4_LANES));
        }
        vfloat unit = select(vfloat(0.0f), Q4_PEAK / largest, square > 0.0f);
        vuint words[Q4_HALVES];
        UNROLL for (int b = 0; b < Q4_HALVES; ++b) words[b] = 0u;
        for (int i = Q4_CLASSES - 1; i >= 0; --i) {
            UNROLL for (int u = 0; u < Q4_EACH; ++u) {
                vfloat own[Q4_HALVES];                    // what later errors ask for; then errors take the numbers' places
                UNROLL for (int b = 0; b < Q4_HALVES; ++b) own[b] = 0.0f;
#if Q4_SHAPED
                for (int j = i + 1; j < Q4_CLASSES; ++j) {
                    float l = shared[32 * j + i];
                    UNROLL for (int b = 0; b < Q4_HALVES; ++b)
                        own[b] += l * ld(x, lane + (b * DK / 2 + j * Q4_EACH + u) * Q4_LANES, first(lane, Q4_LANES));
                }
#endif
                UNROLL for (int b = 0; b < Q4_HALVES; ++b) {
                    int d = b * DK / 2 + i * Q4_EACH + u;
                    vfloat y = ld(x, lane + d * Q4_LANES, first(lane, Q4_LANES));
                    vint code = q4_code(y * unit + own[b]);
                    vfloat level = pick16(Q4_LEVELS, vuint(code));
                    product += y * level;
                    words[b] = words[b] | vuint(code) << uint(Q4_PLACE(d & 7));
                    st(x, lane + d * Q4_LANES, y * unit - level, first(lane, Q4_LANES));
                }
            }
            if ((i * Q4_EACH & 7) == 0) UNROLL for (int b = 0; b < Q4_HALVES; ++b) {
                st(rec, lane + ((b * DK / 2 + i * Q4_EACH) / 8 * PAGE + t0), words[b], first(lane, Q4_LANES));
                words[b] = 0u;
            }
        }
        vfloat scale = select(square / product, vfloat(0.0f), square == 0.0f);
        scale = select(scale, vfloat(-0.0f), vint(lane) + t0 == int(shared[Q4_FAR]));
        st(rec, lane + (AT_KS + t0 / 2), q4_pair(scale, lane), first(lane, Q4_LANES / 2));
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

// Page format mixed, of K: channels in the order of their range over the page; K_HIGH of them as fp16, the others as affine
// codes of K_BITS bits. Record: the channels' numbers, a byte each [DK / 4]; fp16 pairs [K_HIGH / 2][PAGE]; codes
// [(DK - K_HIGH) / K_PER][PAGE]; a word of scale and offset for each coded channel. After affine.h.
#define AT_HIGH (DK / 4)
#define AT_K (AT_HIGH + K_HIGH / 2 * PAGE)
#define AT_KS (AT_K + (DK - K_HIGH) / K_PER * PAGE)
#define K_ORDER(rec, i) int(uint(rec[(i) / 4]) >> (8 * ((i) % 4)) & 255u)        // the channel at place i
#define K_VALUE(rec, code, d, j, unit) AFFINE_VALUE(code, uint(rec[AT_KS + (d) - K_HIGH]), K_BITS, j)
struct ranked { vint channel; vuint scale; };             // of places d + lane: the channel, and for a coded one its factors
#define K_FACTORS ranked
inline ranked k_factors(dptr<const uint> rec, vlane lane, int d) {
    ranked r;
    vuint four = ld(rec, lane + d / 4, first(lane, (DK - d) / 4 < 8 ? (DK - d) / 4 : 8));
    r.channel = vint(simd_shuffle(four, vint(lane) / 4) >> vuint((vint(lane) & 3) * 8) & 255u);
    r.scale = ld(rec, vint(lane) + (AT_KS + d - K_HIGH), vint(lane) >= K_HIGH - d && vint(lane) < DK - d);
    return r;
}
// Place d + lane of q in units of this page's codes; what each score gets more is added to bias.
inline vfloat k_query(thread const ranked& r, tptr<float> q, int d, thread vfloat& bias, vlane lane) {
    vfloat x = ld(q, r.channel, first(lane, DK - d));
    vint place = vint(lane) + (d - K_HIGH);
    bias += x * half_hi(r.scale);
    return x * select(vfloat(1.0f), half_lo(r.scale) * units_of(K_BITS, place & (K_PER - 1)), place >= 0);
}
#ifdef SEALING
// Ranges of the channels; their ranks, and so the order; then words in that order.
#define K_PHASES
inline void k_first(thread const source& s, dptr<uint>, vlane lane, int sg, tptr<float> shared) {
    for (int d = sg; d < DK; d += SGS) {
        vfloat low = INFINITY, high = -INFINITY, bad = 0.0f;
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            vfloat x = take_channel(s, lane, take_rows(s, lane, b), d);
            low = min(low, select(vfloat(INFINITY), x, vint(lane) < BLOCK));
            high = max(high, select(vfloat(-INFINITY), x, vint(lane) < BLOCK));
            bad += select(vfloat(0.0f), x * 0.0f, vint(lane) < BLOCK);
        }
        float span = simd_max(high) - simd_min(low) + simd_sum(bad);
        st(shared, lane + d, vfloat(span == span ? span : INFINITY), first(lane, 1));
    }
}
inline void k_second(thread const source&, dptr<uint>, vlane lane, int sg, tptr<float> shared) {
    for (int d = sg * 32; d < DK; d += SGS * 32) {
        vfloat own = ld(shared, lane + d, first(lane, DK - d));
        vint rank = 0;
        for (int e = 0; e < DK; ++e) {
            float other = shared[e];
            rank += select(vint(0), vint(1), other > own || other == own && vint(lane) + d > e);
        }
        st(shared, rank + DK, vfloat(vint(lane) + d), first(lane, DK - d));
    }
}
inline void k_third(thread const source& s, dptr<uint> rec, vlane lane, int sg, tptr<float> shared) {
    tptr<float> order = shared + DK;
    if (sg == 0)
        for (int i = 0; i < DK / 4; i += 32) {
            vuint w = 0u;
            UNROLL for (int j = 0; j < 4; ++j) {
                vfloat d = ld(order, (vint(lane) + i) * 4 + j, first(lane, DK / 4 - i));
                w |= vuint(vint(d)) << (8 * j);
            }
            st(rec, lane + i, w, first(lane, DK / 4 - i));
        }
    for (int i = sg; i < K_HIGH / 2; i += SGS)
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            vint row = take_rows(s, lane, b);
            vfloat low = take_channel(s, lane, row, int(order[2 * i])), high = take_channel(s, lane, row, int(order[2 * i + 1]));
            st(rec, lane + (AT_HIGH + i * PAGE + 32 * b), half_pair(low, high), first(lane, BLOCK));
        }
    for (int i = sg; i < (DK - K_HIGH) / K_PER; i += SGS) {
        channels x;
        UNROLL for (int e = 0; e < K_PER; ++e)
            UNROLL for (int b = 0; b < BLOCKS; ++b)
                x.v[e][b] = take_channel(s, lane, take_rows(s, lane, b), int(order[K_HIGH + i * K_PER + e]));
        encode_group(rec + (AT_K + i * PAGE), rec + (AT_KS + i * K_PER), lane, x);
    }
}
#endif

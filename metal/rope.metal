// q [T, HEADS, D], k [T, KV_HEADS, D], v [T, KV_HEADS, DV] of qkv [T, (HEADS + KV_HEADS) * D + KV_HEADS * DV]: the heads of
// q and k normed (or not), their first DIMS channels rotated by table [T, DIMS] (cosines, then sines, DIMS / 2 each).
// Built with: XTYPE, HEADS, KV_HEADS, D, DV, DIMS, INTERLEAVED (pairs are channels 2i and 2i + 1, else i and i + DIMS / 2),
// NORM_EPS (or not: each head times rsqrt(mean of squares + NORM_EPS) and q_norm [D] or k_norm [D]), SGS.
// Grid: T threadgroups; the heads of a token are dealt to the SIMD-groups.
#define PAIRS (DIMS / 2)
#define TOTAL ((HEADS + KV_HEADS) * D + KV_HEADS * DV)
#ifndef NORM_EPS
#define q_norm table
#define k_norm table
#endif

inline void turn(dptr<const XTYPE> x, dptr<XTYPE> y, dptr<const float> table, dptr<const float> gain, vlane lane) {
    float scale = 1.0f;
#ifdef NORM_EPS
    vfloat squares = 0.0f;
    for (int c = 0; c < D; c += 32) {
        vfloat a = vfloat(ld(x, lane + c, first(lane, D - c)));
        squares += a * a;
    }
    scale = rsqrt(simd_sum(squares) / float(D) + NORM_EPS);
#endif
#if INTERLEAVED
    for (int c = 0; c < DIMS; c += 32) {                  // a lane's partner is its neighbour: all reads and writes in order
        int left = DIMS - c;
        vfloat a = vfloat(ld(x, lane + c, first(lane, left))) * scale;
#ifdef NORM_EPS
        a = a * ld(gain, lane + c, first(lane, left));
#endif
        vfloat cosine = ld(table + c / 2, spread<2, 1, 0>(lane), first(lane, left));
        vfloat sine = ld(table + (PAIRS + c / 2), spread<2, 1, 0>(lane), first(lane, left));
        vfloat other = simd_shuffle_xor(a, 1) * sine;
        st(y, lane + c, a * cosine + select(-other, other, (vint(lane) & 1) != 0), first(lane, left));
    }
#else
    for (int c = 0; c < PAIRS; c += 32) {
        int left = PAIRS - c;
        vfloat a = vfloat(ld(x, lane + c, first(lane, left))) * scale, b = vfloat(ld(x, lane + (PAIRS + c), first(lane, left))) * scale;
#ifdef NORM_EPS
        a = a * ld(gain, lane + c, first(lane, left));
        b = b * ld(gain, lane + (PAIRS + c), first(lane, left));
#endif
        vfloat cosine = ld(table, lane + c, first(lane, left)), sine = ld(table, lane + (PAIRS + c), first(lane, left));
        st(y, lane + c, a * cosine - b * sine, first(lane, left));
        st(y, lane + (PAIRS + c), a * sine + b * cosine, first(lane, left));
    }
#endif
    for (int c = DIMS; c < D; c += 32) {                  // channels that are not rotated
        vfloat a = vfloat(ld(x, lane + c, first(lane, D - c))) * scale;
#ifdef NORM_EPS
        a = a * ld(gain, lane + c, first(lane, D - c));
#endif
        st(y, lane + c, a, first(lane, D - c));
    }
}

KERNEL rope(dptr<const XTYPE> qkv, dptr<const float> table,
#ifdef NORM_EPS
            dptr<const float> q_norm, dptr<const float> k_norm,
#endif
            dptr<XTYPE> q, dptr<XTYPE> k, dptr<XTYPE> v, int tokens, GRID) {
    SIMDGROUPS {
        dptr<const XTYPE> x = qkv + long(tg.x) * TOTAL;
        for (int h = sg; h < HEADS + 2 * KV_HEADS; h += SGS) {
            if (h < HEADS) {
                turn(x + h * D, q + (long(tg.x) * HEADS + h) * D, table + tg.x * DIMS, q_norm, lane);
            } else if (h < HEADS + KV_HEADS) {
                turn(x + h * D, k + (long(tg.x) * KV_HEADS + h - HEADS) * D, table + tg.x * DIMS, k_norm, lane);
            } else {
                int g = h - HEADS - KV_HEADS;
                for (int c = 0; c < DV; c += 32) {
                    vfloat a = vfloat(ld(x, lane + ((HEADS + KV_HEADS) * D + g * DV + c), first(lane, DV - c)));
                    st(v + (long(tg.x) * KV_HEADS + g) * DV, lane + c, a, first(lane, DV - c));
                }
            }
        }
    }
}

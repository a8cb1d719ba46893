// The plain tokens of attend: those of a sequence's own page, and new ones. After softmax.h.
// n plain tokens (32 at most) from position `base` on, in consecutive rows of k and v that are `stride` KV heads apart.
APART void plain_tokens(thread state& a, dptr<const KVTYPE> k, dptr<const KVTYPE> v, tptr<float> qs, tptr<float> ps,
                        vlane lane, place at, int base, int n, int kv_heads) {
    scores x;
    UNROLL for (int r = 0; r < ROWS; ++r) x.s[r][0] = 0.0f;
    if (HOST || n < 4) for (int t = 0; t < n; ++t) {      // a channel a lane: a CPU reads the rows of k as they lie
        vfloat sums[ROWS];
        UNROLL for (int r = 0; r < ROWS; ++r) sums[r] = 0.0f;
        UNROLL for (int d = 0; d < DK; d += 32) {
            vfloat c = ld(k, lane + (t * kv_heads * DK + d), first(lane, DK - d));
            UNROLL for (int r = 0; r < ROWS; ++r) sums[r] += c * vfloat(ld(qs, lane + (r * DK + d), first(lane, DK - d)));
        }
        UNROLL for (int r = 0; r < ROWS; ++r) x.s[r][0] = select(x.s[r][0], vfloat(simd_sum(sums[r])), vint(lane) == t);
    } else for (int d = 0; d < DK; d += 4) {              // a token a lane: a GPU sums nothing across lanes
        vfloat4 k4 = ld4(k, vint(lane) * (kv_heads * DK) + d, first(lane, n));
        UNROLL for (int r = 0; r < ROWS; ++r)
            x.s[r][0] += k4.x * qs[r * DK + d] + k4.y * qs[r * DK + d + 1] + k4.z * qs[r * DK + d + 2]
                + k4.w * qs[r * DK + d + 3];
    }
    UNROLL for (int r = 0; r < ROWS; ++r) {
        int p = at.p0 + r / GR;
        mask(x, 0, lane, base, max(p - at.window + 1, p / PAGE * PAGE), min(base + n, p + 1), r);
    }
    soften(a, x, ps, lane, 1);
    SG_BARRIER;
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)            // the first token's groups of LINES lines hold them
        UNROLL for (int j = 0; j < V_PER; ++j) {
            vfloat sums[ROWS];
            UNROLL for (int r = 0; r < ROWS; ++r) sums[r] = 0.0f;
            for (int t = 0; t < n; ++t) {
                vfloat c = ld(v, spread<32, 0, V_PER>(lane) + (t * kv_heads * DV + 32 * i * V_PER + j),
                              first(lane, V_UNITS - 32 * i));
                UNROLL for (int r = 0; r < ROWS; ++r) sums[r] += c * ps[r * WIDE + t];
            }
            UNROLL for (int r = 0; r < ROWS; ++r) a.acc[r][i][j] += sums[r] * (1.0f / (V_UNIT(j) * P_UNIT));
        }
    SG_BARRIER;
}

// attend for CPUs with few registers: codes of 32 tokens' K, or of some tokens' V, go to threadgroup memory as numbers, from where
// all rows take them in one loop whose sums stay in registers. Not for pages of floats, which are
// larger than caches. Built with STAGE, floats of that memory. After softmax.h.
#define STAGED_B (BLOCKS % 2 == 0 ? 2 : 1)                // blocks of tokens at once: a row of them is read as it lies
#define STAGED_K (64 / STAGED_B / K_PER < K_GROUPS ? 64 / STAGED_B / K_PER : K_GROUPS)  // groups of K at once
// Scores of one stored page.
inline void staged_scores(thread scores& x, dptr<const uint> rec, dptr<const uint> next, tptr<float> codes, tptr<float> stage,
                          vlane lane) {
    UNROLL for (int b0 = 0; b0 < BLOCKS; b0 += STAGED_B) {
        vfloat sums[STAGED_B][ROWS];
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < STAGED_B; ++b) sums[b][r] = x.s[r][b0 + b];
        for (int g0 = 0; g0 < K_GROUPS; g0 += STAGED_K) {
            int n = min(STAGED_K, K_GROUPS - g0);
            for (int g = 0; g < n; ++g)
                UNROLL for (int b = 0; b < STAGED_B; ++b) {
                    vuint k[K_LOADS];
                    int at = AT_K + (g0 + g) * (K_LOADS * PAGE) + 32 * (b0 + b);
                    UNROLL for (int i = 0; i < K_LOADS; ++i) {
                        prefetch(next + (at + i * PAGE), BLOCK);
                        k[i] = ld(rec, lane + (at + i * PAGE), first(lane, BLOCK));
                    }
                    UNROLL for (int j = 0; j < K_PER; ++j) stage[lane + 32 * ((g * K_PER + j) * STAGED_B + b)] = K_CODE(k, j);
                }
            SG_BARRIER;
            UNROLL for (int b = 0; b < STAGED_B; ++b)
                add_products(sums[b], codes + (K_HIGH + g0 * K_PER), DK, tptr<const float>(stage + 32 * b), n * K_PER, 32 * STAGED_B);
            SG_BARRIER;
        }
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < STAGED_B; ++b) x.s[r][b0 + b] = sums[b][r];
    }
}
// A page's codes of V times the probabilities in ps, into the sums.
inline void staged_values(thread state& a, dptr<const uint> rec, dptr<const uint> next, tptr<float> ps, tptr<float> stage, vlane lane) {
#if V_DEEP > 1
    const int tokens = PAGE < 64 ? PAGE : 64;
    UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
        vfloat sums[ROWS];
        UNROLL for (int r = 0; r < ROWS; ++r) sums[r] = a.acc[r][i][0];
        for (int t = 0; t < PAGE; t += tokens) {
            for (int g = 0; g < tokens / V_DEEP; ++g) {
                vuint v[V_LOADS];
                int at = AT_V + (t / V_DEEP + g) * (V_LOADS * DV) + 32 * i;
                UNROLL for (int n = 0; n < V_LOADS; ++n) {
                    prefetch(next + (at + n * DV), DV - 32 * i < 32 ? DV - 32 * i : 32);
                    v[n] = ld(rec, lane + (at + n * DV), first(lane, DV - 32 * i));
                }
                UNROLL for (int j = 0; j < V_DEEP; ++j) stage[lane + 32 * (g * V_DEEP + j)] = V_NUMBER(v, j);
            }
            SG_BARRIER;
            add_products(sums, ps + t, WIDE, tptr<const float>(stage), tokens, 32);
            SG_BARRIER;
        }
        UNROLL for (int r = 0; r < ROWS; ++r) a.acc[r][i][0] = sums[r];
    }
#else
    const int tokens = PAGE * V_PER < 64 ? PAGE : 64 / V_PER;
    UNROLL for (int i = 0; i < LINES; ++i) {
        vfloat sums[V_PER][ROWS];
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < V_PER; ++j) sums[j][r] = a.acc[r][i][j];
        for (int t0 = 0; t0 < PAGE; t0 += tokens) {
            for (int t = 0; t < tokens; ++t) {
                vuint v[V_LOADS];
                int at = AT_V + ((t0 + t) * V_UNITS + 32 * i) * V_LOADS;
                UNROLL for (int n = 0; n < V_LOADS; ++n) v[n] = rec[lane + (at + 32 * n)];
                prefetch(next + at, 32 * V_LOADS);
                UNROLL for (int j = 0; j < V_PER; ++j) stage[lane + 32 * (t * V_PER + j)] = V_NUMBER(v, j);
            }
            SG_BARRIER;
            UNROLL for (int j = 0; j < V_PER; ++j)
                add_products(sums[j], ps + t0, WIDE, tptr<const float>(stage + 32 * j), tokens, 32 * V_PER);
            SG_BARRIER;
        }
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = sums[j][r];
    }
#endif
}

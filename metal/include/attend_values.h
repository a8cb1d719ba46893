// The sums over V of attend: a page's codes times the probabilities in ps. After softmax.h.
inline void sum_values(thread state& a, dptr<const uint> rec, dptr<const uint> next, tptr<float> ps, vlane lane) {
#if V_DEEP > 1
    UNROLL for (int i0 = 0; i0 < V_COLUMNS; i0 += VJ) {   // so many columns that the sums stay in registers
        vfloat sums[ROWS][VJ];
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int i = 0; i < VJ; ++i) if (i0 + i < V_COLUMNS) sums[r][i] = a.acc[r][i0 + i][0];
        for (int g = 0; g < PAGE / V_DEEP; ++g) {
            vuint v[VJ][V_LOADS];
            UNROLL for (int n = 0; n < V_LOADS; ++n) {
                int at = AT_V + (g * V_LOADS + n) * DV + 32 * i0;
                prefetch(next + at, DV - 32 * i0 < 32 * VJ ? DV - 32 * i0 : 32 * VJ);
                UNROLL for (int i = 0; i < VJ; ++i)
                    if (i0 + i < V_COLUMNS) v[i][n] = ld(rec, lane + (at + 32 * i), first(lane, DV - 32 * (i0 + i)));
            }
            UNROLL for (int j = 0; j < V_DEEP; ++j) {
                vfloat code[VJ];
                UNROLL for (int i = 0; i < VJ; ++i) if (i0 + i < V_COLUMNS) code[i] = V_NUMBER(v[i], j);
                UNROLL for (int r = 0; r < ROWS; ++r) {
                    float p = ps[r * WIDE + g * V_DEEP + j];
                    UNROLL for (int i = 0; i < VJ; ++i) if (i0 + i < V_COLUMNS) sums[r][i] += code[i] * p;
                }
            }
        }
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int i = 0; i < VJ; ++i) if (i0 + i < V_COLUMNS) a.acc[r][i0 + i][0] = sums[r][i];
    }
#else
    UNROLL for (int i = 0; i < LINES; ++i)
        UNROLL for (int j0 = 0; j0 < V_PER; j0 += VJ) {   // so many of a group's numbers that the sums stay in registers
            vfloat sums[ROWS][VJ];
            UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] = a.acc[r][i][j0 + j];
#if TOKENS == 1
            for (int t = 0; t < PAGE; ++t) {
                vuint v[V_LOADS];
                int at = AT_V + (t * V_UNITS + 32 * i) * V_LOADS;
                UNROLL for (int n = 0; n < V_LOADS; ++n) v[n] = rec[lane + (at + 32 * n)];
                prefetch(next + at, 32 * V_LOADS);
                vfloat code[VJ];
                UNROLL for (int j = 0; j < VJ; ++j) code[j] = V_NUMBER(v, j0 + j);
                UNROLL for (int r = 0; r < ROWS; ++r) {
                    float p = ps[r * WIDE + t];
                    UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] += code[j] * p;
                }
            }
#else
            vint own = (vint(lane) + 32 * i) / V_UNITS;   // the token of these, whose group this lane has
            for (int b = 0; b < BLOCKS; ++b) {
                vfloat weights[ROWS];
                UNROLL for (int r = 0; r < ROWS; ++r) weights[r] = ps[lane + (r * WIDE + 32 * b)];
                for (int t = 0; t < BLOCK; t += TOKENS) {
                    vuint v[V_LOADS];
                    int at = AT_V + ((32 * b + t) * V_UNITS + 32 * i) * V_LOADS;
                    UNROLL for (int n = 0; n < V_LOADS; ++n) v[n] = rec[lane + (at + 32 * n)];
                    prefetch(next + at, 32 * V_LOADS);
                    vfloat code[VJ];
                    UNROLL for (int j = 0; j < VJ; ++j) code[j] = V_NUMBER(v, j0 + j);
                    UNROLL for (int r = 0; r < ROWS; ++r) {
                        vfloat p = simd_shuffle(weights[r], own + vint(t));
                        UNROLL for (int j = 0; j < VJ; ++j) sums[r][j] += code[j] * p;
                    }
                }
            }
#endif
            UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int j = 0; j < VJ; ++j) a.acc[r][i][j0 + j] = sums[r][j];
        }
#endif
}

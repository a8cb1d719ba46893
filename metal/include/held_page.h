// attend over one held page (held.h): what stored_page does, without scales and the like. After softmax.h.
inline void held_page(thread state& a, dptr<const HTYPE> kept, tptr<float> qs, tptr<float> ps, vlane lane, place at, int page) {
    scores x;
    UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] = 0.0f;
    for (int d = 0; d < DK; ++d) {
        vfloat k[BLOCKS];
        UNROLL for (int b = 0; b < BLOCKS; ++b) k[b] = held_k(kept, lane, d, 32 * b);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            float q = qs[r * DK + d];
            UNROLL for (int b = 0; b < BLOCKS; ++b) x.s[r][b] += k[b] * q;
        }
    }
    UNROLL for (int r = 0; r < ROWS; ++r) {
        int p = at.p0 + r / GR, end = p / PAGE > page ? (page + 1) * PAGE : 0;
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
#ifdef K_UNIT
            x.s[r][b] = x.s[r][b] * (1.0f / K_UNIT);      // which q has
#endif
            mask(x, b, lane, page * PAGE + 32 * b, p - at.window + 1, end, r);
        }
    }
    soften(a, x, ps, lane, BLOCKS);
    SG_BARRIER;
#if V_DEEP > 1
    for (int t = 0; t < PAGE; ++t)
        UNROLL for (int i = 0; i < V_COLUMNS; ++i) {
            vfloat v = held_v(kept, lane, t, i, 0);
            UNROLL for (int r = 0; r < ROWS; ++r) a.acc[r][i][0] += v * ps[r * WIDE + t];
        }
#else
    UNROLL for (int i = 0; i < LINES; ++i) {
        vint own = (vint(lane) + 32 * i) / V_UNITS;       // of TOKENS tokens, the one whose group this lane has
        for (int t = 0; t < PAGE; t += TOKENS) {
            vfloat p[ROWS];
            UNROLL for (int r = 0; r < ROWS; ++r) p[r] = ld(ps, own + (r * WIDE + t)) * (1.0f / P_UNIT);
            int line = DK * PAGE + (t * V_UNITS / 32 + i) * (32 * V_PER);
            UNROLL for (int j = 0; j < V_PER; ++j) {
                vfloat v = vfloat(ld(kept, lane + (line + 32 * j))) * (1.0f / V_UNIT(j));
                UNROLL for (int r = 0; r < ROWS; ++r) a.acc[r][i][j] += v * p[r];
            }
        }
    }
#endif
    SG_BARRIER;
}

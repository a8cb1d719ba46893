// y[M, N] = x[M, K] W[N, K]^T for many rows of x: a threadgroup decodes PANEL weights of 32 rows of W to threadgroup
// memory, once for the MT * SGS rows of x that its SIMD-groups multiply them with.
// Built with a header of quants/, then: MT (rows of a SIMD-group; a multiple of 8 on a GPU), PANEL (of 32), SGS;
//   SWIGLU (0 or 1)    W is gate over up, N rows each: y = silu(gate) * up
//   BIAS (0 or 1)      y += bias[N];   RESIDUAL   y += residual[M, N]
//   RANK (not 0)       y += L t, before SWIGLU: see low_rank.h; t [M, RANK]
// K a multiple of 32, on a GPU M of MT; N any. Grid: N / 32, M / (MT * SGS). Threadgroup memory: 32 *
// max(PANEL * (1 + SWIGLU), MT) floats.
APART void decode_panel(weights w, tptr<float> to, vlane lane, int sg, int rows, int k0, int size, int K) {
    vint row = min(vint(lane), vint(rows - 1));          // lane = row of W, the last one again where N is ragged
    for (int k = sg * 32; k < size; k += SGS * 32) {
        PUT_COLUMNS(to + k * 32, block, decode(w, row, k0 + k, K));
    }
}

#if RANK
APART void decode_factor(factor l, tptr<float> to, vlane lane, int sg, int row0, int rows, int k0, int size) {
    vint row = row0 + min(vint(lane), vint(rows - 1));
    for (int k = sg * 32; k < size; k += SGS * 32) {
        PUT_COLUMNS(to + k * 32, block, factors(l, row, k0 + k));
    }
}
#endif

KERNEL q_gemm(WEIGHT_PARAMS, dptr<const float> x,
#if RANK
              LOW_PARAMS, dptr<const float> t,
#endif
#if BIAS
              dptr<const float> bias,
#endif
#if RESIDUAL
              dptr<const float> residual,
#endif
              dptr<float> y, int M, int N, int K, GRID) {
    int col0 = tg.x * 32, top = tg.y * SGS * MT, cols = min(32, N - col0);
    weights own = at(WEIGHTS, col0, 0, K);
    KEEP(tile<MT>, acc);
#if SWIGLU
    weights own_up = at(WEIGHTS, col0 + N, 0, K);
    tptr<float> panel_up = shared + 32 * PANEL;
    KEEP(tile<MT>, up);
    SIMDGROUPS fill(up[MINE], 0.0f);
#endif
    SIMDGROUPS fill(acc[MINE], 0.0f);
    for (int k0 = 0; k0 < K; k0 += PANEL) {
        int size = min(PANEL, K - k0);
        SIMDGROUPS {
            if (HOST && sg == 0 && tg.y == 0)             // what the next 32 rows of W will be decoded from
                for (int k = 32 * k0; k < 32 * (k0 + size); k += STEP) {
                    ahead(at(WEIGHTS, col0 + 32, k, K));
#if SWIGLU
                    ahead(at(WEIGHTS, col0 + 32 + N, k, K));
#endif
                }
            decode_panel(own, shared, lane, sg, cols, k0, size, K);
#if SWIGLU
            decode_panel(own_up, panel_up, lane, sg, cols, k0, size, K);
#endif
        }
        TG_BARRIER;
        SIMDGROUPS {
            int row0 = top + sg * MT;
            if (row0 < M) {
                mma(acc[MINE], x + (long(row0) * K + k0), K, shared, size, 32, min(MT, M - row0));
#if SWIGLU
                mma(up[MINE], x + (long(row0) * K + k0), K, panel_up, size, 32, min(MT, M - row0));
#endif
            }
        }
        TG_BARRIER;
    }
#if RANK
    for (int k0 = 0; k0 < RANK; k0 += PANEL) {
        int size = min(PANEL, RANK - k0);
        SIMDGROUPS {
            decode_factor(LOW, shared, lane, sg, col0, cols, k0, size);
#if SWIGLU
            decode_factor(LOW, panel_up, lane, sg, col0 + N, cols, k0, size);
#endif
        }
        TG_BARRIER;
        SIMDGROUPS {
            int row0 = top + sg * MT;
            if (row0 < M) {
                mma(acc[MINE], t + (long(row0) * RANK + k0), RANK, shared, size, 32, min(MT, M - row0));
#if SWIGLU
                mma(up[MINE], t + (long(row0) * RANK + k0), RANK, panel_up, size, 32, min(MT, M - row0));
#endif
            }
        }
        TG_BARRIER;
    }
#endif
#if SWIGLU
    SIMDGROUPS {
        if (top + sg * MT < M) gate(acc[MINE], up[MINE]);
    }
#endif
#if BIAS
    SIMDGROUPS {
        if (sg == 0) {
            vfloat b = ld(bias, lane + col0, first(lane, cols));
            for (int m = 0; m < MT; ++m) shared[lane + m * 32] = b;
        }
    }
    TG_BARRIER;
    SIMDGROUPS add(acc[MINE], shared, 32);
    TG_BARRIER;
#endif
    if (cols == 32) {
        SIMDGROUPS {
            int row0 = top + sg * MT;
            if (row0 < M) {
#if RESIDUAL
                add(acc[MINE], residual + (long(row0) * N + col0), N, min(MT, M - row0));
#endif
                store(acc[MINE], y + (long(row0) * N + col0), N, min(MT, M - row0));
            }
        }
    } else {
        for (int turn = 0; turn < SGS; ++turn) {         // one SIMD-group after another through threadgroup memory
            SIMDGROUPS {
                int row0 = top + sg * MT;
                if (sg == turn && row0 < M) {
                    store(acc[MINE], shared, 32);
                    SG_BARRIER;
                    for (int m = 0; m < min(MT, M - row0); ++m) {
                        long at0 = long(row0 + m) * N + col0;
                        vfloat v = shared[lane + m * 32];
#if RESIDUAL
                        v += ld(residual + at0, lane + 0, first(lane, cols));
#endif
                        st(y + at0, lane + 0, v, first(lane, cols));
                    }
                }
            }
            TG_BARRIER;
        }
    }
}

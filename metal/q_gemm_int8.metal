// y[M, N] = x[M, K] W[N, K]^T in integers: the codes of 32 rows of W times the digits of x that int8_split made, exactly, then
// scales and offsets in fp32. For CPUs that multiply four bytes at once, and few rows of x.
// Built with a header of quants/ that defines CODES, then: MT (rows of x of a threadgroup), SGS;
//   SWIGLU (0 or 1)    W is gate over up, N rows each: y = silu(gate) * up
//   BIAS (0 or 1)      y += bias[N];   RESIDUAL   y += residual[M, N]
// Grid: N / (32 * SGS), M / MT. Threadgroup memory: SGS * MT * 32 * (1 + SWIGLU) floats.

// R rows of x times one block of 32 weights: added to sums. d, f: the block's digits and factors of these rows.
template <int R> inline void add_block(thread codes32& b, dptr<const uint> d, dptr<const float> f, tptr<float> sums, vlane lane) {
    vint part[R][R < 3 ? 4 / R : 1];                      // some sums at once, as a product waits for the one before
    vfloat whole[R];
    UNROLL for (int j = 0; j < 3; ++j) {                  // 32 bits hold the sums of one digit, or of two with small codes
        UNROLL for (int r = 0; r < R; ++r)
            UNROLL for (int s = 0; s < (R < 3 ? 4 / R : 1); ++s)
                if (CODES > 4 || j != 1 || s > 0) part[r][s] = 0;
                else part[r][s] = part[r][s] << 8;
        UNROLL for (int i = 0; i < 8; ++i)
            UNROLL for (int r = 0; r < R; ++r)
                part[r][i % (R < 3 ? 4 / R : 1)] = dot4(part[r][i % (R < 3 ? 4 / R : 1)], b.c[i], d[r * 24 + j * 8 + i]);
        UNROLL for (int r = 0; r < R; ++r) {
            UNROLL for (int s = 1; s < (R < 3 ? 4 / R : 1); ++s) part[r][0] += part[r][s];
            if (j == (CODES > 4 ? 0 : 1)) whole[r] = vfloat(part[r][0]);
            else if (j > 0) whole[r] = whole[r] * 256.0f + vfloat(part[r][0]);
        }
    }
    UNROLL for (int r = 0; r < R; ++r) {
        float unit = f[r * 2], total = f[r * 2 + 1];
        sums[lane + r * 32] = sums[lane + r * 32] + (whole[r] * (b.scale[0] * unit) + b.offset[0] * total);
    }
}

APART void multiply(weights w, dptr<const uint> d, dptr<const float> f, tptr<float> sums, vlane lane, int rows, int cols, int M,
                     int K) {
    vint row = min(vint(lane), vint(cols - 1));           // lane = row of W, the last one again where N is ragged
    for (int m = 0; m < rows; ++m) sums[lane + m * 32] = vfloat(0.0f);
    for (int k = 0; k < K; k += 32) {
        for (int p = 32 * k; HOST && p < 32 * (k + 32); p += STEP) ahead(at(w, 32, p, K));     // of the next 32 rows
        codes32 b = codes(w, row, k, K);
        for (int m = 0; m < rows;) {
            int n = rows - m == 5 ? 3 : min(rows - m, 4);
            long at0 = long(k / 32) * M + m;
            if (n == 4) add_block<4>(b, d + at0 * 24, f + at0 * 2, sums + m * 32, lane);
            else if (n == 3) add_block<3>(b, d + at0 * 24, f + at0 * 2, sums + m * 32, lane);
            else if (n == 2) add_block<2>(b, d + at0 * 24, f + at0 * 2, sums + m * 32, lane);
            else add_block<1>(b, d + at0 * 24, f + at0 * 2, sums + m * 32, lane);
            m += n;
        }
    }
}

KERNEL q_gemm_int8(WEIGHT_PARAMS, dptr<const uint> digits, dptr<const float> factors,
#if BIAS
                   dptr<const float> bias,
#endif
#if RESIDUAL
                   dptr<const float> residual,
#endif
                   dptr<float> y, int M, int N, int K, GRID) {
    SIMDGROUPS {
        int col0 = (tg.x * SGS + sg) * 32, row0 = tg.y * MT, cols = min(32, N - col0), rows = min(MT, M - row0);
        if (cols > 0) {
            tptr<float> sums = shared + sg * (MT * 32 * (1 + SWIGLU));
            dptr<const uint> d = digits + row0 * 24;
            dptr<const float> f = factors + row0 * 2;
            multiply(at(WEIGHTS, col0, 0, K), d, f, sums, lane, rows, cols, M, K);
#if SWIGLU
            multiply(at(WEIGHTS, col0 + N, 0, K), d, f, sums + MT * 32, lane, rows, cols, M, K);
#endif
            for (int m = 0; m < rows; ++m) {
                long at0 = long(row0 + m) * N + col0;
                vfloat v = sums[lane + m * 32];
#if SWIGLU
                v = v / (1.0f + exp2(v * -1.44269504f)) * sums[lane + (MT + m) * 32];
#endif
#if BIAS
                v += ld(bias, lane + col0, first(lane, cols));
#endif
#if RESIDUAL
                v += ld(residual + at0, lane + 0, first(lane, cols));
#endif
                st(y + at0, lane + 0, v, first(lane, cols));
            }
        }
    }
}

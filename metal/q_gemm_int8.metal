// y[M, N] = x[M, K] W[N, K]^T in integers: the codes of 32 rows of W times the digits of x that int8_split made, exactly, then
// scales and offsets in fp32. For CPUs that multiply four bytes at once, and more than one row of x.
// Built with a header of quants/ that defines CODES, then: MT (rows of x of a threadgroup, at most), LOW (bits of the last
// digit of x, as for int8_split), SGS;
//   SWIGLU (0 or 1)    W is gate over up, N rows each: y = silu(gate) * up
//   BIAS (0 or 1)      y += bias[N];   RESIDUAL   y += residual[M, N]
// Grid: N / (32 * SGS), M / per, where per is rows of x of a threadgroup. Threadgroup memory: SGS * MT * 32 * (1 + SWIGLU) floats.

#if LOW > 7                                               // 32 bits do not hold all digits of x times codes
#define WHOLE 0
#else
#define WHOLE 1
#endif

// R rows of x times one block of 32 weights: added to sums. d, f: the block's digits and factors of these rows.
template <int R> inline void add_block(thread codes32& b, dptr<const uint> d, dptr<const float> f, tptr<float> sums, vlane lane) {
    vint part[R][R < 3 ? 4 / R : 1];                      // some sums at once, as a product waits for the one before
    UNROLL for (int j = 0; j < 3; ++j) {
        UNROLL for (int r = 0; r < R; ++r)
            UNROLL for (int s = 0; s < (R < 3 ? 4 / R : 1); ++s)
                if (s > 0 || j == 0 || j == 2 && !WHOLE) part[r][s] = 0;
                else part[r][s] = part[r][s] << (j == 1 ? 8 : LOW);
        UNROLL for (int i = 0; i < 8; ++i)
            UNROLL for (int r = 0; r < R; ++r)
                part[r][i % (R < 3 ? 4 / R : 1)] = dot4(part[r][i % (R < 3 ? 4 / R : 1)], b.c[i], d[r * 24 + j * 8 + i]);
        UNROLL for (int r = 0; r < R; ++r) {
            UNROLL for (int s = 1; s < (R < 3 ? 4 / R : 1); ++s) part[r][0] += part[r][s];
            float unit = f[r * 2], total = f[r * 2 + 1];
            vfloat so_far = sums[lane + r * 32];
            if (j == 2) so_far = b.offset[0] * total + so_far;
            if (j == 1 && !WHOLE) unit *= float(1 << LOW);
            if (j == 2 || j == 1 && !WHOLE) sums[lane + r * 32] = vfloat(part[r][0]) * (b.scale[0] * unit) + so_far;
        }
    }
}

APART void multiply(weights w, dptr<const uint> d, dptr<const float> f, tptr<float> sums, vlane lane, int rows, int cols, int M,
                     int K) {
    vint row = min(vint(lane), vint(cols - 1));           // lane = row of W, the last one again where N is ragged
    for (int m = 0; m < rows; ++m) sums[lane + m * 32] = vfloat(0.0f);
    for (int k = 0; k < K; k += 32) {
        for (int p = 32 * k; HOST && p < 32 * (k + 32); p += STEP) ahead(at(w, 32, p, K));     // of the next 32 rows
        codes32 b = codes(w, row, k, K);
        // Fives and fours, as these go fastest. One after the other, not one or the other: else compilers work out the addresses
        // of all of them first.
        int m = 0, fours = (5 - rows % 5) % 5;
        for (int i = 4 * fours > rows ? rows / 4 : fours; i > 0; --i, m += 4)
            add_block<4>(b, d + m * 24, f + m * 2, sums + m * 32, lane);
        for (; rows - m >= 5; m += 5) add_block<5>(b, d + m * 24, f + m * 2, sums + m * 32, lane);
        if (rows - m == 3) add_block<3>(b, d + m * 24, f + m * 2, sums + m * 32, lane);
        if (rows - m == 2) add_block<2>(b, d + m * 24, f + m * 2, sums + m * 32, lane);
        if (rows - m == 1) add_block<1>(b, d + m * 24, f + m * 2, sums + m * 32, lane);
        d = d + M * 24;
        f = f + M * 2;
    }
}

KERNEL q_gemm_int8(WEIGHT_PARAMS, dptr<const uchar> digits, dptr<const float> factors,
#if BIAS
                   dptr<const float> bias,
#endif
#if RESIDUAL
                   dptr<const float> residual,
#endif
                   dptr<float> y, int M, int N, int K, int per, GRID) {
    SIMDGROUPS {
        int col0 = (tg.x * SGS + sg) * 32, row0 = tg.y * per, cols = min(32, N - col0), rows = min(per, M - row0);
        if (cols > 0) {
            tptr<float> sums = shared + sg * (MT * 32 * (1 + SWIGLU));
            dptr<const uint> d = dptr<const uint>(digits) + row0 * 24;
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

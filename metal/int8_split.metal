// Activations as integers of 16 + LOW bits, block by block of 32: x[M, K] = factors[..][0] * ((a * 2^8 + b) * 2^LOW + c), with a,
// b, c signed bytes; and factors[..][1], the sum of the block. digits[K / 32][M][96]: 32 of a, 32 of b, 32 of c, in order;
// factors[K / 32][M][2].
// Built with: XTYPE, LOW (up to 8), SGS, NORM_EPS (or not: x is first x * rsqrt(mean(x^2) + NORM_EPS) * norm[K]).
// K a multiple of 32. Grid: M / SGS threadgroups; a row is one SIMD-group's.
#define MOST (127.0f * float(1 << (8 + LOW)))             // the largest a has no room for more

KERNEL int8_split(dptr<const XTYPE> x,
#ifdef NORM_EPS
                  dptr<const XTYPE> norm,
#endif
                  dptr<uchar> digits, dptr<float> factors, int M, int K, GRID) {
    SIMDGROUPS {
        int row = tg.x * SGS + sg;
        if (row < M) {
            dptr<const XTYPE> from = x + long(row) * K;
            float scale = 1.0f;
#ifdef NORM_EPS
            vfloat squares = 0.0f;
            for (int k = 0; k < K; k += 32) {
                vfloat v = vfloat(ld(from, lane + k));
                squares += v * v;
            }
            scale = rsqrt(simd_sum(squares) / float(K) + NORM_EPS);
#endif
            for (int k = 0; k < K; k += 32) {
                vfloat v = vfloat(ld(from, lane + k)) * scale;
#ifdef NORM_EPS
                v = v * vfloat(ld(norm, lane + k));
#endif
                float most = simd_max(abs(v)), total = simd_sum(v);
                vint q = vint(rint(v * (most > 0.0f ? MOST / most : 0.0f)));
                vint c = (q + (1 << LOW) / 2 & (1 << LOW) - 1) - (1 << LOW) / 2, upper = (q - c) >> LOW;
                vint b = (upper + 128 & 255) - 128, a = (upper - b) >> 8;
                long at = long(k / 32) * M + row;
                dptr<uchar> bytes = digits + at * 96;                       // a store takes the lowest byte
                st(bytes, lane + 0, vuint(a), first(lane, 32));
                st(bytes, lane + 32, vuint(b), first(lane, 32));
                st(bytes, lane + 64, vuint(c), first(lane, 32));
                vfloat two = select(vfloat(most / MOST), vfloat(total), vint(lane) == 1);
                st(factors + at * 2, lane + 0, two, first(lane, 2));
            }
        }
    }
}

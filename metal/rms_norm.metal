// y[M, K] = x[M, K] * rsqrt(mean of squares of the row + NORM_EPS) * norm[K], in fp32.
// Built with: XTYPE, NORM_EPS, SGS. Grid: M / SGS threadgroups; a row is one SIMD-group's.
KERNEL rms_norm(dptr<const XTYPE> x, dptr<const XTYPE> norm, dptr<float> y, int M, int K, GRID) {
    SIMDGROUPS {
        int row = tg.x * SGS + sg;
        if (row < M) {
            dptr<const XTYPE> from = x + long(row) * K;
            vfloat squares = 0.0f;
            for (int k = 0; k < K; k += 32) {
                vfloat a = vfloat(ld(from, lane + k, first(lane, K - k)));
                squares += a * a;
            }
            float scale = rsqrt(simd_sum(squares) / float(K) + NORM_EPS);
            for (int k = 0; k < K; k += 32) {
                vfloat a = vfloat(ld(from, lane + k, first(lane, K - k))), gain = vfloat(ld(norm, lane + k, first(lane, K - k)));
                st(y + long(row) * K, lane + k, a * scale * gain, first(lane, K - k));
            }
        }
    }
}

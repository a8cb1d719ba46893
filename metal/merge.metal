// out[row] = the parts of a row, weighted by 2^(lse - max). Built with DV, YTYPE, SGS. A SIMD-group owns a row.
// Grid: rows / SGS threadgroups. A part whose lse is -infinity is empty.
KERNEL merge(dptr<const float> part, dptr<const float> lse, dptr<YTYPE> out, int units, int rows, GRID) {
    SIMDGROUPS {
        int row = tg.x * SGS + sg;
        if (row < rows) {
            vfloat acc[(DV + 31) / 32];
            UNROLL for (int c = 0; c < (DV + 31) / 32; ++c) acc[c] = 0.0f;
            float top = -INFINITY, sum = 0.0f;
            for (int u = 0; u < units; ++u) top = max(top, lse[row * units + u]);
            for (int u = 0; u < units; ++u) {
                float one = lse[row * units + u];
                if (one > -INFINITY) {
                    float f = exp2(one - top);
                    sum += f;
                    dptr<const float> p = part + long(row * units + u) * DV;
                    UNROLL for (int c = 0; c < (DV + 31) / 32; ++c)
                        acc[c] += ld(p, lane + 32 * c, first(lane, DV - 32 * c)) * f;
                }
            }
            float f = sum > 0.0f ? 1.0f / sum : 0.0f;
            UNROLL for (int c = 0; c < (DV + 31) / 32; ++c)
                st(out, lane + (row * DV + 32 * c), acc[c] * f, first(lane, DV - 32 * c));
        }
    }
}

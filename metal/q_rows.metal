// y[count, K] = rows ids[count] of W [N, K], decoded: an embedding. Ids outside are taken to the nearest row.
// Built with a header of quants/, then: YTYPE, SGS. K a multiple of 32; W of less than 2^31 units.
// A threadgroup takes 32 ids (lane = id), its SIMD-groups and the `parts` of grid.y share the blocks of 32 weights.
KERNEL q_rows(WEIGHT_PARAMS, dptr<const int> ids, dptr<YTYPE> y, int count, int N, int K, int parts, GRID) {
    SIMDGROUPS {
        int id0 = tg.x * 32, mine = min(32, count - id0);
        vint row = ld(ids, lane + id0, first(lane, mine));
        row = min(max(row, vint(0)), vint(N - 1));
        dptr<YTYPE> out = y + long(id0) * K;
        for (int k = (tg.y * SGS + sg) * 32; k < K; k += parts * SGS * 32) {
            block b = decode(WEIGHTS, row, k, K);
            UNROLL for (int i = 0; i < 32; ++i) st(out, vint(lane) * K + (k + i), b.v[i], first(lane, mine));
        }
    }
}

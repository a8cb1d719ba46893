// V given K: V is stored less its mean and a linear map of K's coefficients as they are read (Tables.values). Attention sums
// coefficients with the same probabilities, and puts the map and the mean to these sums at its end. After a K's header.
#define K_LINES ((DK + 31) / 32)                          // of coefficients of a token
// Number j of group `unit` of a token: where V's mean and the map have it.
#define V_PLACE(unit, j) ((DV & (DV - 1)) != 0 ? (unit) * V_PER + (j) : (j) * V_UNITS + (unit))
#ifdef SEALING
#define V_EXPECTED (32 * DK > 32 + 2048 ? 32 * DK : 32 + 2048)        // what encoding takes, and before it K's coefficients
#define V_SEAL_ROOM (V_EXPECTED + 32 * DV)                // floats of threadgroup memory
#define V_SEALERS (8192 / V_SEAL_ROOM < SGS ? 8192 / V_SEAL_ROOM : SGS)
// What V of tokens t0 + lane is stored less, to room + V_EXPECTED [DV][32], by place. K's part of the record is written.
inline void expect_values(thread const source& s, dptr<const uint> rec, vlane lane, int t0, tptr<float> room) {
    dptr<const float> head = head_of(s.tables, s.head);
    tptr<float> out = room + V_EXPECTED;
    vfloat gain = gain_of(k_gains(rec, lane, t0));
    K_WORDS words = k_near(rec, out, lane, t0);
    for (int n = 0; n < DK / K_BLOCK; ++n) k_coefficients(room + 32 * n * K_BLOCK, head, words, lane, gain, n);
    for (int m = 0; m < DV; m += K_ROWS) {
        tile<K_ROWS> t;
        fill(t, 0.0f);
        for (int n = 0; n < DK / K_BLOCK; ++n)
            mma(t, head + (H_MAP + m * DK + n * K_BLOCK), DK, room + 32 * n * K_BLOCK, int(head[H_STEP + 1 + n]), 32);
        store(t, out + 32 * m, 32);
        SG_BARRIER;
        vfloat y[K_ROWS];
        UNROLL for (int i = 0; i < K_ROWS; ++i) y[i] = out[lane + 32 * (m + i)];
        SG_BARRIER;
        UNROLL for (int i = 0; i < K_ROWS; ++i) out[lane + 32 * (m + i)] = y[i] + head[H_MEAN_V + m + i];
        SG_BARRIER;
    }
}
#endif

// V given K (formats/given.h) in attend: sums of K's coefficients, and what they add to a row of the output. After softmax.h.
#define K_KEPT (HOST ? BLOCKS : 1)                        // blocks of tokens whose coefficients are kept until they have been summed

// A page's tokens with probabilities x. room: as stored_page has filled it, coefficients [K_KEPT][DK][32] on a CPU; on a GPU they
// are decoded once more, from words that are near.
inline void sum_given(thread state& a, thread scores& x, thread vfloat (&gain)[BLOCKS], tptr<float> room, tptr<const float> near,
                      dptr<const uint> rec, dptr<const float> head, vlane lane) {
    UNROLL for (int b = 0; b < BLOCKS; b += K_KEPT)
        UNROLL for (int c = 0; c < K_LINES; ++c)
            for (int j = 0; j < 32 && 32 * c + j < DK; ++j) {
                int d = 32 * c + j, n = d / K_BLOCK, used = int(head[H_STEP + 1 + n]);
#if !HOST
                if (d % K_BLOCK == 0) k_coefficients(room, head, K_WORDS(near + b * K_STAGED), lane, gain[b], n);
#endif
                if (d % K_BLOCK < used) {
                    vfloat y[K_KEPT];
                    UNROLL for (int i = 0; i < K_KEPT; ++i) y[i] = room[lane + 32 * (HOST ? i * DK + d : d % K_BLOCK)];
                    UNROLL for (int r = 0; r < ROWS; ++r) {
                        vfloat sum = 0.0f;
                        UNROLL for (int i = 0; i < K_KEPT; ++i) sum += x.s[r][b + i] * y[i];
                        a.given[r][c] += select(vfloat(0.0f), vfloat(simd_sum(sum)), vint(lane) == j);
                    }
                }
#if !HOST
                SG_BARRIER;
#endif
            }
    UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int b = 0; b < BLOCKS; ++b) a.stored[r] += x.s[r][b];
}
// Adds what row r's sums say, times f, to its output. buffer: 32 * K_LINES + DV floats.
inline void add_given(thread token& x, thread const state& a, int r, dptr<const float> head, tptr<float> buffer, vlane lane, float f) {
    float stored = simd_sum(a.stored[r]);
    UNROLL for (int c = 0; c < K_LINES; ++c) st(buffer, lane + 32 * c, a.given[r][c]);
    SG_BARRIER;
    for (int c = 0; c < DV; c += 32) {
        vfloat y = vfloat(ld(head, lane + (H_MEAN_V + c))) * stored;
        for (int k = 0; k < DK; ++k) y += vfloat(ld(head, lane + (H_MAP + DV * DK + k * DV + c))) * float(buffer[k]);
        st(buffer, lane + (32 * K_LINES + c), y * f);
    }
    SG_BARRIER;
    UNROLL for (int i = 0; i < V_COLUMNS; ++i)
        UNROLL for (int j = 0; j < V_PER; ++j)
            x.v[i][j] += ld(buffer, V_PLACE(vint(lane) + 32 * i, j) + 32 * K_LINES, first(lane, V_UNITS - 32 * i));
    SG_BARRIER;
}

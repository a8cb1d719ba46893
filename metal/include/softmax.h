// The running softmax of attend: its state, scores of a page, masks, and scores to probabilities. Needs attend's macros.
struct state {                                            // of the softmax so far
    vfloat acc[ROWS][LINES][V_PER], l[ROWS];
#ifdef V_OFFSET
    vfloat offset[ROWS];
#endif
#ifdef V_GIVEN
    vfloat given[ROWS][K_LINES], stored[ROWS];            // sums of stored tokens: of K's coefficients, one a lane; of probabilities
#endif
    float m[ROWS];
};
struct scores { vfloat s[ROWS][BLOCKS]; };
// Where a SIMD-group stands: position of its first and last token, first position of the window of the first.
struct place { int h, head, p0, p1, window; };

// s[lane] stays where first[r] <= lane < last[r]: block b starts at position `base`.
inline void mask(thread scores& x, int b, vlane lane, int base, int from, int to, int r) {
    x.s[r][b] = select(vfloat(-INFINITY), x.s[r][b], vint(lane) >= max(0, from - base) && vint(lane) < to - base);
}
// Scores to probabilities, in ps[r][WIDE] where they are to be kept there, and into the sums. `used`: blocks of x.
inline void soften(thread state& a, thread scores& x, tptr<float> ps, vlane lane, int used, bool kept = true) {
    UNROLL for (int r = 0; r < ROWS; ++r) {
        vfloat high = x.s[r][0];
        UNROLL for (int b = 1; b < BLOCKS; ++b) if (b < used) high = max(high, x.s[r][b]);
        float top = simd_max(high);
        if (top > a.m[r]) {                               // a new maximum rescales what is summed
            float f = exp2(a.m[r] - top);
            a.m[r] = top;
            a.l[r] = a.l[r] * f;
#ifdef V_OFFSET
            a.offset[r] = a.offset[r] * f;
#endif
#ifdef V_GIVEN
            a.stored[r] = a.stored[r] * f;
            UNROLL for (int c = 0; c < K_LINES; ++c) a.given[r][c] = a.given[r][c] * f;
#endif
            UNROLL for (int i = 0; i < LINES; ++i)
                UNROLL for (int j = 0; j < V_PER; ++j) a.acc[r][i][j] = a.acc[r][i][j] * f;
        }
        UNROLL for (int b = 0; b < BLOCKS; ++b) if (b < used) {
            x.s[r][b] = exp2(x.s[r][b] - a.m[r]);
            a.l[r] += x.s[r][b];
            if (kept) ps[lane + (r * WIDE + 32 * b)] = x.s[r][b] * P_UNIT;
        }
    }
}

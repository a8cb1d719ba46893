// Products of rows of L with t as integers of three digits, as q_gemv has them of x: what it adds where LOW_BYTES is set.
#define GIVEN digits
#define LOW_WORDS (RANK / 8)                              // of a digit: two of each lane's eight numbers of t
#define LOW_FLOATS (6 * LOW_WORDS + RANK / FGROUP + 1)    // for a row of t: digits, sums of groups, unit

// t in digits, as x is, but in one unit; numbers that a word of L has in its bytes are together.
inline void prepare(dptr<const XTYPE> t, tptr<float> to, vlane lane) {
    for (int b = 0; b < B; ++b) {
        tptr<float> mine = to + b * LOW_FLOATS;
        vfloat most = 0.0f;
        for (int j = 0; j < LOW_WORDS; j += 32) most = max(most, largest(of_word(t + (b * RANK + j * 8), lane, LOW_WORDS - j)));
        float top = simd_max(most), sum = 0.0f;
        for (int k = 0; k < RANK; k += FGROUP) {
            float total = simd_sum(added(of_word(t + (b * RANK + k), lane, FGROUP / 8)));
            st(mine, lane + (6 * LOW_WORDS + k / FGROUP), vfloat(total), first(lane, 1));
            sum += total;
        }
        st(mine, lane + (LOW_FLOATS - 1), vfloat(top * (1.0f / MOST) + sum * 0.0f), first(lane, 1));
        for (int j = 0; j < LOW_WORDS; j += 32) {
            activation a = in_units(of_word(t + (b * RANK + j * 8), lane, LOW_WORDS - j), top);
            UNROLL for (int i = 0; i < 6; ++i) st(tptr<uint>(mine), lane + (i * LOW_WORDS + j), a.d[i], first(lane, LOW_WORDS - j));
        }
    }
}
// A row of L a lane: its groups from group on.
template <typename I> inline void correct_rows(thread results& out, factor l, tptr<float> t, vlane lane, int rows, I group) {
    for (int b = 0; b < B; ++b) {
        tptr<float> more = t + (b * LOW_FLOATS + 6 * LOW_WORDS);
        for (int k = 0; k < RANK; k += FGROUP) {
            vint sums[3];
            UNROLL for (int i = 0; i < 3; ++i) sums[i] = 0;
            for (int n = k; n < k + FGROUP; n += 32)
                dot_rows<FACTOR, LOW_ROW>(sums, l.w + n / 32 * FACTOR, rows, tptr<const uint>(t + b * LOW_FLOATS) + n / 8, LOW_WORDS, lane);
            vfloat scale = vfloat(ld(l.scales + k / FGROUP, group)), offset = vfloat(ld(l.offsets + k / FGROUP, group));
            const float digit = float(1 << DIGIT);
            vfloat sum = (vfloat(sums[0]) * digit + vfloat(sums[1])) * digit + vfloat(sums[2]);
            out.y[b] += sum * (scale * more[RANK / FGROUP]) + offset * more[k / FGROUP];
        }
    }
}
// Adds L t to what lanes 0 .. rows - 1 have: rows row0 .. of W.
APART void correct(thread results& out, factor l, tptr<float> t, vlane lane, int row0, int rows) {
    if (rows == 32) correct_rows(out, at_row(l, row0), t, lane, 32, spread<1, RANK / FGROUP>(lane));
    else correct_rows(out, at_row(l, row0), t, lane, rows, min(vint(lane), vint(rows - 1)) * (RANK / FGROUP));
}

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
// A row of L a lane: its words from row on, and its groups from group on.
template <typename I, typename J> inline void correct_rows(thread results& out, factor l, tptr<float> t, I row, J group) {
    for (int k = 0; k < RANK; k += FGROUP) {
        vint sums[B][3];
        UNROLL for (int b = 0; b < B; ++b) UNROLL for (int i = 0; i < 3; ++i) sums[b][i] = 0;
        UNROLL for (int n = 0; n < FGROUP / 32; ++n) {
            byte_pairs c = bytes_of(l.w + (k / 32 + n) * FACTOR, row);
            UNROLL for (int b = 0; b < B; ++b) UNROLL for (int i = 0; i < 3; ++i) UNROLL for (int j = 0; j < 4; ++j) {
                tptr<uint> digits = tptr<uint>(t + b * LOW_FLOATS) + (2 * i * LOW_WORDS + k / 8 + n * 4 + j);
#if FACTOR == 4
                sums[b][i] = dot8<4>(sums[b][i], c.a[j], vuint(digits[0]), c.b[j], vuint(digits[LOW_WORDS]));
#else
                sums[b][i] = dot4(dot4(sums[b][i], c.a[j], digits[0]), c.b[j], digits[LOW_WORDS]);
#endif
            }
        }
        vfloat scale = vfloat(ld(l.scales + k / FGROUP, group)), offset = vfloat(ld(l.offsets + k / FGROUP, group));
        UNROLL for (int b = 0; b < B; ++b) {
            tptr<float> more = t + (b * LOW_FLOATS + 6 * LOW_WORDS);
            const float digit = float(1 << DIGIT);
            vfloat sum = (vfloat(sums[b][0]) * digit + vfloat(sums[b][1])) * digit + vfloat(sums[b][2]);
            out.y[b] += sum * (scale * more[RANK / FGROUP]) + offset * more[k / FGROUP];
        }
    }
}
// Adds L t to what lanes 0 .. rows - 1 have: rows row0 .. of W.
APART void correct(thread results& out, factor l, tptr<float> t, vlane lane, int row0, int rows) {
    if (rows == 32) correct_rows(out, at_row(l, row0), t, spread<1, LOW_ROW>(lane), spread<1, RANK / FGROUP>(lane));
    else correct_rows(out, at_row(l, row0), t, min(vint(lane), vint(rows - 1)) * LOW_ROW, min(vint(lane), vint(rows - 1)) * (RANK / FGROUP));
}

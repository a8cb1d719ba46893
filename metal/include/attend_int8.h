// attend with integer products. A row of q, or of probabilities, is a factor times integers, each a * 2^16 + b * 2^8 + c: three
// digits, signed bytes. They lie in threadgroup memory, [3][ROWS][numbers]; dot4 multiplies four of them with four codes,
// exactly. For CPUs that do this at once. After softmax.h.
// A format gives K_BYTES(w, i) and V_BYTES(w, i): numbers 4 i .. 4 i + 3 of a group as bytes; K_ZERO: the byte of a number 0,
// which has none where it is not defined; V_SIGNED: V's bytes are signed; K_GRAIN, V_GRAIN: what a byte is times.
#if V_SIGNED                                              // where digits are not signed, as codes of V are
#define V_MOST 16776960.0f
#define V_HALF 0
#else
#define V_MOST MOST
#define V_HALF 128
#endif
#define MOST 8323072.0f                                   // 127 * 2^16: the largest a has no room for more
#define AT_ONCE (ROWS < 4 ? ROWS : 4)                     // rows whose sums stay in registers
#ifndef K_GRAIN
#define K_GRAIN 1.0f
#endif
#ifndef V_GRAIN
#define V_GRAIN 1.0f
#endif
// Digits of an integer, to three bytes that lie `apart`. half: 128, or 0 for digits from 0 to 255. A store takes the lowest byte.
inline void put_digits(tptr<char> to, vlane lane, vint x, int half, int apart, int n) {
    vint b = (x + half) >> 8, a = (b + half) >> 8;
    st(to, lane + 0, a, first(lane, n));
    st(to, lane + apart, b, first(lane, n));
    st(to, lane + 2 * apart, x, first(lane, n));
}
// The sum of products, from those of the digits.
inline vfloat of_digits(thread vint (&sum)[3]) { return vfloat(sum[0]) * 65536.0f + (vfloat(sum[1]) * 256.0f + vfloat(sum[2])); }

#if K_INT8
#define UNITS_AT (3 * ROWS * DK / 4)                      // after the digits of q: a factor of each row, and three sums
// ROWS rows of DK numbers to digits.
inline void split_rows(tptr<float> rows, tptr<float> digits, vlane lane) {
    UNROLL for (int r = 0; r < ROWS; ++r) {
        vfloat high = 0.0f;
        for (int d = 0; d < DK; d += 32) high = max(high, abs(ld(rows, lane + (r * DK + d), first(lane, DK - d))));
        float most = simd_max(high), f = most > 0.0f ? MOST / most : 0.0f;
#ifdef K_ZERO
        vfloat sums[3];
        UNROLL for (int i = 0; i < 3; ++i) sums[i] = 0.0f;
#endif
        for (int d = 0; d < DK; d += 32) {
            vfloat y = ld(rows, lane + (r * DK + d), first(lane, DK - d));
            vint x = vint(rint(y * f));
            put_digits(tptr<char>(digits) + (r * DK + d), lane, x, 128, ROWS * DK, DK - d);
#ifdef K_ZERO
            vint b = (x + 128) >> 8, a = (b + 128) >> 8;
            sums[0] += vfloat(a);
            sums[1] += vfloat(b - (a << 8));
            sums[2] += vfloat(x - (b << 8));
#endif
        }
        st(digits, lane + (UNITS_AT + 4 * r), vfloat(most * (K_GRAIN / MOST)), first(lane, 1));
#ifdef K_ZERO
        UNROLL for (int i = 0; i < 3; ++i)
            st(digits, lane + (UNITS_AT + 4 * r + 1 + i), vfloat(simd_sum(sums[i]) * -K_ZERO), first(lane, 1));
#endif
    }
}
// The scores of one stored page.
inline void int8_scores(thread scores& x, dptr<const uint> rec, dptr<const uint> next, tptr<float> digits, vlane lane) {
    tptr<const uint> words = tptr<const uint>(digits);
    UNROLL for (int r0 = 0; r0 < ROWS; r0 += AT_ONCE)
        UNROLL for (int b = 0; b < BLOCKS; ++b) {
            vint sum[AT_ONCE][3];
            UNROLL for (int r = 0; r < AT_ONCE; ++r)
                UNROLL for (int i = 0; i < 3; ++i) {
#ifdef K_ZERO
                    sum[r][i] = int(digits[UNITS_AT + 4 * (r0 + r < ROWS ? r0 + r : 0) + 1 + i]);
#else
                    sum[r][i] = 0;
#endif
                }
            for (int g = 0; g < K_GROUPS; ++g) {
                vuint k[K_LOADS];
                int at = AT_K + g * (K_LOADS * PAGE) + 32 * b;
                UNROLL for (int i = 0; i < K_LOADS; ++i) {
                    if (r0 == 0) prefetch(next + (at + i * PAGE), BLOCK);
                    k[i] = ld(rec, lane + (at + i * PAGE), first(lane, BLOCK));
                }
                UNROLL for (int n = 0; n < K_PER / 4; ++n) {
                    vuint four = K_BYTES(k, n);
                    UNROLL for (int r = 0; r < AT_ONCE; ++r)
                        UNROLL for (int i = 0; i < 3; ++i)
                            if (r0 + r < ROWS) sum[r][i] = dot4(sum[r][i], four, words[((i * ROWS + r0 + r) * DK + g * K_PER) / 4 + n]);
                }
            }
            UNROLL for (int r = 0; r < AT_ONCE; ++r)
                if (r0 + r < ROWS) x.s[r0 + r][b] = of_digits(sum[r]) * digits[UNITS_AT + 4 * (r0 + r)];
        }
}
#endif

#if V_INT8
// Rows of x, probabilities times scales, to digits in ps; returns what their sums are times. No probability is above 1, so that
// one factor does for all. most: the largest scale, as a word: NaN is above all numbers.
inline float weights_unit(vint most) { return as_float(uint(simd_max(most))); }
inline void split_weights(thread scores& x, float unit, tptr<float> ps, vlane lane) {
    float f = unit > 0.0f ? V_MOST / unit : 0.0f;
    UNROLL for (int r = 0; r < ROWS; ++r)
        UNROLL for (int b = 0; b < BLOCKS; ++b)
            put_digits(tptr<char>(ps) + (r * PAGE + 32 * b), lane, vint(x.s[r][b] * f + 0.5f), V_HALF, ROWS * PAGE, BLOCK);
}
inline vint v_dot4(vint sum, vuint four, uint digits) {
#ifdef V_SIGNED
    return dot4(sum, vuint(digits), four);
#else
    return dot4(sum, four, digits);
#endif
}
// A page's codes of V times the probabilities whose digits are in ps, into the sums.
inline void int8_values(thread state& a, dptr<const uint> rec, dptr<const uint> next, tptr<float> ps, float unit,
                        vlane lane) {
    tptr<const uint> words = tptr<const uint>(ps);
    UNROLL for (int r0 = 0; r0 < ROWS; r0 += AT_ONCE)
        UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
            vint sum[AT_ONCE][3];
            UNROLL for (int r = 0; r < AT_ONCE; ++r) UNROLL for (int i = 0; i < 3; ++i) sum[r][i] = 0;
            for (int g = 0; g < PAGE / V_DEEP; ++g) {
                vuint v[V_LOADS];
                int at = AT_V + g * (V_LOADS * DV) + 32 * c;
                UNROLL for (int i = 0; i < V_LOADS; ++i) {
                    if (r0 == 0) prefetch(next + (at + i * DV), DV - 32 * c < 32 ? DV - 32 * c : 32);
                    v[i] = ld(rec, lane + (at + i * DV), first(lane, DV - 32 * c));
                }
                UNROLL for (int n = 0; n < V_DEEP / 4; ++n) {
                    vuint four = V_BYTES(v, n);
                    UNROLL for (int r = 0; r < AT_ONCE; ++r)
                        UNROLL for (int i = 0; i < 3; ++i)
                            if (r0 + r < ROWS) sum[r][i] = v_dot4(sum[r][i], four, words[((i * ROWS + r0 + r) * PAGE + g * V_DEEP) / 4 + n]);
                }
            }
            UNROLL for (int r = 0; r < AT_ONCE; ++r)
                if (r0 + r < ROWS) a.acc[r0 + r][c][0] += of_digits(sum[r]) * (unit * (V_GRAIN / V_MOST));
        }
}
#endif

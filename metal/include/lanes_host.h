// The lanes dialect on a CPU: functions, matrices, and the shape of a kernel. See metal/README.md for the rules.
#pragma once
#include "lanes_memory.h"

namespace lanes {
// ---- functions of MSL -------------------------------------------------------------------------------
#define LANES_SELECT(V) LI V select(V a, V b, vbool c) { EACH a.p[k_] = c.p[k_] ? b.p[k_] : a.p[k_]; return a; } \
    LI V max(V a, V b) { EACH a.p[k_] = a.p[k_] > b.p[k_] ? a.p[k_] : b.p[k_]; return a; }                        \
    LI V min(V a, V b) { EACH a.p[k_] = a.p[k_] < b.p[k_] ? a.p[k_] : b.p[k_]; return a; }
LANES_SELECT(vfloat) LANES_SELECT(vint) LANES_SELECT(vuint)
LI float max(float a, float b) { return a > b ? a : b; } LI float min(float a, float b) { return a < b ? a : b; }
LI int max(int a, int b) { return a > b ? a : b; } LI int min(int a, int b) { return a < b ? a : b; }
LI float exp2(float x) { return __builtin_exp2f(x); } LI float log2(float x) { return __builtin_log2f(x); }
LI float sqrt(float x) { return __builtin_sqrtf(x); } LI float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
LI vfloat sqrt(vfloat a) { EACH EACH_LANE a.p[k_][l_] = __builtin_sqrtf(a.p[k_][l_]); return a; }
LI vfloat abs(vfloat a) { EACH a.p[k_] = (fpart)((upart)a.p[k_] & 0x7fffffffu); return a; }
LI vfloat rint(vfloat a) {                                               // to nearest even; |a| < 2^22, or any on AVX-512
#if LANES_AVX512
    EACH a.p[k_] = (fpart)_mm512_roundscale_ps((__m512)a.p[k_], 0);
#else
    EACH { fpart t = a.p[k_] + 12582912.0f; asm("" : "+m"(t)); a.p[k_] = t - 12582912.0f; }
#endif
    return a;
}
LI vfloat exp2(vfloat x) { // 2^r by a polynomial, |r| <= 1/2; 0 below 2^-126
    vfloat y;
    EACH {
#if LANES_AVX512
        fpart a = x.p[k_], c = (fpart)_mm512_max_ps(_mm512_set1_ps(-200.0f), (__m512)a);   // NaN stays NaN
#elif LANES_AVX2
        fpart a = x.p[k_], c = (fpart)_mm256_max_ps(_mm256_set1_ps(-127.0f), _mm256_min_ps(_mm256_set1_ps(128.0f), (__m256)a));
#else
        fpart a = x.p[k_], c = a > 128.0f ? 128.0f - fpart{} : a;
        c = c < -127.0f ? -127.0f - fpart{} : c;
#endif
        fpart t = c + 12582912.0f, n = t - 12582912.0f;
        fpart r = c - n, s = 1.5403530e-4f - fpart{};
        s = s * r + 1.3333558e-3f; s = s * r + 9.6181291e-3f; s = s * r + 5.5504109e-2f;
        s = s * r + 2.4022651e-1f; s = s * r + 6.9314718e-1f; s = s * r + 1.0f;
#if LANES_AVX512
        y.p[k_] = (fpart)_mm512_scalef_ps((__m512)s, (__m512)n);
#elif LANES_AVX2                                          // n, whose bits t ends with, to the exponent
        y.p[k_] = (fpart)_mm256_andnot_ps((__m256)(a < -126.0f), (__m256)((ipart)s + ((ipart)t << 23)));
#else
        ipart e = (__builtin_convertvector(n, ipart) + 127) << 23;
        s = s * (fpart)e;
        y.p[k_] = a < -126.0f ? fpart{} : s;
#endif
    }
    return y;
}
LI vfloat half_lo(vuint w) { vfloat r; EACH r.p[k_] = half_part(w.p[k_]); return r; }
LI vfloat half_hi(vuint w) { vfloat r; EACH r.p[k_] = half_part(w.p[k_] >> 16); return r; }
LI float half_lo(uint w) { return half_to_float(ushort(w)); }
LI float half_hi(uint w) { return half_to_float(ushort(w >> 16)); }
LI vuint half_bits(vfloat v) { vuint r; EACH r.p[k_] = part_half(v.p[k_]); return r; }
LI vuint half_pair(vfloat lo, vfloat hi) { return half_bits(lo) | half_bits(hi) << 16; }
LI vfloat bfloat_lo(vuint w) { return as_float(w << 16); }
LI vfloat bfloat_hi(vuint w) { return as_float(w & 0xffff0000u); }
LI float bfloat_lo(uint w) { return as_float(w << 16); }
LI float bfloat_hi(uint w) { return as_float(w & 0xffff0000u); }
}  // namespace lanes
#include "lanes_bytes.h"

namespace lanes {
// ---- across the SIMD-group ----------------------------------------------------------------------------
LI float simd_sum(vfloat a) { fpart s = a.p[0]; UNROLL for (int k = 1; k < NP; ++k) s += a.p[k]; return add_lanes(s); }
LI float simd_max(vfloat a) {
    fpart s = a.p[0];
    UNROLL for (int k = 1; k < NP; ++k) s = s > a.p[k] ? s : a.p[k];
    return max_lanes(s);
}
LI float simd_min(vfloat a) { return -simd_max(-a); }
LI int simd_sum(vint a) { int s = 0; for (int l = 0; l < 32; ++l) s += a.get(l); return s; }
LI int simd_max(vint a) {
    ipart s = a.p[0];
    UNROLL for (int k = 1; k < NP; ++k) s = s > a.p[k] ? s : a.p[k];
#if LANES_AVX512
    return _mm512_reduce_max_epi32((__m512i)s);
#else
    int m = s[0];
    for (int l = 1; l < W; ++l) m = max(m, s[l]);
    return m;
#endif
}
#if LANES_AVX2                                            // floats that a total takes in memory
#define TOTAL 8
LI void put_total(ptr<float> p, vtotal t, vlane) { p.check(0); p.check(W - 1); memcpy(p.p, &t.p, sizeof t.p); }
LI vtotal get_total(ptr<float> p, vlane) { p.check(0); p.check(W - 1); vtotal t; t.p = read<fpart>(p.p); return t; }
#else
#define TOTAL 32
LI void put_total(ptr<float> p, vtotal t, vlane lane) { p[lane] = t; }
LI vtotal get_total(ptr<float> p, vlane lane) { return p[lane]; }
#endif
// Lane r < n: the sum of the numbers of the total at p + TOTAL r. Further lanes: anything; their memory is read.
LI vfloat sum_rows(ptr<float> p, vlane, int n) {
    for (int r = 0; r < n; ++r) { p.check(TOTAL * r); p.check(TOTAL * r + TOTAL - 1); }
    vfloat s = 0.0f;
#if LANES_AVX512
#define LANES_ADD(a, b, how, x, y) (how(a, b, x) + how(a, b, y))          // halves of the numbers left of a, and of b
    EACH if (k_ * W < n) {
        __m512 v[16];
        UNROLL for (int r = 0; r < 16; ++r) v[r] = (__m512)(read<fpart>(p.p + (k_ * W + r) * 32) + read<fpart>(p.p + (k_ * W + r) * 32 + 16));
        UNROLL for (int r = 0; r < 8; ++r) v[r] = LANES_ADD(v[r], v[r + 8], _mm512_shuffle_f32x4, 0x44, 0xee);
        UNROLL for (int r = 0; r < 4; ++r) v[r] = LANES_ADD(v[r], v[r + 4], _mm512_shuffle_f32x4, 0x88, 0xdd);
        UNROLL for (int r = 0; r < 2; ++r) v[r] = LANES_ADD(v[r], v[r + 2], _mm512_shuffle_ps, 0x44, 0xee);
        v[0] = LANES_ADD(v[0], v[1], _mm512_shuffle_ps, 0x88, 0xdd);
        s.p[k_] = (fpart)_mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), v[0]);
    }
#elif LANES_AVX2
    EACH if (k_ * W < n) {
        __m256 v[8];
        UNROLL for (int r = 0; r < 8; ++r) v[r] = (__m256)read<fpart>(p.p + (k_ * W + r) * TOTAL);
        UNROLL for (int r = 0; r < 8; r += 2) v[r] = _mm256_unpacklo_ps(v[r], v[r + 1]) + _mm256_unpackhi_ps(v[r], v[r + 1]);
        UNROLL for (int r = 0; r < 8; r += 4) v[r] = _mm256_shuffle_ps(v[r], v[r + 2], 0x44) + _mm256_shuffle_ps(v[r], v[r + 2], 0xee);
        s.p[k_] = (fpart)(_mm256_permute2f128_ps(v[0], v[4], 0x20) + _mm256_permute2f128_ps(v[0], v[4], 0x31));
    }
#else
    vfloat4 v;
    UNROLL for (int i = 0; i < 32; i += 4) {
        load_quads(v, (const float*)p.p, vspread<1, 32, 1, 1, 0, 1, 32>{i}, n);
        s += (v.x + v.y) + (v.z + v.w);
    }
#endif
    return s;
}
// Of the first n lanes, up to 16: lane l has element l / N of p, or of q where l is odd; others have zero.
template <int N, class T> LI vfloat ld_in_turns(ptr<const T> p, ptr<const T> q, vlane lane, int n) {
#if LANES_AVX2
    if constexpr (sizeof(T) == 2) if (n == 16) {
        p.check(0); p.check(16 / N - 1); q.check(0); q.check(16 / N - 1);
        return in_turns<N, same<T, half>::v>((const char*)p.p, (const char*)q.p);
    }
#endif
    typedef vspread<N, 1, 0, 1, 0, N, 16> I;
    return select(vfloat(ld(p, I{0}, first(lane, n))), vfloat(ld(q, I{0}, first(lane, n))), vint(lane) % 2 == 1);
}
#if !LANES_AVX512
template <int... L> LI fpart few_lanes(fpart v, uint m, std::integer_sequence<int, L...>) {
    return (fpart)((upart)v & upart{(m >> L & 1u ? ~0u : 0u)...});
}
#endif
// sum + v in the lanes whose bit of MASK is set, sum elsewhere: no instruction for a part without such lanes.
template <uint MASK> LI vfloat add_some(vfloat sum, vfloat v, vlane) {
    EACH {
        const uint m = MASK >> (k_ * W) & ((1u << W) - 1u);
        if (m + 1u == 1u << W) sum.p[k_] += v.p[k_];
#if LANES_AVX512
        else if (m) sum.p[k_] = (fpart)_mm512_mask_add_ps((__m512)sum.p[k_], __mmask16(m), (__m512)sum.p[k_], (__m512)v.p[k_]);
#else
        else if (m) sum.p[k_] += few_lanes(v.p[k_], m, std::make_integer_sequence<int, W>());
#endif
    }
    return sum;
}
#if LANES_AVX2
template <uint MASK> LI vtotal add_some(vtotal sum, vfloat v, vlane) {
    EACH {
        const uint m = MASK >> (k_ * W) & ((1u << W) - 1u);
        if (m) sum.p += few_lanes(v.p[k_], m, std::make_integer_sequence<int, W>());
    }
    return sum;
}
#endif
// sum + a * b * times in the lanes whose bit of MASK is set: the first 8, 16 or all. times is the same in all lanes.
template <uint MASK> LI vtotal add_times(vtotal sum, vfloat a, vfloat b, vfloat times, vlane lane) {
#if LANES_AVX2
    fpart t = {};
    static_assert(MASK == 0xffu || MASK == 0xffffu || MASK == 0xffffffffu, "whole parts");
    EACH if (MASK >> (k_ * W) & 1u) {
        t = k_ ? (fpart)_mm256_fmadd_ps((__m256)a.p[k_], (__m256)b.p[k_], (__m256)t) : a.p[0] * b.p[0];
    }
    sum.p = (fpart)_mm256_fmadd_ps((__m256)t, (__m256)times.p[0], (__m256)sum.p);
    return sum;
#else
    return add_some<MASK>(sum, a * b * times, lane);
#endif
}
// t + lanes N r to N r + N - 1 of v.
template <int N> LI vtotal add_range(vtotal t, vfloat v, int r, vlane lane) {
#if LANES_AVX2
    if constexpr (N >= W) UNROLL for (int k = 0; k < N / W; ++k) t.p += v.p[r * (N / W) + k];
    else {
        static_assert(N == 4, "half of a part, or whole ones");
        __m256 part = (__m256)v.p[r / 2], none = _mm256_setzero_ps();
        t.p += (fpart)(r % 2 ? _mm256_blend_ps(none, part, 0xf0) : _mm256_blend_ps(none, part, 0x0f));
    }
    return t;
#else
    return t + select(vfloat(0.0f), v, vint(lane) / N == r);
#endif
}
LI float simd_broadcast(vfloat a, int lane) { return a.get(lane & 31); }
LI int simd_broadcast(vint a, int lane) { return a.get(lane & 31); }
LI uint simd_broadcast(vuint a, int lane) { return a.get(lane & 31); }
LI vfloat simd_shuffle(vfloat a, vint i) {
    vfloat r;
#if LANES_AVX512
    EACH r.p[k_] = (fpart)_mm512_permutex2var_ps((__m512)a.p[0], (__m512i)i.p[k_], (__m512)a.p[1]);
#elif LANES_AVX2
    EACH {
        __m256i x = (__m256i)i.p[k_];
        __m256 lo =
            _mm256_blendv_ps(_mm256_permutevar8x32_ps((__m256)a.p[0], x), _mm256_permutevar8x32_ps((__m256)a.p[1], x),
                             _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
        __m256 hi =
            _mm256_blendv_ps(_mm256_permutevar8x32_ps((__m256)a.p[2], x), _mm256_permutevar8x32_ps((__m256)a.p[3], x),
                             _mm256_castsi256_ps(_mm256_slli_epi32(x, 28)));
        r.p[k_] = (fpart)_mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32(x, 27)));
    }
#else
    const float* t = (const float*)&a;
    EACH EACH_LANE r.p[k_][l_] = t[i.p[k_][l_] & 31];
#endif
    return r;
}
LI vfloat simd_shuffle16(vfloat a, vint i) {              // lanes 0 .. 15 of a, to any: lane l gets lane i % 16
    vfloat r;
#if LANES_AVX2
    EACH {
        bool low = true, high = true;                     // all of one part, and known to be
        EACH_LANE { low = low && (i.p[k_][l_] & 8) == 0; high = high && (i.p[k_][l_] & 8) != 0; }
        if (__builtin_constant_p(low) && low) r.p[k_] = (fpart)_mm256_permutevar8x32_ps((__m256)a.p[0], (__m256i)(i.p[k_] & 7));
        else if (__builtin_constant_p(high) && high) r.p[k_] = (fpart)_mm256_permutevar8x32_ps((__m256)a.p[1], (__m256i)(i.p[k_] & 7));
        else r.p[k_] = table_part((const float*)&a, (upart)i.p[k_]);
    }
#else
    EACH r.p[k_] = table_part((const float*)&a, (upart)i.p[k_]);
#endif
    return r;
}
LI float simd_shuffle(vfloat a, int i) { return simd_broadcast(a, i); }
// Lanes N r .. N r + N - 1: lanes FROM .. FROM + N - 1 of the value r of four; lanes from 4 N on have anything.
template <int N, int FROM, int K, class P, int... L> LI P join_part(const P* a, const P* b, const P* c, const P* d, std::integer_sequence<int, L...>) {
    constexpr int row = K * W / N % 4, part = (FROM + K * W % N) / W, at = FROM % W;
    const P* rows[4] = {a, b, c, d};
    if constexpr (N >= W) return rows[row][part];
    else {
        P two = LANES_SHUFFLE(ipart, rows[row][part], rows[row + 1][part], (L % N + at + L / N % 2 * W)...);
        if constexpr (2 * N >= W) return two;
        else return LANES_SHUFFLE(ipart, two, LANES_SHUFFLE(ipart, rows[2][part], rows[3][part], (L % N + at + L / N % 2 * W)...), (L < 2 * N ? L : W + L - 2 * N)...);
    }
}
template <int N, int FROM, class V, int... K> LI V join_parts(const V& a, const V& b, const V& c, const V& d, std::integer_sequence<int, K...>) {
    V r;
    ((r.p[K] = join_part<N, FROM, K>(a.p, b.p, c.p, d.p, std::make_integer_sequence<int, W>())), ...);
    return r;
}
template <int N, int FROM> LI vfloat join(vfloat a, vfloat b, vfloat c, vfloat d, vlane) { return join_parts<N, FROM>(a, b, c, d, parts()); }
template <int N, int FROM> LI vuint join(vuint a, vuint b, vuint c, vuint d, vlane) { return join_parts<N, FROM>(a, b, c, d, parts()); }
LI vuint simd_shuffle(vuint a, vint i) { return as_uint(simd_shuffle(as_float(a), i)); }
LI vint simd_shuffle(vint a, vint i) { return vint(simd_shuffle(vuint(a), i)); }
template <class V> LI V simd_shuffle_xor(V a, int m) { return simd_shuffle(a, iota() ^ vint(m)); }
LI uint ballot(vbool m) {                                  // bit l: lane l of m
    uint w = 0;
#if LANES_AVX512
    EACH w |= uint(_mm512_movepi32_mask((__m512i)m.p[k_])) << (W * k_);
#elif LANES_AVX2
    EACH w |= uint(_mm256_movemask_ps((__m256)m.p[k_])) << (W * k_);
#else
    EACH EACH_LANE w |= uint(m.p[k_][l_] & 1) << (W * k_ + l_);
#endif
    return w;
}
LI bool simd_any(vbool m) {
    ipart s = m.p[0];
    UNROLL for (int k = 1; k < NP; ++k) s |= m.p[k];
    for (int l = 0; l < W; ++l)
        if (s[l]) return true;
    return false;
}
LI bool simd_all(vbool m) { return !simd_any(!m); }

// ---- matrices: M x 32 accumulators of one SIMD-group; lane = column -----------------------------------
template <int M> struct tile { vfloat row[M]; };
template <int M> LI void fill(tile<M>& t, float v) { for (int m = 0; m < M; ++m) t.row[m] = v; }
constexpr int most(int m, int limit) { // the largest divisor of m up to limit
    while (m % limit) --limit;
    return limit;
}
// R rows from m0 on: += a[R][K] b[K][32], each row's sum in the order of k whatever R is.
template <int R, int M> LI void mma_rows(tile<M>& t, int m0, const float* a, int lda, const float* b, int K, int ldb) {
    constexpr int PB = LANES_VB == 32 && R <= 3 ? NP : MMA_PARTS;
    for (int p0 = 0; p0 < NP; p0 += PB) {
        fpart c[R][PB];
        UNROLL for (int m = 0; m < R; ++m) UNROLL for (int p = 0; p < PB; ++p) c[m][p] = t.row[m0 + m].p[p0 + p];
        const float* y = b + p0 * W;
        for (int k = 0; k < K; ++k, y += ldb) {
#if LANES_AVX2                                            // asm: else each product loads its factor again, and loads are many
            if constexpr (PB == NP) {                     // few rows: their factors stay in registers
                fpart f[R];
                UNROLL for (int m = 0; m < R; ++m) { f[m] = a[long(m) * lda + k] - fpart{}; asm("" : "+x"(f[m])); }
                UNROLL for (int p = 0; p < PB; ++p) {
                    fpart w = read<fpart>(y + p * W);
                    asm volatile("" : "+x"(w));           // volatile: one after the other
                    UNROLL for (int m = 0; m < R; ++m) c[m][p] += f[m] * w;
                }
                continue;
            }
#endif
            fpart w[PB];
            UNROLL for (int p = 0; p < PB; ++p) {
                w[p] = read<fpart>(y + p * W);
#if LANES_AVX2
                asm("" : "+x"(w[p]));
#endif
            }
            UNROLL for (int m = 0; m < R; ++m) {
                float f = a[long(m) * lda + k];
                UNROLL for (int p = 0; p < PB; ++p) c[m][p] += f * w[p];
            }
        }
        UNROLL for (int m = 0; m < R; ++m) UNROLL for (int p = 0; p < PB; ++p) t.row[m0 + m].p[p0 + p] = c[m][p];
    }
}
template <int R, int M> APART void mma_few(tile<M>& t, int m0, const float* a, int lda, const float* b, int K, int ldb) {
    mma_rows<R>(t, m0, a, lda, b, K, ldb);
}
template <int R, int M> LI void mma_rest(int rest, tile<M>& t, int m0, const float* a, int lda, const float* b, int K, int ldb) {
    if constexpr (R > 0) {
        if (rest == R) mma_few<R>(t, m0, a, lda, b, K, ldb);
        else mma_rest<R - 1>(rest, t, m0, a, lda, b, K, ldb);
    }
}
template <int M, class A, class B>
LI void mma(tile<M>& t, ptr<A> a, int lda, ptr<B> b, int K, int ldb = 32, int rows = M) { // += a[rows][K] b[K][32]
    static_assert(M % 4 == 0, "rows of a tile");
    constexpr int RB = most(M, MMA_ROWS);
    a.check(0); a.check(long(rows - 1) * lda + K - 1); b.check(long(K - 1) * ldb + 31);
    const float *x = (const float*)a.p, *y = (const float*)b.p;
    int m0 = 0;
#if LANES_AVX2
    for (; m0 + RB <= rows; m0 += RB) mma_few<RB>(t, m0, x + long(m0) * lda, lda, y, K, ldb);
#else
    for (; m0 + RB <= rows; m0 += RB) mma_rows<RB>(t, m0, x + long(m0) * lda, lda, y, K, ldb);
#endif
    if (rows < M) mma_rest<RB - 1>(rows - m0, t, m0, x + long(m0) * lda, lda, y, K, ldb);
}
#if LANES_AVX2
// sums[r] += the sum of a[r * lda + k] * b[k * ldb + lane] over k < K, in this order. On CPUs only, where STAGED is 1.
template <int R> LI void add_products(vfloat (&sums)[R], ptr<float> a, int lda, ptr<const float> b, int K, int ldb) {
    static_assert(sizeof(tile<R>) == sizeof sums, "");
    constexpr int some = R <= 6 ? R : 4;                  // rows at once
    a.check(0); a.check(long(R - 1) * lda + K - 1); b.check(0); b.check(long(K - 1) * ldb + 31);
    tile<R>& t = (tile<R>&)sums;
    mma_few<some>(t, 0, a.p, lda, b.p, K, ldb);
    if constexpr (R > some) add_products((vfloat(&)[R - some])sums[some], a + some * lda, lda, b, K, ldb);
}
#endif
// K is a multiple of 8, and so is M where the kernel is to run on Metal. `rows`: the first of a tile, for those rows alone;
// a GPU ignores it, and takes whole tiles.
template <int M> LI void store(tile<M>& t, ptr<float> y, int ldy, int rows = M) {
    for (int m = 0; m < rows; ++m) y[vspan{m * ldy}] = t.row[m];
}
template <int M> LI void add(tile<M>& t, ptr<const float> y, int ldy, int rows = M) {
    for (int m = 0; m < rows; ++m) t.row[m] += y[vspan{m * ldy}];
}
template <int M> LI void gate(tile<M>& t, const tile<M>& up) {           // silu(t) * up
    for (int m = 0; m < M; ++m) t.row[m] = t.row[m] / (1.0f + exp2(t.row[m] * -1.44269504f)) * up.row[m];
}
template <int M> LI void scale_rows(tile<M>& t, ptr<float> f, vlane) {
    for (int m = 0; m < M; ++m) t.row[m] = t.row[m] * f[m];
}
template <int M> LI void scale_rows(tile<M>& t, vfloat f, vlane) {
    for (int m = 0; m < M; ++m) t.row[m] = t.row[m] * f.get(m);
}

// ---- the shape of a kernel ------------------------------------------------------------------------------
#define KEEP(T, x) T x[SGS]                               // state a SIMD-group keeps from phase to phase
#define MINE sg
#define GRID int3 tg, vlane lane, int, tptr<float> shared
#define SIMDGROUPS for (int sg = 0; sg < SGS; ++sg)       // a phase: every SIMD-group of the threadgroup, in turn
#define TG_BARRIER ((void)0)                              // only between phases, so nothing is left to wait for
#define DEVICE_BARRIER ((void)0)                          // the same for what the threadgroup wrote to device memory
#define SG_BARRIER ((void)0)
#define KERNEL static LI void
#define HOST 1
#if LANES_AVX2                                            // whether add_products is faster than sums over registers
#define STAGED 1
#else
#define STAGED 0
#endif
#define REGISTERS (LANES_VB == 64 ? 32 : 16)             // for vectors
}  // namespace lanes
#define device
#define constant
#define threadgroup
#define thread
#define inline inline __attribute__((always_inline))      // a kernel's helpers work on registers

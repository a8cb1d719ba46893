// The lanes dialect on a CPU, words as four bytes: products, look-ups, bits.
#pragma once
#include "lanes_memory.h"

namespace lanes {
#if LANES_AVX2
template <int BITS, int TIMES> LI ipart dot8_part(upart a, upart b, upart c, upart d) {        // products of a and b, and of c and d, times TIMES
    const __m256i times = _mm256_set1_epi16(TIMES);
    __m256i s = _mm256_maddubs_epi16((__m256i)a, (__m256i)b), t = _mm256_maddubs_epi16((__m256i)c, (__m256i)d);
    if constexpr (BITS <= 7) return (ipart)_mm256_madd_epi16(_mm256_add_epi16(s, t), times);   // sums of four products fit into 16 bits
    else return (ipart)_mm256_add_epi32(_mm256_madd_epi16(s, times), _mm256_madd_epi16(t, times));
}
#endif
LI vint dot4(vint sum, vuint a, vuint b) {                // sum + the four products of bytes: a's unsigned, b's signed
#if LANES_AVX512 && defined(__AVX512VNNI__) && defined(__clang__)
    // In the order as written: clang would put the products of one sum, which wait for each other, side by side.
    EACH asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum.p[k_]) : "v"(a.p[k_]), "v"(b.p[k_]));
#elif LANES_AVX512 && defined(__AVX512VNNI__)
    EACH sum.p[k_] = (ipart)_mm512_dpbusd_epi32((__m512i)sum.p[k_], (__m512i)a.p[k_], (__m512i)b.p[k_]);
#elif LANES_AVX2
    EACH {                                                // of 16 bits: every second byte, then the others
        __m256i low = _mm256_set1_epi16(255), x = (__m256i)a.p[k_], y = (__m256i)b.p[k_];
        __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, low), _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
        sum.p[k_] += (ipart)_mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8)));
    }
#else
    EACH UNROLL for (int i = 0; i < 4; ++i)
        sum.p[k_] += (ipart)(a.p[k_] >> (8 * i) & 255u) * ((ipart)(b.p[k_] << (24 - 8 * i)) >> 24);
#endif
    return sum;
}
// Sums of the products of a and b, as dot4, with three pairs of d, the first times 4^SHIFT, the second times 2^SHIFT; and sum, if MORE.
// a and b have BITS bits a byte: up to 6; or 7 or 8, and d have 7.
template <int BITS, int SHIFT, bool MORE> LI vint dot_digits(vint sum, vuint a, vuint b, const vuint* d) {
#if LANES_AVX2
    EACH {
        ipart s = dot8_part<BITS, 1>(a.p[k_], d[0].p[k_], b.p[k_], d[1].p[k_]) << (2 * SHIFT);
        s += dot8_part<BITS, 1 << SHIFT>(a.p[k_], d[2].p[k_], b.p[k_], d[3].p[k_]);
        s += dot8_part<BITS, 1>(a.p[k_], d[4].p[k_], b.p[k_], d[5].p[k_]);
        sum.p[k_] = MORE ? sum.p[k_] + s : s;
    }
    return sum;
#else
    vint s = dot4(dot4(vint(0), a, d[0]), b, d[1]) << SHIFT;
    s = dot4(dot4(s, a, d[2]), b, d[3]) << SHIFT;
    if (MORE) return s + dot4(dot4(sum, a, d[4]), b, d[5]);           // beside the others, as a product waits for the one before
    return dot4(dot4(s, a, d[4]), b, d[5]);
#endif
}
LI vint dot4_small(vint sum, vuint a, vuint b) {          // dot4, where the sums of two products fit into 16 bits
#if LANES_AVX2
    EACH sum.p[k_] += (ipart)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)a.p[k_], (__m256i)b.p[k_]), _mm256_set1_epi16(1));
    return sum;
#else
    return dot4(sum, a, b);
#endif
}
LI vint dot4(vint sum, vuint a, uint b) { return dot4(sum, a, vuint(b)); }
// Adds to sums[i], i < 3, of lane l the products of 32 codes of BITS bits (4 or 8) with numbers of one byte that all lanes share. The
// codes are the words at p + min(l, rows - 1) * STRIDE; of each pair of words of numbers, 2 i * apart and (2 i + 1) * apart from d on,
// the first is for a word's lower halves, or a word, the second for its upper halves, or the next word.
template <int BITS, int STRIDE> LI void dot_rows(vint* sums, ptr<const uint> p, int rows, ptr<const uint> d, int apart, vlane lane) {
#if LANES_AVX2
    if constexpr (BITS == 4) {                            // 8 rows at a time: more would not stay in registers, nor their text near
        p.check(0); p.check((rows - 1) * STRIDE + 3); d.check(0); d.check(5 * apart + 3);
        const uint* row = p.p;
        uint copy[128];
        long step = STRIDE;
        if (rows < 32) {
            for (int l = 0; l < 32; ++l) memcpy(copy + 4 * l, p.p + (l < rows ? l : rows - 1) * STRIDE, 16);
            row = copy;
            step = 4;
        }
        _Pragma("GCC unroll 1") for (int k = 0; k < NP; ++k) {
            asm volatile("" ::: "memory");                // GCC would load all numbers before, and have no registers for them
            __m256i w[4], r[4];
            __m128i four[8];
            const __m256i low = _mm256_set1_epi32(0x0f0f0f0f);
            UNROLL for (int j = 0; j < 8; ++j, row += step) four[j] = _mm_loadu_si128((const __m128i*)row);
            UNROLL for (int j = 0; j < 4; ++j) r[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(four[j]), four[j + 4], 1);
            w[0] = _mm256_unpacklo_epi32(r[0], r[1]); w[1] = _mm256_unpacklo_epi32(r[2], r[3]);
            w[2] = _mm256_unpackhi_epi32(r[0], r[1]); w[3] = _mm256_unpackhi_epi32(r[2], r[3]);
            r[0] = _mm256_unpacklo_epi64(w[0], w[1]); r[1] = _mm256_unpackhi_epi64(w[0], w[1]);
            r[2] = _mm256_unpacklo_epi64(w[2], w[3]); r[3] = _mm256_unpackhi_epi64(w[2], w[3]);
            UNROLL for (int i = 0; i < 3; ++i) {
                __m256i s = _mm256_setzero_si256();       // sums of 16 products fit into 16 bits
                UNROLL for (int j = 0; j < 4; ++j) {
                    __m256i a = _mm256_maddubs_epi16(_mm256_and_si256(r[j], low), _mm256_set1_epi32((int)d.p[2 * i * apart + j]));
                    __m256i b = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(r[j], 4), low), _mm256_set1_epi32((int)d.p[(2 * i + 1) * apart + j]));
                    s = _mm256_add_epi16(s, _mm256_add_epi16(a, b));
                }
                sums[i].p[k] += (ipart)_mm256_madd_epi16(s, _mm256_set1_epi16(1));
            }
        }
        return;
    }
#endif
    auto add = [&](auto row) {
        vuint4 w = ld_words(p, row), v = BITS == 8 ? ld_words(p + 4, row) : w;
        const vuint words[8] = {w.x, w.y, w.z, w.w, v.x, v.y, v.z, v.w};
        UNROLL for (int j = 0; j < 8; ++j) {
            vuint code = BITS == 8 ? words[j] : words[j / 2] >> (j % 2 * 4) & 0x0f0f0f0fu;
            UNROLL for (int i = 0; i < 3; ++i) sums[i] = dot4(sums[i], code, d[(2 * i + j % 2) * apart + j / 2]);
        }
    };
    if (rows == 32) add(spread<1, STRIDE>(lane));
    else add(min(vint(lane), vint(rows - 1)) * STRIDE);
}

#define TABLE16(name, ...) static const float name[16] = {__VA_ARGS__}    // 16 constants for pick16
LI vfloat pick16(const float* t, vuint i) { vfloat r; EACH r.p[k_] = table_part(t, i.p[k_]); return r; }   // t[i % 16]
#define BYTES16(name, ...) static const uchar name[16] = {__VA_ARGS__}    // the same in bytes, for pick_bytes
LI vuint pick_bytes(const uchar* t, vuint w) {            // t[i] for each byte i, below 16, of w
    vuint r;
    EACH r.p[k_] = bytes_part(t, w.p[k_]);
    return r;
}
LI vuint pick_bytes(ptr<const uchar> p, vuint w) { p.check(0); p.check(15); return pick_bytes(p.p, w); }         // of 16 bytes at p
LI vuint byte_of(uint low, uint high, vint i) {           // byte i, 0 .. 7, of two words
#if LANES_AVX512
    vuint r;
    EACH r.p[k_] = (upart)_mm512_shuffle_epi8(_mm512_set1_epi64((long long)((unsigned long long)high << 32 | low)),
                                              (__m512i)(i.p[k_] | (int)0x80808000));
    return r;
#elif LANES_AVX2
    vuint r;
    EACH r.p[k_] = (upart)_mm256_shuffle_epi8(_mm256_set1_epi64x((long long)((unsigned long long)high << 32 | low)),
                                              (__m256i)(i.p[k_] | (int)0x80808000));
    return r;
#else
    return select(vuint(low), vuint(high), i >= 4) >> vuint(i % 4 * 8) & 255u;
#endif
}
// Four words, the same for all lanes, whose 16 bytes lanes can pick.
struct four_words {
#if LANES_AVX2
    upart p;                                              // twice
    LI four_words(upart v) : p(v) {}
    LI four_words(uint a, uint b, uint c, uint d) : p{a, b, c, d, a, b, c, d} {}
#else
    uint p[4];
    LI four_words(uint a, uint b, uint c, uint d) : p{a, b, c, d} {}
#endif
};
LI four_words four(uint a, uint b, uint c, uint d) { return four_words(a, b, c, d); }
LI four_words ld_four(ptr<const uint> p) {                // the four at p
    p.check(0); p.check(3);
#if LANES_AVX2
    return four_words((upart)_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p.p)));
#else
    return four_words(p.p[0], p.p[1], p.p[2], p.p[3]);
#endif
}
#if LANES_AVX2
#define LANES_FOUR(op) LI four_words operator op(four_words a, four_words b) { return four_words(a.p op b.p); }
#else
#define LANES_FOUR(op) LI four_words operator op(four_words a, four_words b) { return four_words(a.p[0] op b.p[0], a.p[1] op b.p[1], a.p[2] op b.p[2], a.p[3] op b.p[3]); }
#endif
LANES_FOUR(&) LANES_FOUR(|) LANES_FOUR(>>)
template <int A, int B, int C, int D> LI four_words pick(four_words a) {       // words A, B, C and D of them
#if LANES_AVX2
    return four_words((upart)_mm256_shuffle_epi32((__m256i)a.p, A | B << 2 | C << 4 | D << 6));
#else
    return four_words(a.p[A], a.p[B], a.p[C], a.p[D]);
#endif
}
LI vuint byte_of(four_words a, vint i) {                  // byte i, 0 .. 15
    vuint r;
#if LANES_AVX2
    EACH r.p[k_] = (upart)_mm256_shuffle_epi8((__m256i)a.p, (__m256i)(i.p[k_] | (int)0x80808000));
#else
    EACH EACH_LANE r.p[k_][l_] = a.p[i.p[k_][l_] / 4] >> i.p[k_][l_] % 4 * 8 & 255u;
#endif
    return r;
}
LI vuint byte_twice(four_words a, vint i) {               // the same, in both halves of the word
#if LANES_AVX2
    vuint r;
    EACH r.p[k_] = (upart)_mm256_shuffle_epi8((__m256i)a.p, (__m256i)(i.p[k_] * 0x00010001 | (int)0x80008000));
    return r;
#else
    return byte_of(a, i) * vuint(0x00010001u);
#endif
}
// sum + scale * unit times the products of codes and their numbers of three digits (see dot_digits), each lane's times its scale: of
// 15 bits, in both halves of the word. The sum of a digit's products fits into 32 bits. scale is the same in all lanes, unit in those
// from 16 on, which are asked.
template <int BITS, int SHIFT> LI vtotal add_scaled(vtotal sum, vuint a, vuint b, const vuint* d, vuint scales, vfloat scale, vfloat unit) {
#if LANES_AVX2
    ipart total[3] = {};
    EACH UNROLL for (int j = 0; j < 3; ++j) {
        __m256i s = _mm256_maddubs_epi16((__m256i)a.p[k_], (__m256i)d[2 * j].p[k_]), t = _mm256_maddubs_epi16((__m256i)b.p[k_], (__m256i)d[2 * j + 1].p[k_]);
        if constexpr (BITS <= 7) total[j] += (ipart)_mm256_madd_epi16(_mm256_add_epi16(s, t), (__m256i)scales.p[k_]);
        else total[j] += (ipart)_mm256_madd_epi16(s, (__m256i)scales.p[k_]) + (ipart)_mm256_madd_epi16(t, (__m256i)scales.p[k_]);
    }
    const __m256 times = _mm256_set1_ps(float(1 << SHIFT));
    __m256 v = _mm256_fmadd_ps(_mm256_cvtepi32_ps((__m256i)total[0]), times, _mm256_cvtepi32_ps((__m256i)total[1]));
    v = _mm256_fmadd_ps(v, times, _mm256_cvtepi32_ps((__m256i)total[2]));
    sum.p = (fpart)_mm256_fmadd_ps(v, (__m256)(scale.p[NP - 1] * unit.p[NP - 1]), (__m256)sum.p);
    return sum;
#else
    vfloat s = vfloat(dot_digits<BITS, SHIFT, false>(vint(0), a, b, d));
    return sum + s * (vfloat(vint(scales & 0x7fffu)) * scale * unit.get(31));
#endif
}
LI vfloat evens(vfloat a, vlane) {                        // lanes l and l + 1: lane l of a, l even
#if LANES_AVX512
    EACH a.p[k_] = (fpart)_mm512_moveldup_ps((__m512)a.p[k_]);
#elif LANES_AVX2
    EACH a.p[k_] = (fpart)_mm256_moveldup_ps((__m256)a.p[k_]);
#else
    EACH EACH_LANE if (l_ % 2) a.p[k_][l_] = a.p[k_][l_ - 1];
#endif
    return a;
}
LI vfloat odds(vfloat a, vlane) {                         // the same of lane l + 1
#if LANES_AVX512
    EACH a.p[k_] = (fpart)_mm512_movehdup_ps((__m512)a.p[k_]);
#elif LANES_AVX2
    EACH a.p[k_] = (fpart)_mm256_movehdup_ps((__m256)a.p[k_]);
#else
    EACH EACH_LANE if (l_ % 2 == 0) a.p[k_][l_] = a.p[k_][l_ + 1];
#endif
    return a;
}
// To the left by n up to 8, or by 32 - n to the right: of the bits, those count that stay in their byte.
LI vuint turn(vuint a, vuint n) {
#if LANES_AVX2
    EACH {
        bool left = true, right = true;                   // all lanes of a part alike, and known to be
        EACH_LANE { left = left && n.p[k_][l_] <= 8; right = right && (n.p[k_][l_] == 0 || n.p[k_][l_] >= 24); }
        if (__builtin_constant_p(left) && left) a.p[k_] = a.p[k_] << n.p[k_];
        else if (__builtin_constant_p(right) && right) a.p[k_] = a.p[k_] >> (-n.p[k_] & 31u);
        else a.p[k_] = a.p[k_] << n.p[k_] | (upart)_mm256_srlv_epi32((__m256i)a.p[k_], (__m256i)(32u - n.p[k_]));
    }
    return a;
#elif LANES_AVX512
    EACH a.p[k_] = (upart)_mm512_rolv_epi32((__m512i)a.p[k_], (__m512i)n.p[k_]);
    return a;
#else
    return (a << (n & 31u)) | (a >> 1 >> (~n & 31u));
#endif
}
LI vuint bits_to_bytes(vuint w, vuint at) {               // bits at .. at + 3 of w to bit 4 of each byte; at up to 28
#if LANES_AVX512 && defined(__AVX512VBMI__)
    EACH {                                                // byte i: 8 bits of the 64 of two lanes, from at + i - 4 on
        upart from = (at.p[k_] & 63u) * 0x01010101u + 0x3f3e3d3cu;
        EACH_LANE if (l_ % 2) from[l_] += 0x20202020u;
        w.p[k_] = (upart)_mm512_multishift_epi64_epi8((__m512i)from, (__m512i)w.p[k_]) & 0x10101010u;
    }
    return w;
#elif LANES_AVX2
    const upart four = upart{} + 0x08040201u, own = {0u, 0x04040404u, 0x08080808u, 0x0c0c0c0cu, 0u, 0x04040404u, 0x08080808u, 0x0c0c0c0cu};
    EACH {                                                // the byte that has them, four times; where it is known, no shift
        bool in_byte = true;
        EACH_LANE in_byte = in_byte && at.p[k_][l_] % 8u <= 4u;
        upart m = four, x = w.p[k_], byte = own;
        if (__builtin_constant_p(in_byte) && in_byte) { m = four << (at.p[k_] & 7u); byte = own + (at.p[k_] >> 3) * 0x01010101u; }
        else x = x >> at.p[k_];
        x = (upart)_mm256_shuffle_epi8((__m256i)x, (__m256i)byte) & m;
        w.p[k_] = (upart)_mm256_cmpeq_epi8((__m256i)x, (__m256i)m) & 0x10101010u;
    }
    return w;
#else
    return ((w >> at & 15u) * vuint(0x00204081u) & 0x01010101u) << 4;
#endif
}
}  // namespace lanes

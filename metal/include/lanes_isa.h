// What the lanes dialect needs of a CPU: one machine vector ("part") of W 32-bit lanes, and a few operations on it.
// AVX-512: 2 parts of 16 lanes; AVX2: 4 of 8; NEON and the portable fallback: 8 of 4.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) &&                 \
    !defined(LANES_NO_AVX512)
#define LANES_AVX512 1
#define LANES_VB 64
#elif defined(__AVX2__) && defined(__F16C__) && defined(__FMA__) && !defined(LANES_PORTABLE)
#define LANES_AVX2 1
#define LANES_VB 32
#else
#define LANES_VB 16
#if defined(__ARM_NEON) && defined(__aarch64__) && !defined(LANES_PORTABLE)
#define LANES_NEON 1
#endif
#endif
#if LANES_AVX512 || LANES_AVX2
#include <immintrin.h>
#elif LANES_NEON
#include <arm_neon.h>
#endif

namespace lanes {
#define LI inline __attribute__((always_inline))
#define APART static __attribute__((noinline))       // compiled once, however often it is called: for what is not in a hot loop
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 128")
#endif
#define EACH UNROLL for (int k_ = 0; k_ < NP; ++k_)
#define EACH_LANE UNROLL for (int l_ = 0; l_ < W; ++l_)

typedef unsigned uint; typedef unsigned short ushort; typedef unsigned char uchar;
constexpr int W = LANES_VB / 4, NP = 32 / W;
#if LANES_AVX512 // a block of accumulators that fits in registers
constexpr int MMA_PARTS = 2, MMA_ROWS = 12;
#elif LANES_NEON
constexpr int MMA_PARTS = 4, MMA_ROWS = 6;
#else
constexpr int MMA_PARTS = 2, MMA_ROWS = LANES_VB == 32 ? 6 : 4;
#endif
typedef float fpart __attribute__((vector_size(LANES_VB), may_alias));
typedef int ipart __attribute__((vector_size(LANES_VB), may_alias));
typedef uint upart __attribute__((vector_size(LANES_VB), may_alias));
typedef ushort hpart __attribute__((vector_size(LANES_VB), may_alias));       // 2 W units of 16 bits
typedef char bpart __attribute__((vector_size(LANES_VB), may_alias));         // 4 W bytes

template <class T> LI T read(const void* p) { T t; memcpy(&t, p, sizeof t); return t; }
template <class T, class U> LI T bits(U u) {
    static_assert(sizeof(T) == sizeof(U), "");
    T t;
    memcpy(&t, &u, sizeof t);
    return t;
}

// ---- 16-bit floats as they lie in memory ----------------------------------------------------------
LI float half_to_float(ushort h) {
#if LANES_AVX512 || LANES_AVX2
    return _cvtsh_ss(h);
#elif LANES_NEON
    return float(bits<__fp16>(h));
#else
    uint s = uint(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31) return bits<float>(s | 0x7f800000u | m << 13);
    if (e == 0) { float f = float(m) * 0x1p-24f; return s ? -f : f; }
    return bits<float>(s | (e + 112) << 23 | m << 13);
#endif
}
LI ushort float_to_half(float f) {                                            // round to nearest even
#if LANES_AVX512 || LANES_AVX2
    return ushort(_cvtss_sh(f, 0));
#elif LANES_NEON
    return bits<ushort>(__fp16(f));
#else
    uint u = bits<uint>(f), s = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u >= 0x7f800000u) return ushort(s | 0x7c00u | (u > 0x7f800000u ? 0x200u : 0u));
    if (u >= 0x47800000u) return ushort(s | 0x7c00u);
    if (u < 0x38800000u) return ushort(s | uint(nearbyintf(bits<float>(u) * 0x1p24f)));
    u += 0xfffu + (u >> 13 & 1u);
    return ushort(s | (u - 0x38000000u) >> 13);
#endif
}
LI ushort float_to_bfloat(float f) {
    uint u = bits<uint>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return ushort(u >> 16 | 64u);
    return ushort((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
struct half {
    ushort b;
    half() = default;
    LI explicit half(float f) : b(float_to_half(f)) {}
    LI operator float() const { return half_to_float(b); }
};
struct bfloat16_t {
    ushort b; bfloat16_t() = default;
    LI explicit bfloat16_t(float f) : b(float_to_bfloat(f)) {}
    LI operator float() const { return bits<float>(uint(b) << 16); }
};

// ---- operations on one part -----------------------------------------------------------------------
LI fpart half_part(upart w) {                                                 // low 16 bits of each lane, as fp16
#if LANES_AVX512
    return (fpart)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)w));
#elif LANES_AVX2
    __m256i t =
        _mm256_shuffle_epi8((__m256i)w, _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1,
                                                         4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1));
    return (fpart)_mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(t, 8)));
#elif LANES_NEON
    return (fpart)vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t)w)));
#else
    fpart r; EACH_LANE r[l_] = half_to_float(ushort(w[l_])); return r;
#endif
}
LI fpart half_units(upart w) {                                                // the first W units of 16 bits, as fp16
#if LANES_AVX512
    return (fpart)_mm512_cvtph_ps(_mm512_castsi512_si256((__m512i)w));
#elif LANES_AVX2
    return (fpart)_mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)w));
#elif LANES_NEON
    return (fpart)vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16((uint16x8_t)w)));
#else
    fpart r; EACH_LANE r[l_] = half_to_float(ushort(w[l_ / 2] >> l_ % 2 * 16)); return r;
#endif
}
LI upart part_half(fpart v) {                                                 // fp16 bits of each lane
#if LANES_AVX512
    return (upart)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)v, 0));
#elif LANES_AVX2
    return (upart)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)v, 0));
#elif LANES_NEON
    return (upart)vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
#else
    upart r; EACH_LANE r[l_] = float_to_half(v[l_]); return r;
#endif
}
#if LANES_AVX2                                            // half of a part and the other half, and again, and once more
#define LANES_FOLD(s, how) { __m128 h = how(_mm256_castps256_ps128((__m256)s), _mm256_extractf128_ps((__m256)s, 1)); \
    h = how(h, _mm_movehl_ps(h, h)); return _mm_cvtss_f32(how(h, _mm_movehdup_ps(h))); }
#endif
LI float add_lanes(fpart s) {
#if LANES_AVX512
    return _mm512_reduce_add_ps((__m512)s);
#elif LANES_AVX2
    LANES_FOLD(s, _mm_add_ps)
#elif LANES_NEON
    return vaddvq_f32((float32x4_t)s);
#else
    float r = s[0]; for (int l = 1; l < W; ++l) r += s[l]; return r;
#endif
}
LI float max_lanes(fpart s) {
#if LANES_AVX512
    return _mm512_reduce_max_ps((__m512)s);
#elif LANES_AVX2
    LANES_FOLD(s, _mm_max_ps)
#elif LANES_NEON
    return vmaxvq_f32((float32x4_t)s);
#else
    float r = s[0]; for (int l = 1; l < W; ++l) r = s[l] > r ? s[l] : r; return r;
#endif
}
LI upart gather_part(const uint* p, ipart i) {
#if LANES_AVX512
    return (upart)_mm512_i32gather_epi32((__m512i)i, p, 4);
#elif LANES_AVX2
    return (upart)_mm256_i32gather_epi32((const int*)p, (__m256i)i, 4);
#else
    upart r; EACH_LANE r[l_] = p[i[l_]]; return r;
#endif
}
LI upart gather_pair_part(const ushort* p, ipart i) {                          // 32 bits at 2-byte aligned addresses
#if LANES_AVX512
    return (upart)_mm512_i32gather_epi32((__m512i)i, p, 2);
#elif LANES_AVX2
    return (upart)_mm256_i32gather_epi32((const int*)p, (__m256i)i, 2);
#else
    upart r; EACH_LANE r[l_] = read<uint>(p + i[l_]); return r;
#endif
}
#if LANES_AVX512 || LANES_AVX2
LI upart gather_short_part(const ushort* p, ipart i) {                         // the aligned words that hold them: no page but theirs
    ipart j = i + int((uintptr_t)p >> 1 & 1);
    upart w = gather_part((const uint*)((uintptr_t)p & ~(uintptr_t)3), j >> 1);
    return w >> (upart)((j & 1) << 4) & 0xffffu;
}
#endif
LI fpart table_part(const float* t, upart i) {                                // t[i % 16]
#if LANES_AVX512
    return (fpart)_mm512_permutexvar_ps((__m512i)i, _mm512_loadu_ps(t));
#elif LANES_AVX2
    __m256 lo = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t), (__m256i)i);
    __m256 hi = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t + 8), (__m256i)i);
    return (fpart)_mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32((__m256i)i, 28)));
#elif LANES_NEON
    const uchar* b = (const uchar*)t;
    uint8x16x4_t all = {{vld1q_u8(b), vld1q_u8(b + 16), vld1q_u8(b + 32), vld1q_u8(b + 48)}};
    return (fpart)vqtbl4q_u8(all, (uint8x16_t)((i & 15u) * 0x04040404u + 0x03020100u));
#else
    fpart r; EACH_LANE r[l_] = t[i[l_] & 15]; return r;
#endif
}
LI upart bytes_part(const uchar* t, upart w) {                                 // t[i] for each byte i, below 16, of w
#if LANES_AVX512
    return (upart)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)t)), (__m512i)w);
#elif LANES_AVX2
    return (upart)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)t)), (__m256i)w);
#elif LANES_NEON
    return (upart)vqtbl1q_u8(vld1q_u8(t), (uint8x16_t)w);
#else
    upart r{};
    EACH_LANE UNROLL for (int i = 0; i < 32; i += 8) r[l_] |= uint(t[w[l_] >> i & 15]) << i;
    return r;
#endif
}
LI fpart load_half_part(const ushort* p) {
#if LANES_AVX512
    return (fpart)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif LANES_AVX2
    return (fpart)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif LANES_NEON
    return (fpart)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    fpart r; EACH_LANE r[l_] = half_to_float(p[l_]); return r;
#endif
}
#if LANES_AVX512
LI uint low_bits(int n) { return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u; }
#endif
// The first n elements of a part; the others are not read (written) and come as zero.
LI upart part_load(const uint* p, int n) {
#if LANES_AVX512
    if (__builtin_constant_p(n) && n >= W) return read<upart>(p);
    return (upart)_mm512_maskz_loadu_epi32(__mmask16(low_bits(n)), p);
#else
    if (n >= W) return read<upart>(p);
    if (n <= 0) return upart{};
#endif
#if LANES_AVX512
#elif LANES_AVX2
    return (upart)_mm256_maskload_epi32(
        (const int*)p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
#else
    upart r{}; memcpy(&r, p, size_t(n) * 4); return r;
#endif
}
LI hpart part_load(const ushort* p, int n) {
#if LANES_AVX512
    if (__builtin_constant_p(n) && n >= 2 * W) return read<hpart>(p);
    return (hpart)_mm512_maskz_loadu_epi16(__mmask32(low_bits(n)), p);
#else
    if (n >= 2 * W) return read<hpart>(p);
    if (n <= 0) return hpart{};
    hpart r{}; memcpy(&r, p, size_t(n) * 2); return r;
#endif
}
LI void part_store(uint* p, upart v, int n) {
#if LANES_AVX512
    if (__builtin_constant_p(n) && n >= W) memcpy(p, &v, sizeof v);
    else _mm512_mask_storeu_epi32(p, __mmask16(low_bits(n)), (__m512i)v);
#else
    if (n >= W) { memcpy(p, &v, sizeof v); return; }
    if (n <= 0) return;
#endif
#if LANES_AVX512
#elif LANES_AVX2
    _mm256_maskstore_epi32((int*)p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                           (__m256i)v);
#else
    memcpy(p, &v, size_t(n) * 4);
#endif
}
#if defined(__clang__)
#define LANES_SHUFFLE(M, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LANES_SHUFFLE(M, a, b, ...) __builtin_shuffle(a, b, (M){__VA_ARGS__})
#endif

// Widen the W elements at p to 32 bits.
template <class T> struct lanes_of { typedef T t __attribute__((vector_size(W * sizeof(T)))); };
template <class P> LI typename lanes_of<uchar>::t bytes_part(P v) {                           // the lowest byte of each lane
#if LANES_AVX512
    return (lanes_of<uchar>::t)_mm512_cvtepi32_epi8((__m512i)v);                          // GCC 12 picks them one by one
#else
    return __builtin_convertvector((upart)v, typename lanes_of<uchar>::t);
#endif
}
template <class T> LI ipart widen(const T* p) {
#if LANES_AVX512                                          // GCC 12 takes bytes one by one
    if constexpr (sizeof(T) == 1) {
        __m128i b = _mm_loadu_si128((const __m128i*)p);
        return (ipart)(T(-1) < T(0) ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
    } else
#elif LANES_AVX2
    if constexpr (sizeof(T) == 1) {
        __m128i b = _mm_loadl_epi64((const __m128i*)p);
        return (ipart)(T(-1) < T(0) ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
    } else
#endif
    return __builtin_convertvector(read<typename lanes_of<T>::t>(p), ipart);
}
}  // namespace lanes

// The lanes dialect on Metal: a v-type is one lane's scalar. See metal/README.md for the rules.
#pragma once
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

typedef float vfloat;
typedef float vtotal;                                     // of which the sum of all lanes counts, not what each has
typedef int vint;
typedef uint vuint;
typedef bool vbool;
typedef float4 vfloat4;
typedef uint2 vuint2;
typedef uint4 vuint4;
typedef int vlane;                                   // lane number, + uniform: consecutive addresses
template <typename T> using dptr = device T*;        // device memory
template <typename T> using tptr = threadgroup T*;   // threadgroup memory
#define UNROLL _Pragma("clang loop unroll(full)")
#define APART inline
#define HOST 0
#define STAGED 0
#define REGISTERS 32

// A fixed map from lane to address: l / N * STRIDE + (l % N % MOD * NUM + OFF) / DEN, l = lane % PERIOD.
template <int N, int STRIDE, int NUM = 1, int DEN = 1, int OFF = 0, int MOD = N, int PERIOD = 32>
inline int spread(int lane) { return lane % PERIOD / N * STRIDE + (lane % PERIOD % N % MOD * NUM + OFF) / DEN; }
inline bool first(int lane, int n) { return lane < n; }                   // the first n lanes

// Loads: lanes outside m touch no memory and get zero. Stores convert to the element's type.
template <typename T> inline T ld(const device T* p, int i) { return p[i]; }
template <typename T> inline T ld(const threadgroup T* p, int i) { return p[i]; }
template <typename T> inline T ld(const device T* p, int i, bool m) { return m ? p[i] : T(0); }
template <typename T> inline T ld(const threadgroup T* p, int i, bool m) { return m ? p[i] : T(0); }
template <typename T, typename V> inline void st(device T* p, int i, V v) { p[i] = T(v); }
template <typename T, typename V> inline void st(threadgroup T* p, int i, V v) { p[i] = T(v); }
template <typename T, typename V> inline void st(device T* p, int i, V v, bool m) { if (m) p[i] = T(v); }
template <typename T, typename V> inline void st(threadgroup T* p, int i, V v, bool m) { if (m) p[i] = T(v); }
inline float4 ld4(const device float* p, int i, bool m) { return m ? *(const device float4*)(p + i) : float4(0.0f); }
inline float4 ld4(const device half* p, int i, bool m) {
    half4 h = half4(0.0h);
    if (m) h = *(const device half4*)(p + i);
    return float4(h);
}
inline float4 ld4(const device bfloat16_t* p, int i, bool m) {
    return m ? float4(float(p[i]), float(p[i + 1]), float(p[i + 2]), float(p[i + 3])) : float4(0.0f);
}
inline float4 ld4(const threadgroup float* p, int i, bool m) {
    return m ? *(const threadgroup float4*)(p + i) : float4(0.0f);
}
inline uint ld_pair(const device ushort* p, int i, bool m = true) { return m ? uint(p[i]) | uint(p[i + 1]) << 16 : 0u; }
#define PUT_COLUMNS(p, T, made) { \
    T t_ = made; \
    UNROLL for (int i_ = 0; i_ < 32; ++i_) (p)[lane + 32 * i_] = t_.v[i_]; \
}
template <int N> struct held { const device ushort* p; int n; };           // on a CPU, in registers
template <int N> inline held<N> ld_held(const device ushort* p, int n) { return held<N>{p, n}; }
template <int N> inline uint ld_pair(held<N> h, int i) { return i + 1 < h.n ? ld_pair(h.p, i) : 0u; }
template <int SKIP, int N> inline uint2 ld_two(held<N> h, int i) { return uint2(ld_pair(h, i), ld_pair(h, i + 2 * SKIP)); }
template <int N> inline float ld_half(held<N> h, int i) { return i < h.n ? float(as_type<half>(h.p[i])) : 0.0f; }
template <int SKIP> inline uint2 ld_two(const device uint* p, int i) { return uint2(p[i], p[i + SKIP]); }
template <int SKIP> inline uint2 ld_two(const device ushort* p, int i) { return uint2(ld_pair(p, i), ld_pair(p, i + 2 * SKIP)); }
inline uint ld_word(const device uchar* p, int i, bool m = true) {        // four bytes at any address
    return m ? uint(p[i]) | uint(p[i + 1]) << 8 | uint(p[i + 2]) << 16 | uint(p[i + 3]) << 24 : 0u;
}
inline uint4 ld_words(const device uchar* p, int i) {
    return uint4(ld_word(p, i), ld_word(p, i + 4), ld_word(p, i + 8), ld_word(p, i + 12));
}
inline uint4 ld_words(const device uint* p, int i) { return uint4(p[i], p[i + 1], p[i + 2], p[i + 3]); }
inline uint4 ld_words(const device ushort* p, int i) {
    return uint4(ld_pair(p, i), ld_pair(p, i + 2), ld_pair(p, i + 4), ld_pair(p, i + 6));
}
template <typename T> inline void prefetch(const device T*, int) {}       // a hint to CPUs

inline float as_float(uint w) { return as_type<float>(w); }
inline uint as_uint(float x) { return as_type<uint>(x); }
inline float half_lo(uint w) { return float(as_type<half2>(w).x); }
inline float half_hi(uint w) { return float(as_type<half2>(w).y); }
inline uint half_bits(float x) { return uint(as_type<ushort>(half(x))); }
inline uint half_pair(float lo, float hi) { return half_bits(lo) | half_bits(hi) << 16; }
inline float bfloat_lo(uint w) { return as_type<float>(w << 16); }
inline float bfloat_hi(uint w) { return as_type<float>(w & 0xffff0000u); }
#define TABLE16(name, ...) constant float name[16] = {__VA_ARGS__}       // 16 constants for pick16
inline float pick16(const constant float* t, uint i) { return t[i & 15u]; }
#define BYTES16(name, ...) constant uchar name[16] = {__VA_ARGS__}       // the same in bytes, for pick_bytes
template <typename P> inline uint pick_bytes(P t, uint w) {               // t[i] for each byte i, below 16, of w
    return uint(t[w & 15u]) | uint(t[w >> 8 & 15u]) << 8 | uint(t[w >> 16 & 15u]) << 16 | uint(t[w >> 24 & 15u]) << 24;
}
inline float simd_shuffle16(float a, int i) { return simd_shuffle(a, ushort(i & 15)); }   // of lanes 0 .. 15
// Lanes N r .. N r + N - 1: lanes FROM .. FROM + N - 1 of the value r of four; lanes from 4 N on have anything.
template <int N, int FROM, typename V> inline V join(V a, V b, V c, V d, int lane) {
    ushort from = ushort(FROM + lane % N);
    V at0 = simd_shuffle(a, from), at1 = simd_shuffle(b, from), at2 = simd_shuffle(c, from), at3 = simd_shuffle(d, from);
    return lane / N % 4 == 0 ? at0 : lane / N % 4 == 1 ? at1 : lane / N % 4 == 2 ? at2 : at3;
}
inline float add_product(float t, float a, float b) { return t + a * b; }
template <uint MASK> inline float add_some(float sum, float v, int lane) { return MASK >> uint(lane) & 1u ? sum + v : sum; }
inline uint byte_of(uint low, uint high, int i) { return (i < 4 ? low : high) >> uint(i % 4 * 8) & 255u; }   // i: 0 .. 7
inline uint bits_to_bytes(uint w, uint at) { return ((w >> at & 15u) * 0x00204081u & 0x01010101u) << 4; }
inline uint ballot(bool b) { return uint((simd_vote::vote_t)simd_ballot(b)); }     // bit l: lane l of b
inline int dot4(int sum, uint a, uint b) {                // sum + the four products of bytes: a's unsigned, b's signed
    for (int i = 0; i < 4; ++i) sum += int(a >> (8 * i) & 255u) * (int(b << (24 - 8 * i)) >> 24);
    return sum;
}
inline int dot4_small(int sum, uint a, uint b) { return dot4(sum, a, b); }
template <int BITS, int STRIDE, typename P, typename D>
inline void dot_rows(thread int* sums, P p, int rows, D d, int apart, int lane) {
    P row = p + min(lane, rows - 1) * STRIDE;
    for (int j = 0; j < 8; ++j) {
        uint w = BITS == 8 ? row[j] : row[j / 2] >> (j % 2 * 4) & 0x0f0f0f0fu;
        for (int i = 0; i < 3; ++i) sums[i] = dot4(sums[i], w, d[(2 * i + j % 2) * apart + j / 2]);
    }
}
inline uint turn(uint w, uint n) { return rotate(w, n); }
template <int BITS, int SHIFT, bool MORE> inline int dot_digits(int sum, uint a, uint b, const thread uint* d) {
    int s = dot4(dot4(dot4(dot4(0, a, d[0]), b, d[1]) << SHIFT, a, d[2]), b, d[3]) << SHIFT;
    return dot4(dot4(s, a, d[4]), b, d[5]) + (MORE ? sum : 0);
}
template <int N, typename T> inline float ld_in_turns(const device T* p, const device T* q, int lane, int n) {
    return lane < n ? float(lane % 2 ? q[lane % 16 / N] : p[lane % 16 / N]) : 0.0f;
}
typedef uint4 four_words;
inline four_words four(uint a, uint b, uint c, uint d) { return uint4(a, b, c, d); }
inline four_words ld_four(const device uint* p) { return uint4(p[0], p[1], p[2], p[3]); }
template <int A, int B, int C, int D> inline four_words pick(four_words a) { return uint4(a[A], a[B], a[C], a[D]); }
inline uint byte_of(four_words a, int i) { return a[i / 4] >> uint(i % 4 * 8) & 255u; }    // i: 0 .. 15
inline uint byte_twice(four_words a, int i) { return byte_of(a, i) * 0x00010001u; }
template <int BITS, int SHIFT> inline float add_scaled(float sum, uint a, uint b, const thread uint* d, uint scales, float scale, float unit) {
    return sum + float(dot_digits<BITS, SHIFT, false>(0, a, b, d)) * (float(scales & 0x7fffu) * scale * simd_shuffle(unit, ushort(31)));
}
template <uint MASK> inline float add_times(float sum, float a, float b, float times, int lane) { return add_some<MASK>(sum, a * b * times, lane); }
inline float evens(float a, int lane) { return simd_shuffle(a, ushort(lane & 30)); }
inline float odds(float a, int lane) { return simd_shuffle(a, ushort(lane | 1)); }
#define TOTAL 32
inline void put_total(threadgroup float* p, float t, int lane) { p[lane] = t; }
inline float get_total(const threadgroup float* p, int lane) { return p[lane]; }
template <int N> inline float add_range(float t, float v, int r, int lane) { return lane / N == r ? t + v : t; }
inline float sum_rows(const threadgroup float* p, int lane, int n) {      // lane r < n: the sum of the 32 numbers from p + 32 r on
    float s = 0.0f;
    for (int i = 0; lane < n && i < 32; ++i) s += p[lane * 32 + (lane + i) % 32];
    return s;
}
inline float sum(float4 v) { return (v.x + v.y) + (v.z + v.w); }

// M x 32 accumulators of one SIMD-group.
template <int M> struct tile { simdgroup_float8x8 c[M / 8][4]; };
template <int M> inline void fill(thread tile<M>& t, float v) {
    for (int i = 0; i < M / 8; ++i)
        for (int j = 0; j < 4; ++j) t.c[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(v);
}
// `rows`, here and below: the tile's rows that there are, for the host; a GPU computes all of them.
template <int M, typename A, typename B>
inline void mma(thread tile<M>& t, A a, int lda, B b, int K, int ldb = 32, int rows = M) {
    for (int k = 0; k < K; k += 8) {
        simdgroup_float8x8 x[M / 8], w;
        for (int i = 0; i < M / 8; ++i) simdgroup_load(x[i], a + i * 8 * lda + k, lda);
        for (int j = 0; j < 4; ++j) {
            simdgroup_load(w, b + k * ldb + j * 8, ldb);
            for (int i = 0; i < M / 8; ++i) simdgroup_multiply_accumulate(t.c[i][j], x[i], w, t.c[i][j]);
        }
    }
}
template <int M, typename Y> inline void store(thread tile<M>& t, Y y, int ldy, int rows = M) {
    for (int i = 0; i < M / 8; ++i)
        for (int j = 0; j < 4; ++j) simdgroup_store(t.c[i][j], y + i * 8 * ldy + j * 8, ldy);
}
template <int M, typename Y> inline void add(thread tile<M>& t, Y y, int ldy, int rows = M) {
    for (int i = 0; i < M / 8; ++i)
        for (int j = 0; j < 4; ++j) {
            simdgroup_float8x8 more;
            simdgroup_load(more, y + i * 8 * ldy + j * 8, ldy);
            t.c[i][j].thread_elements()[0] += more.thread_elements()[0];
            t.c[i][j].thread_elements()[1] += more.thread_elements()[1];
        }
}
template <int M> inline void gate(thread tile<M>& t, thread tile<M>& up) {                          // silu(t) * up
    for (int i = 0; i < M / 8; ++i)
        for (int j = 0; j < 4; ++j)
            for (int e = 0; e < 2; ++e) {
                float g = t.c[i][j].thread_elements()[e];
                t.c[i][j].thread_elements()[e] = g / (1.0f + exp2(g * -1.44269504f)) * up.c[i][j].thread_elements()[e];
            }
}
template <int M> inline void scale_rows(thread tile<M>& t, const threadgroup float* f, int lane) {   // row m times f[m]
    int row = (lane / 4 & 4) + lane / 2 % 4;
    for (int i = 0; i < M / 8; ++i)
        for (int j = 0; j < 4; ++j) {
            t.c[i][j].thread_elements()[0] *= f[i * 8 + row];
            t.c[i][j].thread_elements()[1] *= f[i * 8 + row];
        }
}
template <int M> inline void scale_rows(thread tile<M>& t, float f, int lane) { // row m times what lane m has; M <= 32
    int row = (lane / 4 & 4) + lane / 2 % 4;
    for (int i = 0; i < M / 8; ++i) {
        float g = simd_shuffle(f, ushort(i * 8 + row));
        for (int j = 0; j < 4; ++j) {
            t.c[i][j].thread_elements()[0] *= g;
            t.c[i][j].thread_elements()[1] *= g;
        }
    }
}

#define KEEP(T, x) T x[1]                                // state a SIMD-group keeps from phase to phase
#define MINE 0
#define GRID int3 tg, vlane lane, int simdgroup_index, tptr<float> shared
#define SIMDGROUPS for (int sg = simdgroup_index, once_ = 1; once_; once_ = 0)
#define TG_BARRIER threadgroup_barrier(mem_flags::mem_threadgroup)
#define DEVICE_BARRIER threadgroup_barrier(mem_flags::mem_device)
#define SG_BARRIER simdgroup_barrier(mem_flags::mem_threadgroup)
#define KERNEL inline void

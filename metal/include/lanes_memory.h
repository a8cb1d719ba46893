// The lanes dialect on a CPU, its memory: loads and stores of 32 lanes by index pattern, and checked pointers.
#pragma once
#include "lanes_values.h"

namespace lanes {
template <class T> struct vec_of; template <class T> struct vec_of<const T> : vec_of<T> {};
template <> struct vec_of<float> { typedef vfloat t; }; template <> struct vec_of<half> { typedef vfloat t; };
template <> struct vec_of<bfloat16_t> { typedef vfloat t; };
template <> struct vec_of<int> { typedef vint t; }; template <> struct vec_of<short> { typedef vint t; };
template <> struct vec_of<signed char> { typedef vint t; }; template <> struct vec_of<char> { typedef vint t; };
template <> struct vec_of<uint> { typedef vuint t; }; template <> struct vec_of<ushort> { typedef vuint t; };
template <> struct vec_of<uchar> { typedef vuint t; };
template <class T> using vec = typename vec_of<T>::t;
template <class T> struct bare { typedef T t; }; template <class T> struct bare<const T> { typedef T t; };
template <class A, class B> struct same {
    static constexpr bool v = false;
};
template <class A> struct same<A, A> {
    static constexpr bool v = true;
};

LI void put(vfloat& v, int l, float x) { v.set(l, x); }
template <class T> LI void put(vint& v, int l, T x) { v.set(l, x); }
template <class T> LI void put(vuint& v, int l, T x) { v.set(l, x); }

// ---- loads: the first n lanes, the others zero -----------------------------------------------------
template <class T, class I> LI void load_each(vec<T>& v, const T* p, I i, int n) {           // any type, any pattern
    v = 0;
    for (int l = 0; l < n; ++l) put(v, l, p[lane_of(i, l)]);
}
LI void widen_part(vfloat& v, int k, const half* p) { v.p[k] = load_half_part((const ushort*)p); }
LI void widen_part(vfloat& v, int k, const bfloat16_t* p) { v.p[k] = (fpart)((upart)widen((const ushort*)p) << 16); }
template <class T> LI void widen_part(vint& v, int k, const T* p) { v.p[k] = widen(p); }
template <class T> LI void widen_part(vuint& v, int k, const T* p) { v.p[k] = (upart)widen(p); }

template <class T> LI void load_n(vec<T>& v, const T* p, vspan i, int n) {                   // contiguous
    p += i.base;
    if constexpr (sizeof(T) == 4) {
        EACH { upart u = part_load((const uint*)p + k_ * W, n - k_ * W); memcpy(&v.p[k_], &u, sizeof u); }
    } else {
        EACH {
            int m = n - k_ * W;
            if (m >= W) widen_part(v, k_, p + k_ * W);
            else {
                T t[W];
                memset(t, 0, sizeof t);
                if (m > 0) memcpy(t, p + k_ * W, size_t(m) * sizeof(T));
                widen_part(v, k_, t);
            }
        }
    }
}
template <class T> LI void load_n(vec<T>& v, const T* p, vlane, int n) { load_n(v, p, vspan{0}, n); }
template <class T> LI void from_units(vec<T>& v, int k, upart u) {           // of the low 16 bits of each lane
    if constexpr (same<T, half>::v) v.p[k] = half_part(u);
    else if constexpr (same<T, bfloat16_t>::v) v.p[k] = (fpart)(u << 16);
    else if constexpr (same<T, short>::v) v.p[k] = (ipart)(u << 16) >> 16;
    else if constexpr (sizeof(T) == 2) v.p[k] = u & 0xffffu;
}
template <class T> LI void load_n(vec<T>& v, const T* p, vint i, int n) {                    // gather
    if constexpr (sizeof(T) == 4) {
        if (n == 32) {
            EACH {
                upart u = gather_part((const uint*)p, i.p[k_]);
                memcpy(&v.p[k_], &u, sizeof u);
            }
            return;
        }
        load_each(v, p, i, n);
    } else {
#if LANES_AVX512 || LANES_AVX2
        if (sizeof(T) == 2 && n == 32) {
            EACH from_units<T>(v, k_, gather_short_part((const ushort*)p, i.p[k_]));
            return;
        }
#endif
        T t[32];
        memset(t, 0, sizeof t);
        for (int l = 0; l < n; ++l) t[l] = p[i.get(l)];
        EACH widen_part(v, k_, t + k_ * W);
    }
}

}  // namespace lanes
#include "lanes_spread.h"

namespace lanes {
// Four consecutive floats a lane: quads into registers, then a 4 x W transposition.
LI fpart quad_part(const float* a, const float* b, const float* c, const float* d) {
#if LANES_AVX512
    __m512 r = _mm512_castps128_ps512(_mm_loadu_ps(a));
    r = _mm512_insertf32x4(r, _mm_loadu_ps(b), 1); r = _mm512_insertf32x4(r, _mm_loadu_ps(c), 2);
    return (fpart)_mm512_insertf32x4(r, _mm_loadu_ps(d), 3);
#elif LANES_AVX2
    (void)c; (void)d; return (fpart)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
#else
    (void)b; (void)c; (void)d; return read<fpart>(a);
#endif
}
#define LANES_INLANE(i0, i1, i2, i3) (L / 4 * 4 + (L % 4 == 0 ? i0 : L % 4 == 1 ? W + i1 : L % 4 == 2 ? i2 : W + i3))...
template <int... L> LI void transpose(vfloat4& v, int k, const fpart* r, std::integer_sequence<int, L...>) {
    fpart a = LANES_SHUFFLE(ipart, r[0], r[1], LANES_INLANE(0, 0, 1, 1)),
          b = LANES_SHUFFLE(ipart, r[0], r[1], LANES_INLANE(2, 2, 3, 3));
    fpart c = LANES_SHUFFLE(ipart, r[2], r[3], LANES_INLANE(0, 0, 1, 1)),
          d = LANES_SHUFFLE(ipart, r[2], r[3], LANES_INLANE(2, 2, 3, 3));
#define LANES_HALVES(i) (L / 4 * 4 + (L % 4 < 2 ? L % 2 + i : W + L % 2 + i))...
    v.x.p[k] = LANES_SHUFFLE(ipart, a, c, LANES_HALVES(0)); v.y.p[k] = LANES_SHUFFLE(ipart, a, c, LANES_HALVES(2));
    v.z.p[k] = LANES_SHUFFLE(ipart, b, d, LANES_HALVES(0)); v.w.p[k] = LANES_SHUFFLE(ipart, b, d, LANES_HALVES(2));
}
template <class T, class I> LI void load_quads(vfloat4& v, const T* p, I i, int n) {
    static const float zeros[4] = {0, 0, 0, 0};
    EACH {
        fpart r[4];
        UNROLL for (int j = 0; j < 4; ++j) {
            float t[4][4]; const float* a[4];
            UNROLL for (int q = 0; q < W / 4 && q < 4; ++q) {
                int l = k_ * W + q * 4 + j;
                if constexpr (same<T, float>::v) a[q] = l < n ? p + lane_of(i, l) : zeros;
                else {
                    UNROLL for (int e = 0; e < 4; ++e) t[q][e] = l < n ? float(p[lane_of(i, l) + e]) : 0.0f;
                    a[q] = t[q];
                }
            }
            UNROLL for (int q = W / 4; q < 4; ++q) a[q] = zeros;
            r[j] = quad_part(a[0], a[1], a[2], a[3]);
        }
        transpose(v, k_, r, std::make_integer_sequence<int, W>());
    }
}
template <class T> LI void load_words(vfloat4& v, const T* p, const int* at) {   // 16 bytes a lane, at any address
    EACH {
        fpart r[4];
        UNROLL for (int j = 0; j < 4; ++j) {
            const int* a = at + k_ * W + j;
            r[j] = quad_part((const float*)(p + a[0]), (const float*)(p + a[4 % W]), (const float*)(p + a[8 % W]),
                             (const float*)(p + a[12 % W]));
        }
        transpose(v, k_, r, std::make_integer_sequence<int, W>());
    }
}

// ---- stores of the first n lanes -------------------------------------------------------------------
template <class T, class I> LI void store_n(T* p, I i, vec<T> v, int n) {
    for (int l = 0; l < n; ++l) p[lane_of(i, l)] = T(v.get(l));
}
template <class T> LI void store_n(T* p, vspan i, vec<T> v, int n) {
    p += i.base;
    if constexpr (sizeof(T) == 4) {
        EACH {
            upart u;
            memcpy(&u, &v.p[k_], sizeof u);
            part_store((uint*)p + k_ * W, u, n - k_ * W);
        }
    } else if constexpr (same<T, half>::v) {
        ushort t[32];
        EACH { auto h = __builtin_convertvector(part_half(v.p[k_]), typename lanes_of<ushort>::t); memcpy(t + k_ * W, &h, sizeof h); }
        if (n == 32) memcpy(p, t, 64); else memcpy(p, t, size_t(n > 0 ? n : 0) * 2);
    } else if constexpr (sizeof(T) == 1) {
        T t[32];
        T* to = n == 32 ? p : t;
        EACH { auto b = bytes_part(v.p[k_]); memcpy(to + k_ * W, &b, sizeof b); }
        if (n > 0 && n < 32) memcpy(p, t, size_t(n));
    } else
        for (int l = 0; l < n; ++l) p[l] = T(v.get(l));
}
template <class T> LI void store_n(T* p, vlane, vec<T> v, int n) { store_n(p, vspan{0}, v, n); }

// ---- pointers: the kind of index picks the instruction; checked builds carry bounds ------------------
[[noreturn]] inline void out_of_bounds(long i, long n) {
    char s[128];
    snprintf(s, sizeof s, "index %ld is outside a buffer of %ld elements", i, n);
    throw std::out_of_range(s);
}
template <class T, class I> struct ref;
template <class T> struct ptr {
    T* p = nullptr;
#ifdef LANES_CHECKED
    const char *lo = nullptr, *hi = nullptr;
    ptr() {}
    ptr(void* a, long bytes) : p((T*)a), lo((const char*)a), hi(lo + bytes) {}
    ptr(T* a, const char* l, const char* h) : p(a), lo(l), hi(h) {}
    template <class U> explicit ptr(ptr<U> o) : p((T*)o.p), lo(o.lo), hi(o.hi) {}
    operator ptr<const T>() const { return {p, lo, hi}; }
    void check(long i) const {
        if ((const char*)(p + i) < lo || (const char*)(p + i + 1) > hi)
            out_of_bounds(i + (long)(((const char*)p - lo) / (long)sizeof(T)), (long)((hi - lo) / (long)sizeof(T)));
    }
    template <class I> void check(I i, int n, int more = 0) const {
        for (int l = 0; l < n; ++l) {
            check(lane_of(i, l));
            if (more) check(lane_of(i, l) + more);
        }
    }
    ptr operator+(long n) const { return {p + n, lo, hi}; }
#else
    ptr() {}
    LI ptr(void* a, long) : p((T*)a) {}
    LI explicit ptr(T* a) : p(a) {}
    template <class U> LI explicit ptr(ptr<U> o) : p((T*)o.p) {}
    LI operator ptr<const T>() const { return ptr<const T>(p); }
    LI void check(long) const {}
    template <class I> LI void check(I, int, int = 0) const {}
    LI ptr operator+(long n) const { return ptr(p + n); }
#endif
    LI typename bare<T>::t operator[](int i) const { check(i); return p[i]; }
    LI typename bare<T>::t operator[](uint i) const { check(i); return p[i]; }
    LI typename bare<T>::t operator[](long i) const { check(i); return p[i]; }
    template <class I> LI ref<T, I> operator[](I i) const { return {*this, i}; }
    LI ref<T, vspan> operator[](vlane) const { return {*this, {0}}; }
};
template <class T> using dptr = ptr<T>;
template <class T> using tptr = ptr<T>;
#define RAW(q) ((const typename bare<T>::t*)(q).p)
template <class T, class I> struct ref {
    ptr<T> p; I i;
    LI operator vec<T>() const { p.check(i, 32); vec<T> v; load_n(v, RAW(p), i, 32); return v; }
    LI void operator=(vec<T> v) const {
        static_assert(same<T, typename bare<T>::t>::v, "a store to an input");
        static_assert(sizeof(T) == 4, "p[i] = v is for 32-bit elements; st(p, i, v) converts");
        p.check(i, 32); store_n(p.p, i, v, 32);
    }
};
template <class T, class I, class M> LI vec<T> ld(ptr<T> p, I i, M m) {
    int n = lanes_in(m); p.check(i, n); vec<T> v; load_n(v, RAW(p), i, n); return v;
}
template <class T, class I> LI vec<T> ld(ptr<T> p, I i) {
    p.check(i, 32);
    vec<T> v;
    load_n(v, RAW(p), i, 32);
    return v;
}
template <class T, class I> LI vec<T> ld(ptr<T> p, I i, vbool m) { // arbitrary mask: lane by lane
    vec<T> v = 0;
    for (int l = 0; l < 32; ++l) if (m.p[l / W][l % W]) { p.check(lane_of(i, l)); put(v, l, p.p[lane_of(i, l)]); }
    return v;
}
template <class T, class I, class M> LI void st(ptr<T> p, I i, vec<T> v, M m) {
    int n = lanes_in(m);
    p.check(i, n);
    store_n(p.p, i, v, n);
}
template <class T, class I> LI void st(ptr<T> p, I i, vec<T> v) { p.check(i, 32); store_n(p.p, i, v, 32); }
template <class T, class I> LI void st(ptr<T> p, I i, vec<T> v, vbool m) {
    for (int l = 0; l < 32; ++l) if (m.p[l / W][l % W]) { p.check(lane_of(i, l)); p.p[lane_of(i, l)] = T(v.get(l)); }
}
// Four consecutive elements a lane (i a multiple of 4), as floats.
template <class T, class I, class M> LI vfloat4 ld4(ptr<T> p, I i, M m) {
    int n = lanes_in(m); p.check(i, n, 3); vfloat4 v; load_quads(v, RAW(p), i, n); return v;
}
// Two consecutive 16-bit units a lane, as a word; the first is the low half. The address is 2-byte aligned.
LANES_SPREAD, class M> LI vuint ld_pair(ptr<const ushort> p, LANES_SPREAD_OF i, M m) {
    int n = lanes_in(m); p.check(i, n, 1); return spread_shorts<LANES_SPREAD_OF, 1>(p.p + i.base, n, parts());
}
template <class M> LI vuint ld_pair(ptr<const ushort> p, vint i, M m) {
    int n = lanes_in(m);
    p.check(i, n, 1);
    vuint v = 0u;
    for (int l = 0; l < n; ++l) v.set(l, read<uint>(p.p + i.get(l)));
    return v;
}
LI vuint ld_pair(ptr<const ushort> p, vint i) {
    p.check(i, 32, 1); vuint v; EACH v.p[k_] = gather_pair_part(p.p, i.p[k_]); return v;
}
template <int SKIP, class T, class I> LI vuint2 ld_two(ptr<T> p, I i) {        // a word a lane, and the one SKIP words further
    vuint2 v;
    if constexpr (sizeof(T) == 4) p.check(i, 32, SKIP);
    else { p.check(i, 32, 1); p.check(i, 32, 2 * SKIP + 1); }
    if constexpr (is_spread<I>::v) v = spread_two<I, SKIP>(p.p + i.base, parts());
    else if constexpr (sizeof(T) == 4) { v.x = ld(p, i); v.y = ld(p + SKIP, i); }
    else { v.x = ld_pair(p, vint(i)); v.y = ld_pair(p + 2 * SKIP, vint(i)); }
    return v;
}
// The first n of N units at p, the others zero: for spreads without `+ k`, whose offsets are below N.
template <int N> LI held<N> ld_held(ptr<const ushort> p, int n) {
    if (n > 0) { p.check(0); p.check(n - 1); }
#if LANES_AVX512
    held<N> h;
    UNROLL for (int j = 0; j < held<N>::count; ++j) {
        h.v[j] = n == N ? read<hpart>(p.p + held<N>::start(j)) : part_load(p.p + held<N>::start(j), n - held<N>::start(j));
        asm("" : "+v"(h.v[j]));                           // else it is loaded again for each use
    }
    return h;
#else
    return {p.p, n};
#endif
}
LANES_SPREAD> LI void of_held(int n, LANES_SPREAD_OF i) {
#ifdef LANES_CHECKED
    if (i.base) out_of_bounds(i.base, 0);
    for (int l = 0; l < 32; ++l) if (i.at(l) >= n) out_of_bounds(i.at(l), n);
#endif
}
template <int N, class S> LI vuint ld_pair(const held<N>& h, S i) { of_held(N - 1, i); return held_pairs<S>(h, parts()); }
template <int N, class S> LI vfloat ld_half(const held<N>& h, S i) { of_held(N, i); return held_halves<S>(h, parts()); }
// ld_pair, and the pair of units SKIP pairs further.
template <int SKIP, int N, class S> LI vuint2 ld_two(const held<N>& h, S i) {
    typedef typename further<S, 2 * SKIP>::t other;
    of_held(N - 1, other{i.base});
#if !LANES_AVX512
    if (h.n == N) return spread_two<S, SKIP>(h.p, parts());
#endif
    return {ld_pair(h, i), held_pairs<other>(h, parts())};
}
LI uint ld_pair(ptr<const ushort> p, int i) { p.check(i); p.check(i + 1); return read<uint>(p.p + i); }
// Four consecutive bytes a lane, as a word, at any address; lanes come in runs of four consecutive words, all or none of
// which are among the first n.
LANES_SPREAD, class M> LI vuint ld_word(ptr<const uchar> p, LANES_SPREAD_OF i, M m) {
    typedef LANES_SPREAD_OF I;
    static const uint zeros[4] = {0, 0, 0, 0};
    int n = lanes_in(m);
    p.check(i, n, 3);
    vuint v;
    EACH {
        const float* a[4];
        UNROLL for (int q = 0; q < 4; ++q) {
            int l = k_ * W + q % (W / 4) * 4;
            a[q] = (const float*)(l < n ? (const void*)(p.p + i.base + I::off(l)) : zeros);
        }
        v.p[k_] = (upart)quad_part(a[0], a[1], a[2], a[3]);
    }
    return v;
}
#if LANES_THREE_BYTES
// Bytes A, B, C and D, 0 to 2, of each lane's three, of 8, 16, 24 or 32 lanes.
template <int A, int B_, int C, int D_, int N, int S, int A_, int B, int O, int D, int P_, class M>
LI vuint ld_three(ptr<const uchar> p, vspread<N, S, A_, B, O, D, P_> i, M m) {
    p.check(i, lanes_in(m), 2);
    return three_bytes_of<vspread<N, S, A_, B, O, D, P_>, A, B_, C, D_>(p.p + i.base, lanes_in(m), parts());
}
#endif
#if LANES_BIT_FIELDS
template <int BITS, int FROM> LI vuint bit_fields(ptr<const uint> p, vprefix m) {
    constexpr std::make_integer_sequence<int, 64> bytes{};
    if (m.n) { p.check(0); p.check((m.n * BITS + 3) / 4 - 1); }
    vuint v;
    v.p[0] = bit_fields_part<BITS, FROM, 0>((const uchar*)p.p, m.n, bytes);
    v.p[1] = bit_fields_part<BITS, FROM, 1>((const uchar*)p.p + W * BITS, m.n - W, bytes);
    return v;
}
#endif
// Four consecutive words a lane, of 32-bit words or of pairs of 16-bit units; no alignment beyond the element's.
template <class T, class I> LI vuint4 ld_words(ptr<const T> p, I i) {
    p.check(i, 32, 16 / sizeof(T) - 1);
    vfloat4 v;
    int at[32];
    if constexpr (same<I, vint>::v) memcpy(at, &i, sizeof at);
    else UNROLL for (int l = 0; l < 32; ++l) at[l] = lane_of(i, l);
    load_words(v, p.p, at);
    return {as_uint(v.x), as_uint(v.y), as_uint(v.z), as_uint(v.w)};
}
// p[32 i + lane] = column i of a T made of vfloats: made where it will lie, as else registers do not hold it and it is copied.
#define PUT_COLUMNS(p, T, made) new (room_for<T>(p)) T(made)
template <class C> LI void* room_for(ptr<float> p) { p.check(0); p.check(sizeof(C) / sizeof(float) - 1); return p.p; }
template <class T> LI void prefetch(ptr<T> p, int n) { // n elements that a later step will read
    _Pragma("GCC unroll 8")
    for (const char *a = (const char*)p.p, *e = (const char*)(p.p + n); a < e; a += 64) __builtin_prefetch(a);
}
}  // namespace lanes

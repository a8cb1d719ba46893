// The lanes dialect on a CPU: loads by a spread, an index that is a fixed map of the lane: contiguous loads and permutations.
#pragma once
#include "lanes_memory.h"

namespace lanes {
template <class I> struct is_spread {
    static constexpr bool v = false;
};
LANES_SPREAD> struct is_spread<LANES_SPREAD_OF> {
    static constexpr bool v = true;
};

}  // namespace lanes
#include "lanes_spread_avx2.h"

namespace lanes {
template <class I, int MORE> struct further;              // the spread of what is MORE elements behind
template <int N, int S, int A, int B, int O, int D, int P_, int MORE> struct further<LANES_SPREAD_OF, MORE> {
    typedef vspread<N, S, A, B, O + MORE * B, D, P_> t;
};
typedef std::make_integer_sequence<int, NP> parts;
// A part of a spread: the window that holds its units, as one or two contiguous loads, and a permutation.
template <class S, int K> struct window {
    static constexpr int edge(int sign, int lanes) {    // of the offsets of the first lanes: the largest, or with -1 the least
        int most = sign * S::off(K * W);
        for (int l = 1; l < lanes; ++l)
            if (sign * S::off(K * W + l) > most) most = sign * S::off(K * W + l);
        return sign * most;
    }
    static constexpr int lo = edge(-1, W), hi = edge(1, W), range = hi - lo + 1;
    template <int UNITS, int EXTRA> static constexpr int index(int off) {
        return range + EXTRA <= UNITS || off - lo < UNITS ? off - lo : UNITS + off - (hi + EXTRA - UNITS + 1);
    }
    static LI int count(int n) {                        // units that the first n lanes reach to
        int m = n - K * W;
        return n == 32 || m >= W ? range : m <= 0 ? 0 : edge(1, m) - lo + 1;
    }
    static constexpr bool quads() {                     // lanes in runs of four consecutive 32-bit words
        for (int l = 0; l < W; ++l) if (S::off(K * W + l) != S::off(K * W + l / 4 * 4) + l % 4) return false;
        return true;
    }
    template <int... L> static LI upart pick32(upart a, upart b, std::integer_sequence<int, L...>) {
        return LANES_SHUFFLE(ipart, a, b, index<W, 0>(S::off(K * W + L))...);
    }
    static LI upart words(const uint* p, int n) {
#if LANES_AVX2
        typedef near_of<S, K, 4, 4> N;
        if constexpr (N::fits()) { if (n >= K * W + W) return N::load(p); if (n <= K * W) return upart{}; }
#endif
        int c = count(n);
        p += lo;
        if constexpr (range <= W) {
            upart a = part_load(p, c);
            return pick32(a, a, std::make_integer_sequence<int, W>());
        } else if constexpr (range <= 2 * W)
            return pick32(part_load(p, c), part_load(p + (range - W), c - (range - W)),
                          std::make_integer_sequence<int, W>());
        else {
            upart r{};
            EACH_LANE if (K * W + l_ < n) r[l_] = p[S::off(K * W + l_) - lo];
            return r;
        }
    }
    template <int PAIR, int... U> static LI hpart pick16(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return LANES_SHUFFLE(mask, a, b, index<2 * W, PAIR>(S::off(K * W + U / 2) + (PAIR ? U % 2 : 0))...);
    }
    // Units of 16 bits: each lane's own (PAIR 0; it comes twice) or its own and the next (PAIR 1).
    template <int PAIR> static LI upart shorts(const ushort* p, int n) {
#if LANES_AVX2
        typedef near_of<S, K, 2, 2 + 2 * PAIR> N;
        if constexpr (N::fits()) { if (n >= K * W + W) return N::load(p); if (n <= K * W) return upart{}; }
#endif
        constexpr int all = range + PAIR;
        int c = count(n);
        if (PAIR && c) c += 1;
        p += lo;
        if constexpr (all <= 2 * W) {
            hpart a = part_load(p, c);
            return (upart)pick16<PAIR>(a, a, std::make_integer_sequence<int, 2 * W>());
        } else if constexpr (all <= 4 * W)
            return (upart)pick16<PAIR>(part_load(p, c), part_load(p + (all - 2 * W), c - (all - 2 * W)),
                                       std::make_integer_sequence<int, 2 * W>());
        else {
            upart r{};
            EACH_LANE if (K * W + l_ < n) {
                const ushort* q = p + (S::off(K * W + l_) - lo);
                r[l_] = PAIR ? read<uint>(q) : *q * 0x10001u;
            }
            return r;
        }
    }
    // Each lane's word and the one SKIP further, of one load or two; of ushort, pairs of units.
    template <int SKIP, int MORE, int... L> static LI upart word_of(upart a, upart b, std::integer_sequence<int, L...>) {
        return LANES_SHUFFLE(ipart, a, b, index<W, MORE>(S::off(K * W + L) + SKIP)...);
    }
#if LANES_AVX2
    template <int SKIP, int UNIT> static constexpr bool near_two() {
        return (SKIP == 1 && near_of<S, K, UNIT, 4>::every_second()) || (near_of<S, K, UNIT, 4, 0, 4 * SKIP>::fits() && near_of<S, K, UNIT, 4, 4 * SKIP>::fits());
    }
    template <int SKIP, int UNIT> static LI void load_two(const void* p, upart& x, upart& y) {
        typedef near_of<S, K, UNIT, 4, 0, 4 * SKIP> N;
        if constexpr (SKIP == 1 && N::every_second()) N::alternate(p, x, y);
        else { x = N::load(p); y = near_of<S, K, UNIT, 4, 4 * SKIP>::load(p); }
    }
#endif
    template <int SKIP> static LI void two(const uint* p, upart& x, upart& y) {
#if LANES_AVX2
        if constexpr (near_two<SKIP, 4>()) return load_two<SKIP, 4>(p, x, y);
#endif
        constexpr int all = range + SKIP;
        constexpr std::make_integer_sequence<int, W> lanes{};
        if constexpr (all <= 2 * W) {
            upart a = part_load(p + lo, all < W ? all : W), b = a;
            if constexpr (all > W) b = part_load(p + lo + (all - W), W);
            x = word_of<0, SKIP>(a, b, lanes);
            y = word_of<SKIP, SKIP>(a, b, lanes);
        } else { x = words(p, 32); y = words(p + SKIP, 32); }
    }
    template <int SKIP, int MORE, int... U> static LI upart pair_of(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return (upart)LANES_SHUFFLE(mask, a, b, index<2 * W, MORE>(S::off(K * W + U / 2) + U % 2 + SKIP)...);
    }
    template <int SKIP> static LI void two(const ushort* p, upart& x, upart& y) {
#if LANES_AVX2
        if constexpr (near_two<SKIP, 2>()) return load_two<SKIP, 2>(p, x, y);
#endif
        constexpr int all = range + 2 * SKIP + 1;
        constexpr std::make_integer_sequence<int, 2 * W> units{};
        if constexpr (all <= 4 * W) {
            hpart a = part_load(p + lo, all < 2 * W ? all : 2 * W), b = a;
            if constexpr (all > 2 * W) b = part_load(p + lo + (all - 2 * W), 2 * W);
            x = pair_of<0, 2 * SKIP + 1>(a, b, units);
            y = pair_of<2 * SKIP, 2 * SKIP + 1>(a, b, units);
        } else { x = shorts<1>(p, 32); y = shorts<1>(p + 2 * SKIP, 32); }
    }
    template <int... U> static LI upart halves_of(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return (upart)LANES_SHUFFLE(mask, a, b, index<2 * W, 0>(S::off(K * W + U % W))...);
    }
    template <int LO, int... L> static LI ipart from(std::integer_sequence<int, L...>) { return ipart{(S::off(K * W + L) - LO)...}; }
    static LI fpart halves(const ushort* p, int n) {    // each lane's own unit, as fp16
        int c = count(n);
        constexpr std::make_integer_sequence<int, 2 * W> units{};
        if constexpr (range <= 2 * W) {
            hpart a = part_load(p + lo, c);
            return half_units(halves_of(a, a, units));
        } else if constexpr (middle() == hi)
            return half_units(halves_of(part_load(p + lo, c), part_load(p + lo + (range - 2 * W), c - (range - 2 * W)), units));
        else if constexpr (middle() + 2 * W > hi - 2 * W) {
            constexpr int m = middle() - lo, last = range - 2 * W;
            hpart a = part_load(p + lo, c), b = part_load(p + lo + m, c - m), z = part_load(p + lo + last, c - last);
            return half_units((upart)at_end_of(between_of(a, b, units), z, units));
        } else return half_part(shorts<0>(p, n));
    }
    // The first offset that is neither among the first 2 W units nor among the last; hi where there is none.
    static constexpr int middle() {
        int least = hi;
        for (int l = 0; l < W; ++l) {
            int off = S::off(K * W + l);
            if (off - lo >= 2 * W && off <= hi - 2 * W && off < least) least = off;
        }
        return least;
    }
    static constexpr int between(int off) { return off - lo < 2 * W ? off - lo : off <= hi - 2 * W ? 2 * W + off - middle() : 0; }
    static constexpr int at_end(int u, int off) { return off - lo < 2 * W || off <= hi - 2 * W ? u : 4 * W + off - hi - 1; }
    template <int... U> static LI hpart between_of(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return LANES_SHUFFLE(mask, a, b, between(S::off(K * W + U % W))...);
    }
    template <int... U> static LI hpart at_end_of(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return LANES_SHUFFLE(mask, a, b, at_end(U, S::off(K * W + U % W))...);
    }
#if LANES_AVX512 && defined(__AVX512VBMI__)
    template <int... U> static LI upart pick8(bpart a, std::integer_sequence<int, U...>) {
        return (upart)LANES_SHUFFLE(bpart, a, a, char(S::off(K * W + U / 4) - lo)...);
    }
    static LI upart bytes(const uchar* p, int n) {      // each lane's own byte, four times
        unsigned long long m = ~0ull >> (64 - range);
        if (n < 32) { int c = count(n); m = c ? ~0ull >> (64 - c) : 0; }
        return pick8((bpart)_mm512_maskz_loadu_epi8(m, p + lo), std::make_integer_sequence<int, 64>());
    }
#endif
};
#if LANES_AVX512 && defined(__AVX512VBMI__)
#define LANES_BIT_FIELDS 1
// Four numbers of BITS (2, 3, 5, 6) bits a lane, a byte each: from number 8 * lane + FROM on, of those that p has one after the other.
template <int BITS, int FROM, int K, int... U> LI upart bit_fields_part(const uchar* p, int lanes, std::integer_sequence<int, U...>) {
    constexpr int all = W * BITS, skip = BITS <= 4 ? 0 : FROM * BITS / 8, bit = FROM * BITS - 8 * skip, more = all > 64 ? all - 64 : 0;
#define LANES_BYTE(u) ((u) / 4 * BITS + skip + (u) % 4 < all ? (u) / 4 * BITS + skip + (u) % 4 : all - 1)
    int c = lanes >= W ? all : lanes <= 0 ? 0 : lanes * BITS, d = c - more;
    bpart a = (bpart)_mm512_maskz_loadu_epi8(c >= 64 ? ~0ull : (1ull << c) - 1, p), b = a;
    if constexpr (more > 0) b = (bpart)_mm512_maskz_loadu_epi8(d >= 64 ? ~0ull : d <= 0 ? 0 : (1ull << d) - 1, p + more);
    upart w = (upart)LANES_SHUFFLE(bpart, a, b, char(LANES_BYTE(U) < 64 ? LANES_BYTE(U) : 64 + LANES_BYTE(U) - more)...);
    constexpr bpart at = {char(U / 4 % 2 * 32 + bit + U % 4 * BITS)...};
    return (upart)_mm512_multishift_epi64_epi8((__m512i)at, (__m512i)w) & (((1u << BITS) - 1u) * 0x01010101u);
}
#endif
template <class V> LI V only(V v, int n) {                // zero but in the first n lanes: lanes may share a unit
    if (__builtin_constant_p(n) && n == 32) return v;
    EACH v.p[k_] = (decltype(v.p[k_] + v.p[k_]))((upart)v.p[k_] & (upart)(iota().p[k_] < n));
    return v;
}
template <class S, int PAIR, int... K>
LI vuint spread_shorts(const ushort* p, int n, std::integer_sequence<int, K...>) {
    vuint v; ((v.p[K] = window<S, K>::template shorts<PAIR>(p, n)), ...); return only(v, n);
}
template <class S, int... K> LI vuint spread_words(const uint* p, int n, std::integer_sequence<int, K...>) {
    vuint v; ((v.p[K] = window<S, K>::words(p, n)), ...); return only(v, n);
}
#if LANES_AVX512 && defined(__AVX512VBMI__)
template <class S, int... K> LI vuint spread_bytes(const uchar* p, int n, std::integer_sequence<int, K...>) {
    vuint v; ((v.p[K] = window<S, K>::bytes(p, n)), ...); return only(v, n);
}
#endif
template <class S> constexpr bool alternate(int lo, int hi) {                  // all lanes lo, or lo and the next in turns
    for (int l = 0; l < 32; ++l) if (S::off(l) != lo + (hi == lo ? 0 : l % 2)) return false;
    return true;
}
template <class S, int... K> LI vfloat spread_halves(const ushort* p, int n, std::integer_sequence<int, K...>) {
    vfloat v;
#if LANES_AVX512
    constexpr int lo = window<S, 0>::lo < window<S, 1>::lo ? window<S, 0>::lo : window<S, 1>::lo;
    constexpr int hi = window<S, 0>::hi > window<S, 1>::hi ? window<S, 0>::hi : window<S, 1>::hi;
    if constexpr (alternate<S>(lo, hi))                   // one or two units, again and again
        if (n == 32) {
            __m512 all = _mm512_cvtph_ps(lo == hi ? _mm256_set1_epi16(read<short>(p + lo)) : _mm256_set1_epi32(read<int>(p + lo)));
            EACH v.p[k_] = (fpart)all;
            return v;
        }
    if constexpr (hi - lo < W) {                          // one load, and one conversion
        int c = hi - lo + 1;
        if (n < 32) { c = 0; for (int l = 0; l < n; ++l) if (S::off(l) - lo >= c) c = S::off(l) - lo + 1; }
        __m512 all = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16(low_bits(c)), p + lo));
        ((v.p[K] = (fpart)_mm512_permutexvar_ps((__m512i)window<S, K>::template from<lo>(std::make_integer_sequence<int, W>()), all)), ...);
        return only(v, n);
    }
#elif LANES_AVX2
    if (n == 32 || !one_or_two<S>()) { few_halves<S>(v, p, n, parts()); return only(v, n); }
#endif
    ((v.p[K] = window<S, K>::halves(p, n)), ...); return only(v, n);
}
template <class S, int SKIP, class T, int... K> LI vuint2 spread_two(const T* p, std::integer_sequence<int, K...>) {
    vuint2 v; (window<S, K>::template two<SKIP>(p, v.x.p[K], v.y.p[K]), ...); return v;
}
// N units of 16 bits: in registers, so that each part of memory is loaded once for all spreads of them. The last vector ends
// with the last unit.
#if LANES_AVX512
template <int N> struct held {
    static_assert(N >= 2 * W, "fewer units than a vector has");
    static constexpr int count = (N + 2 * W - 1) / (2 * W);
    static constexpr int start(int j) { return j < count - 1 ? j * 2 * W : N - 2 * W; }
    hpart v[count];
};
// A part's units, picked of one vector after the other: PAIR: each lane's own and the next, else each lane's own, twice.
template <class S, int K, int PAIR, int N> struct picked {
    static constexpr int unit(int u) { return PAIR ? S::off(K * W + u / 2) + u % 2 : S::off(K * W + u % W); }
    static constexpr int home(int u) { return unit(u) / (2 * W); }
    static constexpr bool needs(int j) { for (int u = 0; u < 2 * W; ++u) if (home(u) == j) return true; return false; }
    static constexpr int first() { int j = 0; while (!needs(j)) ++j; return j; }
    static constexpr int next(int j) { ++j; while (j < held<N>::count && !needs(j)) ++j; return j; }
    template <int J, bool FIRST> static constexpr int index(int u) {       // of a: the first vector, or what is picked so far
        return home(u) == J ? 2 * W + unit(u) - held<N>::start(J) : !FIRST ? u : home(u) == first() ? unit(u) - held<N>::start(first()) : 0;
    }
    template <int J, bool FIRST, int... U> static LI hpart both(hpart a, hpart b, std::integer_sequence<int, U...>) {
        typedef short mask __attribute__((vector_size(LANES_VB)));
        return LANES_SHUFFLE(mask, a, b, index<J, FIRST>(U)...);
    }
    template <int J, bool FIRST> static LI hpart from(hpart a, const held<N>& h) {
        constexpr std::make_integer_sequence<int, 2 * W> units{};
        if constexpr (J < held<N>::count) return from<next(J), false>(both<J, FIRST>(a, h.v[J], units), h);
        else if constexpr (FIRST) return both<first(), true>(a, a, units);
        else return a;
    }
    static LI upart of(const held<N>& h) { return (upart)from<next(first()), true>(h.v[first()], h); }
};
template <class S, int N, int... K> LI vuint held_pairs(const held<N>& h, std::integer_sequence<int, K...>) {
    vuint v; ((v.p[K] = picked<S, K, 1, N>::of(h)), ...); return v;
}
template <class S, int N, int... K> LI vfloat held_halves(const held<N>& h, std::integer_sequence<int, K...>) {
    vfloat v; ((v.p[K] = half_units(picked<S, K, 0, N>::of(h))), ...); return v;
}
#else
template <int N> struct held { const ushort* p; int n; };
// How many lanes have their units, `more` further ones too, below n; -1 where these are not the first ones.
template <class S> LI int lanes_below(int n, int more) {
    int l = 0;
    while (l < 32 && S::off(l) + more < n) ++l;
    for (int other = l + 1; other < 32; ++other) if (S::off(other) + more < n) return -1;
    return l;
}
template <class S, int N> LI vuint held_pairs(const held<N>& h, parts all) {
    int n = h.n == N ? 32 : lanes_below<S>(h.n, 1);
    if (n >= 0) return spread_shorts<S, 1>(h.p, n, all);
    vuint v = 0u;
    for (int l = 0; l < 32; ++l) if (S::off(l) + 1 < h.n) v.set(l, read<uint>(h.p + S::off(l)));
    return v;
}
template <class S, int N> LI vfloat held_halves(const held<N>& h, parts all) {
    int n = h.n == N ? 32 : lanes_below<S>(h.n, 0);
    if (n >= 0) return spread_halves<S>(h.p, n, all);
    vfloat v = 0.0f;
    for (int l = 0; l < 32; ++l) if (S::off(l) < h.n) v.set(l, half_to_float(h.p[S::off(l)]));
    return v;
}
#endif
template <class T, int N, int S, int A, int B, int O, int D, int P_>
LI void load_n(vec<T>& v, const T* p, LANES_SPREAD_OF i, int n) {
    typedef LANES_SPREAD_OF I;
    p += i.base;
    if constexpr (sizeof(T) == 4) { vuint u = spread_words<I>((const uint*)p, n, parts()); memcpy(&v, &u, sizeof u); }
    else if constexpr (same<T, half>::v) v = spread_halves<I>((const ushort*)p, n, parts());
    else if constexpr (sizeof(T) == 2) {
        vuint u = spread_shorts<I, 0>((const ushort*)p, n, parts());
        EACH from_units<T>(v, k_, u.p[k_]);
    } else {
#if LANES_AVX512 && defined(__AVX512VBMI__)
        if constexpr (window<I, 0>::range <= 64 && window<I, 1>::range <= 64) {
            vuint u = spread_bytes<I>((const uchar*)p, n, parts());
            EACH if constexpr (same<T, uchar>::v) v.p[k_] = u.p[k_] & 255u;
            else v.p[k_] = (ipart)u.p[k_] >> 24;
        } else
#elif LANES_AVX2
        if constexpr (same<T, uchar>::v && near_bytes<I>(parts())) {
            if (n % W == 0) { few_bytes<I>(v, (const uchar*)p, n, parts()); return; }
        }
#endif
            load_each(v, p, I{0}, n);
    }
}
}  // namespace lanes

// The lanes dialect with AVX2, loads by a spread: it has no permutation of two vectors, but loads 16 bytes from any address, and
// shuffles them. For lanes_spread.h.
#pragma once

namespace lanes {
#if LANES_AVX2
template <int A, int B> LI __m256i two_halves(const char* p) {                 // 16 bytes from A on, and from B on
    if constexpr (B == A + 16) return _mm256_loadu_si256((const __m256i*)(p + A));
    else if constexpr (A == B) return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(p + A)));
    else return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(p + A))), _mm_loadu_si128((const __m128i*)(p + B)), 1);
}
// SIZE bytes for each lane of part K of S, whose offsets are of UNIT bytes, from ADD bytes behind them on: where those of four
// lanes are within 16 bytes. Bytes from LO to HI may be read.
template <class S, int K, int UNIT, int ADD, int SIZE, int LO, int HI> struct near {
    static constexpr int byte(int l) { return S::off(K * W + l) * UNIT + ADD; }
    static constexpr int least(int from, int to) { int b = byte(from); for (int l = from; l < to; ++l) if (byte(l) < b) b = byte(l); return b; }
    static constexpr int end(int from, int to) { int b = byte(from); for (int l = from; l < to; ++l) if (byte(l) > b) b = byte(l); return b + SIZE; }
    static constexpr bool narrow() { return end(0, 8) - least(0, 8) <= 16; }
    static constexpr int start(int h) {
        int b = narrow() ? least(0, 8) : least(4 * h, 4 * h + 4);
        return b + 16 <= HI ? b : HI - 16;
    }
    static constexpr bool same() { return end(0, 8) - least(0, 8) == SIZE; }
    static constexpr bool fits() {
        for (int h = 0; h < 2; ++h) if (start(h) < LO || end(4 * h, 4 * h + 4) - start(h) > 16) return same();
        return true;
    }
    static constexpr int from(int l) { return byte(l) - start(l / 4); }
    static constexpr bool in_words() {                    // both halves alike, and word by word
        for (int l = 0; l < 8; ++l) if (SIZE < 4 || from(l) % 4 || from(l) != from(l % 4)) return false;
        return true;
    }
    typedef std::integer_sequence<int, 0, 1, 2, 3> in_order;
    template <int... Q, int... U> static LI upart pick(__m256i x, std::integer_sequence<int, Q...>, std::integer_sequence<int, U...>) {
        constexpr int at[] = {Q...};                      // bytes behind each lane's first
        return (upart)_mm256_shuffle_epi8(x, _mm256_setr_epi8(char(at[U % 4] < SIZE ? from(U / 4) + at[U % 4] : -1)...));
    }
    template <int... Q> static LI upart four(const void* p) {                  // these four bytes of each lane's
        __m256i x = two_halves<start(0), start(1)>((const char*)p);
        return pick(x, std::integer_sequence<int, Q...>(), std::make_integer_sequence<int, 32>());
    }
    static LI upart load(const void* p) {
        if constexpr (same()) {
            const char* a = (const char*)p + byte(0);
            return (upart)_mm256_set1_epi32(SIZE == 4 ? read<int>(a) : SIZE == 2 ? read<ushort>(a) : read<uchar>(a));
        } else {
            __m256i x = two_halves<start(0), start(1)>((const char*)p);
            if constexpr (in_words()) {
                constexpr int order = from(0) / 4 | from(1) / 4 << 2 | from(2) / 4 << 4 | from(3) / 4 << 6;
                return (upart)(order == 0xe4 ? x : _mm256_shuffle_epi32(x, order));
            } else return pick(x, in_order(), std::make_integer_sequence<int, 32>());
        }
    }
    static constexpr bool every_second() {                // words 0, 2, 4, 6 of 8, in both halves
        for (int l = 0; l < 8; ++l) if (SIZE < 4 || byte(l) != byte(l / 4 * 4) + l % 4 * 8) return false;
        return true;
    }
    static LI void alternate(const void* p, upart& x, upart& y) {              // those, and the others
        __m256 a = _mm256_castsi256_ps(two_halves<byte(0), byte(4)>((const char*)p)), b = _mm256_castsi256_ps(two_halves<byte(0) + 16, byte(4) + 16>((const char*)p));
        x = (upart)_mm256_shuffle_ps(a, b, 0x88);
        y = (upart)_mm256_shuffle_ps(a, b, 0xdd);
    }
};
// What parts 0 to K of a spread reach to: they are read where K is.
template <class S, int K> constexpr int reach(int sign) {
    int most = sign * S::off(0);
    for (int l = 1; l < (K + 1) * W; ++l) if (sign * S::off(l) > most) most = sign * S::off(l);
    return sign * most;
}
template <class S, int K, int UNIT, int SIZE, int ADD = 0, int MORE = ADD>
using near_of = near<S, K, UNIT, ADD, SIZE, reach<S, K>(-1) * UNIT, reach<S, K>(1) * UNIT + MORE + SIZE>;

// The different units of 16 bits of lanes FROM to TO - 1, if they are 8 at most.
template <class S, int FROM, int TO> struct few {
    int count = 0, at[8] = {}, lane[8] = {}, rank[32] = {};
    constexpr few() {
        for (int l = FROM; l < TO; ++l) {
            int r = 0;
            while (r < count && r < 8 && at[r] != S::off(l)) ++r;
            if (r == 8) { count = 9; return; }
            if (r == count) { at[r] = S::off(l); lane[r] = l; ++count; }
            rank[l] = r;
        }
    }
    constexpr bool run() const { for (int r = 1; r < count; ++r) if (at[r] != at[0] + r) return false; return count == 4 || count == 8; }
    constexpr bool pairs() const { for (int r = 0; r < 8; ++r) if (r >= count || at[r] != at[r / 2 * 2] + r % 2) return false; return true; }
    constexpr int last() const { int b = at[0]; for (int r = 1; r < count; ++r) if (at[r] > b) b = at[r]; return b; }
};
template <class S, int FROM, int TO> struct collected {
    static constexpr few<S, FROM, TO> f{};
    template <int R> static LI __m128i one(const ushort* p, int n) {           // with anything behind it
        if constexpr (R >= f.count) return _mm_setzero_si128();
        else {
            if (f.lane[R] >= n) return _mm_setzero_si128();
            return _mm_cvtsi32_si128(f.at[R] == f.last() || n < TO ? read<ushort>(p + f.at[R]) : read<int>(p + f.at[R]));
        }
    }
    template <int R> static LI __m128i two(const ushort* p, int n) {
        if constexpr (f.pairs()) if (n >= TO) return _mm_cvtsi32_si128(read<int>(p + f.at[R]));
        return _mm_unpacklo_epi16(one<R>(p, n), one<R + 1>(p, n));
    }
    static LI __m256 all(const ushort* p, int n) {
        if constexpr (f.run()) if (n > f.lane[f.count - 1]) {                  // one behind the other
            const __m128i* a = (const __m128i*)(p + f.at[0]);
            return _mm256_cvtph_ps(f.count == 4 ? _mm_loadl_epi64(a) : _mm_loadu_si128(a));
        }
        return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm_unpacklo_epi32(two<0>(p, n), two<2>(p, n)), _mm_unpacklo_epi32(two<4>(p, n), two<6>(p, n))));
    }
    template <int K, int... L> static LI fpart part(__m256 v, std::integer_sequence<int, L...>) {
        if constexpr (((f.rank[K * W + L] == L) && ...)) return (fpart)v;
        else return (fpart)_mm256_permutevar8x32_ps(v, _mm256_setr_epi32(f.rank[K * W + L]...));
    }
};
template <class S> constexpr bool one_or_two() {          // all lanes have the same, or one and the next in turns
    for (int l = 0; l < 32; ++l) if (S::off(l) != S::off(l % 2) || S::off(1) - S::off(0) > 1) return false;
    return true;
}
template <class S, int... K> LI void few_halves(vfloat& v, const ushort* p, int n, std::integer_sequence<int, K...>) {
    constexpr std::make_integer_sequence<int, W> lanes{};
    if constexpr (one_or_two<S>()) {
        fpart all = (fpart)_mm256_cvtph_ps(S::off(1) == S::off(0) ? _mm_set1_epi16(read<short>(p + S::off(0))) : _mm_set1_epi32(read<int>(p + S::off(0))));
        EACH v.p[k_] = all;
    } else if constexpr (few<S, 0, 32>().count <= 8) {
        __m256 all = collected<S, 0, 32>::all(p, n);
        ((v.p[K] = collected<S, 0, 32>::template part<K>(all, lanes)), ...);
    } else ((v.p[K] = collected<S, K * W, K * W + W>::template part<K>(collected<S, K * W, K * W + W>::all(p, n), lanes)), ...);
}
template <class S, int... K> constexpr bool near_bytes(std::integer_sequence<int, K...>) { return (near_of<S, K, 1, 1>::fits() && ...); }
template <class S, class V, int... K> LI void few_bytes(V& v, const uchar* p, int n, std::integer_sequence<int, K...>) {      // n: a multiple of W
    ((v.p[K] = n > K * W ? near_of<S, K, 1, 1>::load(p) : upart{}), ...);
}
#define LANES_THREE_BYTES 1
// Bytes A, B, C and D of each lane's three.
template <class S, int A, int B, int C, int D, int... K> LI vuint three_bytes_of(const uchar* p, int n, std::integer_sequence<int, K...>) {
    static_assert((near_of<S, K, 1, 3>::fits() && ...), "bytes of four lanes within 16");
    vuint v; ((v.p[K] = n > K * W ? near_of<S, K, 1, 3>::template four<A, B, C, D>(p) : upart{}), ...); return v;
}
// Units of 16 bits, 16 / N at p and as many at q, in turns, each pair N / 2 times: as floats, fp16 or the upper halves of theirs.
template <int N, bool HALF> LI vfloat in_turns(const char* p, const char* q) {
    __m128i a, b, two[2];
    if constexpr (N == 2) a = _mm_loadu_si128((const __m128i*)p), b = _mm_loadu_si128((const __m128i*)q);
    else if constexpr (N == 4) a = _mm_loadl_epi64((const __m128i*)p), b = _mm_loadl_epi64((const __m128i*)q);
    else a = _mm_cvtsi32_si128(read<int>(p)), b = _mm_cvtsi32_si128(read<int>(q));
    __m128i x = _mm_unpacklo_epi16(a, b);
    if constexpr (N == 2) two[0] = x, two[1] = _mm_unpackhi_epi16(a, b);
    else if constexpr (N == 4) two[0] = _mm_unpacklo_epi32(x, x), two[1] = _mm_unpackhi_epi32(x, x);
    else two[0] = _mm_shuffle_epi32(x, 0), two[1] = _mm_shuffle_epi32(x, 0x55);
    vfloat v = 0.0f;
    UNROLL for (int i = 0; i < 2; ++i)
        v.p[i] = HALF ? (fpart)_mm256_cvtph_ps(two[i]) : (fpart)_mm256_slli_epi32(_mm256_cvtepu16_epi32(two[i]), 16);
    return v;
}
#endif
}  // namespace lanes

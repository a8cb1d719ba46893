// Page formats q8, q6 and a4: affine codes of BITS bits (8, 6, 4). K has a scale and an offset for each channel of a page,
// V for each token. Record: K's words [DK / K_PER][K_LOADS][PAGE], its scales [DK]; V's words [PAGE / V_DEEP][V_LOADS][DV],
// its scales [PAGE]. mixed takes its codes from here, too. value = code * scale + offset, both fp16, in one word: the
// scale in its low half. A word's codes are dealt to its bytes: number j lies in byte j % 4. As floats they stay where they
// are, so that number j comes out times 2^PLACE; the top one is moved down, to stay positive as an int. Codes of 6 bits
// are two planes: two words of high nibbles, one of low pairs.
#define PLACE(bits, j) (((j) & 3) * 8 + ((j) >> 2) * (bits))
inline vfloat code_at(vuint w, int bits, int j) {
    return vfloat(vint(j == 32 / bits - 1 ? w >> (32 - bits) : w & (((1u << bits) - 1u) << PLACE(bits, j))));
}
inline vfloat code_of_six(vuint high, vuint low, int j) {
    vuint h = j % 8 == 0 ? high << 2 : high >> (PLACE(4, j % 8) - 2);
    return vfloat(vint((h & 60u) | (low >> PLACE(2, j) & 3u)));
}
// Numbers 4 i .. 4 i + 3 of a group as bytes.
inline vuint bytes_at(vuint w, int bits, int i) { return bits == 8 ? w : w >> (bits * i) & 0x0f0f0f0fu; }
inline vuint bytes_of_six(vuint high, vuint low, int i) {
    return (high >> (i % 2 * 4) & 0x0f0f0f0fu) << 2 | (low >> (2 * i) & 0x03030303u);
}
// What a code in place is times to become a plain one.
inline float unit_of(int bits, int j) { return bits == 6 || j == 32 / bits - 1 ? 1.0f : 1.0f / float(1u << PLACE(bits, j)); }
inline vfloat units_of(int bits, vint j) {
    if (bits == 6) return vfloat(1.0f);
    return select(as_float(vuint((127 - PLACE(bits, j)) << 23)), vfloat(1.0f), j == 32 / bits - 1);
}
// What numbers 0, 1, .. of a group add to its words: a code, at its place.
inline void put_code(thread vuint (&w)[3], vuint code, int bits, int j) {
    if (bits == 6) {
        w[j / 8 & 1] |= (code >> 2) << uint(PLACE(4, j % 8));
        w[2] |= (code & 3u) << uint(PLACE(2, j));
    } else
        w[0] |= code << uint(PLACE(bits, j));
}
#define AFFINE_VALUE(code, factors, bits, j) ((code) * (half_lo(factors) * unit_of(bits, j)) + half_hi(factors))

#ifdef K_AFFINE
#if K_BITS == 6
#define K_CODE(w, j) code_of_six((w)[(j) / 8], (w)[2], j)
#define K_BYTES(w, i) bytes_of_six((w)[(i) / 2], (w)[2], i)
#else
#define K_CODE(w, j) code_at((w)[0], K_BITS, j)
#define K_BYTES(w, i) bytes_at((w)[0], K_BITS, i)
#endif
#endif
#if defined(K_AFFINE) && !defined(K_MIXED)
#define AT_K 0
#define AT_KS (DK / K_PER * K_LOADS * PAGE)
#define K_VALUE(rec, code, d, j, unit) AFFINE_VALUE(code, uint(rec[AT_KS + (d)]), K_BITS, j)
#define K_FACTORS vuint
inline vuint k_factors(dptr<const uint> rec, vlane lane, int d) {
    return ld(rec, lane + (AT_KS + d), first(lane, DK - d));
}
// Channel d + lane of q in units of this page's codes; what each score gets more is added to bias.
inline vfloat k_query(vuint factors, tptr<float> q, int d, thread vfloat& bias, vlane lane) {
    vfloat x = ld(q, lane + d, first(lane, DK - d));
    bias += x * half_hi(factors);
#if K_INT8
    return x * half_lo(factors);
#else
    return x * half_lo(factors) * units_of(K_BITS, vint(lane) & (K_PER - 1));
#endif
}
#endif
#ifdef V_AFFINE
#if V_BITS == 6
#define V_CODE(w, j) code_of_six((w)[(j) / 8], (w)[2], j)
#define V_BYTES(w, i) bytes_of_six((w)[(i) / 2], (w)[2], i)
#else
#define V_CODE(w, j) code_at((w)[0], V_BITS, j)
#define V_BYTES(w, i) bytes_at((w)[0], V_BITS, i)
#endif
#define AT_VS (AT_V + PAGE / V_DEEP * V_LOADS * DV)
#define V_VALUE(rec, code, t, j) AFFINE_VALUE(code, uint(rec[AT_VS + (t)]), V_BITS, j)
#define V_TOKEN vuint
#define V_OFFSET
inline vuint v_factors(dptr<const uint> rec, vlane lane, int t0) {
    return ld(rec, lane + (AT_VS + t0), first(lane, BLOCK));
}
inline vfloat v_scale(vuint factors) { return half_lo(factors); }
inline vfloat v_offset(vuint factors) { return half_hi(factors); }
#define V_PLACES units_of(V_BITS, vint(lane) & (V_DEEP - 1))
#define V_MIDDLE float(1 << (V_BITS - 1))                 // of codes: sums of floats are more exact without it
#define V_CENTRED(code, j) ((code) - V_MIDDLE / unit_of(V_BITS, j))
#endif

#ifdef SEALING
struct affine { vfloat offset, scale; vuint word; };      // of some numbers, the same in all lanes
// bad: 0, or NaN where a number was not finite.
inline affine affine_of(float low, float high, float bad, float top) {
    affine a;
    vuint offset = half_bits(vfloat(low + bad));
    a.offset = half_lo(offset);
    vuint scale = half_bits((vfloat(high) - a.offset) / top);
    a.scale = half_lo(scale);
    a.word = scale | offset << 16;
    return a;
}
inline vuint code_for(thread const affine& a, vfloat x, float top) {
    vfloat c = rint((x - a.offset) / select(vfloat(1.0f), a.scale, a.scale > 0.0f));
    return vuint(vint(min(max(c, vfloat(0.0f)), vfloat(top))));
}
#if defined(K_AFFINE)
#define K_TOP float((1 << K_BITS) - 1)
inline affine affine_of_channel(thread const channels& x, int e, vlane lane) {
    vfloat low = INFINITY, high = -INFINITY, bad = 0.0f;
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        low = min(low, select(vfloat(INFINITY), x.v[e][b], vint(lane) < BLOCK));
        high = max(high, select(vfloat(-INFINITY), x.v[e][b], vint(lane) < BLOCK));
        bad += x.v[e][b] * 0.0f;
    }
    return affine_of(simd_min(low), simd_max(high), simd_sum(bad), K_TOP);
}
// The words of a group of K_PER channels, and from `scales` on those of their scales and offsets.
inline void encode_group(dptr<uint> words, dptr<uint> scales, vlane lane, thread const channels& x) {
    affine a[K_PER];
    UNROLL for (int e = 0; e < K_PER; ++e) {
        a[e] = affine_of_channel(x, e, lane);
        st(scales, lane + e, a[e].word, first(lane, 1));
    }
    UNROLL for (int b = 0; b < BLOCKS; ++b) {
        vuint w[3];
        UNROLL for (int i = 0; i < 3; ++i) w[i] = 0u;
        UNROLL for (int e = 0; e < K_PER; ++e) put_code(w, code_for(a[e], x.v[e][b], K_TOP), K_BITS, e);
        UNROLL for (int i = 0; i < K_LOADS; ++i) st(words, lane + (i * PAGE + 32 * b), w[i], first(lane, BLOCK));
    }
}
#endif
#if defined(K_AFFINE) && !defined(K_MIXED)
inline void encode_k(dptr<uint> rec, vlane lane, int d, thread const channels& x) {
    encode_group(rec + d / K_PER * K_LOADS * PAGE, rec + (AT_KS + d), lane, x);
}
#endif
#ifdef V_AFFINE
#define V_TOP float((1 << V_BITS) - 1)
// The codes of a token, in its numbers' place; its scale goes to the record.
inline void code_v(dptr<uint> rec, vlane lane, int t, thread token& x) {
    vfloat low = INFINITY, high = -INFINITY, bad = 0.0f;
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) {
        low = min(low, select(vfloat(INFINITY), x.v[c][0], vint(lane) < DV - 32 * c));
        high = max(high, select(vfloat(-INFINITY), x.v[c][0], vint(lane) < DV - 32 * c));
        bad += x.v[c][0] * 0.0f;
    }
    affine a = affine_of(simd_min(low), simd_max(high), simd_sum(bad), V_TOP);
    st(rec, lane + (AT_VS + t), a.word, first(lane, 1));
    UNROLL for (int c = 0; c < V_COLUMNS; ++c) x.v[c][0] = vfloat(vint(code_for(a, x.v[c][0], V_TOP)));
}
inline void put_v(thread vuint (&w)[3], vuint code, int j) { put_code(w, code, V_BITS, j); }
#endif
#endif

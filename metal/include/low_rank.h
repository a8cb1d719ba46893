// A correction of low rank, y += L t: L [N, RANK] in MLX's affine format of FACTOR bits (4, 8), with a scale and an offset of
// FTYPE for each FGROUP of a row, or as halves (FACTOR 16). t has RANK numbers a row of x. RANK, FGROUP: multiples of 32.
// After a header of quants/. LOW_PARAMS, LOW: the kernel parameters of L, and the `factor` made of them.
#if FACTOR == 16
#define LOW_PARAMS dptr<const half> left
#define LOW factor{left}
struct factor { dptr<const half> w; };
#else
#define LOW_PARAMS dptr<const uint> left, dptr<const FTYPE> left_scales, dptr<const FTYPE> left_offsets
#define LOW factor{left, left_scales, left_offsets}
struct factor { dptr<const uint> w; dptr<const FTYPE> scales; dptr<const FTYPE> offsets; };
#endif

// Numbers k .. k + 31 of a row per lane; k a multiple of 32.
inline block factors(factor l, vint row, int k) {
    block b;
    vuint word[FACTOR];
    vint at = row * (RANK / 32 * FACTOR) + k / 32 * FACTOR;
    UNROLL for (int j = 0; j < FACTOR; j += 4) {
#if FACTOR == 16
        vuint4 four = ld_words(dptr<const uint>(l.w), at + j);
#else
        vuint4 four = ld_words(l.w, at + j);
#endif
        word[j] = four.x; word[j + 1] = four.y; word[j + 2] = four.z; word[j + 3] = four.w;
    }
#if FACTOR == 16
    UNROLL for (int j = 0; j < 16; ++j) {
        b.v[2 * j] = half_lo(word[j]);
        b.v[2 * j + 1] = half_hi(word[j]);
    }
#else
    vint group = row * (RANK / FGROUP) + k / FGROUP;
    vfloat scale = vfloat(ld(l.scales, group)), offset = vfloat(ld(l.offsets, group));
    UNROLL for (int e = 0; e < 32; ++e)
        b.v[e] = number((word[e * FACTOR / 32] >> (e * FACTOR % 32)) & ((1u << FACTOR) - 1u)) * scale + offset;
#endif
    return b;
}
#if FACTOR < 16
#define LOW_ROW (RANK / 32 * FACTOR)                      // words
inline factor at_row(factor l, int row) {
    return factor{l.w + row * LOW_ROW, l.scales + row * (RANK / FGROUP), l.offsets + row * (RANK / FGROUP)};
}
inline void low_ahead(factor l, int row, int rows) {      // a hint that these rows are read soon
    prefetch(l.w + row * LOW_ROW, rows * LOW_ROW);
    prefetch(l.scales + row * (RANK / FGROUP), rows * (RANK / FGROUP));
    prefetch(l.offsets + row * (RANK / FGROUP), rows * (RANK / FGROUP));
}
// Each lane's eight numbers of a row of t, in the order of those bytes; of n lanes.
template <typename P> inline vfloats of_word(P t, vlane lane, int n) {
    vfloats r = eight(ld4(t, lane * 8, first(lane, n)), ld4(t, lane * 8 + 4, first(lane, n)));
#if FACTOR == 4
    vfloats s = r;
    UNROLL for (int i = 0; i < 8; ++i) r.v[i] = s.v[i % 4 * 2 + i / 4];
#endif
    return r;
}
#endif

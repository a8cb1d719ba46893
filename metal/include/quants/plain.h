// Plain weights: WTYPE is float, half or bfloat16_t.
#include "quants/stored.h"
#define WEIGHT_PARAMS dptr<const WTYPE> w
#define WEIGHTS weights{w}
#define OWN_STEP 1                                        // lanes have too little of a row's end in a row to join it with others'
#define HINTED int(24 / sizeof(WTYPE))
#define SIDE 2
#define SCALES 0
#define OFFSET 0
#define UNIT(i) 1.0f
struct weights { dptr<const WTYPE> w; };

inline weights at(weights w, long row, int k, int K) { return weights{w.w + (row * K + k)}; }

// A lane has weights lane + 32 i.
inline chunk load(weights w, vlane lane, int n) {
    chunk q;
    UNROLL for (int i = 0; i < 8; ++i) q.c[i] = vfloat(ld(w.w, lane + 32 * i, first(lane, n - 32 * i)));
    return q;
}
template <typename P> inline vfloats take(P x, vlane lane, int n) {
    vfloats t;
    UNROLL for (int i = 0; i < 8; ++i) t.v[i] = vfloat(ld(x, lane + 32 * i, first(lane, n - 32 * i)));
    return t;
}
inline void ahead(weights w) { prefetch(w.w, STEP); }
inline vuint4 four(dptr<const float> w, vint i, int j) { return ld_words(dptr<const uint>(w), i + 4 * j); }
inline vuint4 four(dptr<const half> w, vint i, int j) { return ld_words(dptr<const uint>(w), (i >> 1) + 4 * j); }
inline vuint4 four(dptr<const bfloat16_t> w, vint i, int j) { return ld_words(dptr<const uint>(w), (i >> 1) + 4 * j); }
inline void put(thread block& b, int e, vuint w, dptr<const float>) { b.v[e] = as_float(w); }
inline void put(thread block& b, int e, vuint w, dptr<const half>) {
    b.v[2 * e] = half_lo(w);
    b.v[2 * e + 1] = half_hi(w);
}
inline void put(thread block& b, int e, vuint w, dptr<const bfloat16_t>) {
    b.v[2 * e] = bfloat_lo(w);
    b.v[2 * e + 1] = bfloat_hi(w);
}

inline block decode(weights w, vint row, int k, int K) {
    vint i = row * K + k;
    block b;
    UNROLL for (int j = 0; j < int(sizeof(WTYPE)) * 2; ++j) {              // 16 bytes at a time
        vuint4 q = four(w.w, i, j);
        put(b, 4 * j, q.x, w.w);
        put(b, 4 * j + 1, q.y, w.w);
        put(b, 4 * j + 2, q.z, w.w);
        put(b, 4 * j + 3, q.w, w.w);
    }
    return b;
}

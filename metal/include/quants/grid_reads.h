// What kernels ask of an IQ2 or IQ3 type, from its `codes`.
inline chunk load(weights w, vlane lane, int) { return from_grid(w, codes(w, by_lane{lane})); }
inline eight_bytes load_bytes(weights w, vlane lane, int) { return bytes_from_grid(w, codes(w, by_lane{lane})); }
inline void ahead(weights w) { prefetch(w.w, UNITS); }
inline block decode(weights w, vint row, int k, int K) {
    vint i = row * (K / 256 * UNITS) + k / 256 * UNITS;
    block b;
    UNROLL for (int h = 0; h < 4; ++h) {
        chunk q = from_grid(w, codes(w, by_row{i, vint(k % 256 / 8 + h)}));
        UNROLL for (int e = 0; e < 8; ++e) b.v[8 * h + e] = q.c[e] * q.scale;
    }
    return b;
}

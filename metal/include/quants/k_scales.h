// Q4_K and Q5_K: the scales and minima of 6 bits in words 1 to 3 of a block, for 8 times 32 weights; word 0 is fp16 d
// and dmin. Bytes of words 1 and 2 have the first four of each below and upper bits of the others on top; word 3 has
// their low halves.
#define K_FIRST(w) ((w) & 0x3f3f3f3fu)
#define K_OTHERS(low, top) (((low) & 0x0f0f0f0fu) | ((top) >> 2 & 0x30303030u))

struct scaling { vfloat scale, offset; };

inline scaling k_scales(dptr<const uint> w, vlane lane) {                 // those of each lane's weights
    vuint dm = w[0], a = w[1], b = w[2], c = w[3];
    vint j = vint(lane) / 4;
    vuint at = vuint(j % 4 * 8), top = vuint(j % 4 * 8 + 2), low = vuint(j % 4 * 8 + 4);
    vuint scales = select(a >> at & 63u, (c >> at & 15u) | (a >> top & 48u), j >= 4);
    vuint minima = select(b >> at & 63u, (c >> low & 15u) | (b >> top & 48u), j >= 4);
    return scaling{number(scales) * half_lo(dm), -(number(minima) * half_hi(dm))};
}
inline scaling k_scales(vuint4 front, int j) {                            // number j of each lane's block
    vuint scales, minima;
    if (j < 4) {
        scales = K_FIRST(front.y);
        minima = K_FIRST(front.z);
    } else {
        scales = K_OTHERS(front.w, front.y);
        minima = K_OTHERS(front.w >> 4, front.z);
    }
    int at = j % 4 * 8;
    return scaling{number(scales >> at & 255u) * half_lo(front.x), number(minima >> at & 255u) * -half_hi(front.x)};
}

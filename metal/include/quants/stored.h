// What the kernels ask of a type of stored weights. A type's header includes this one and defines:
//   WEIGHT_PARAMS, WEIGHTS    the kernel parameters of a matrix [N, K], and the `weights` made of them
//   weights at(w, row, k, K)  the same, from weight k of a row on; k a multiple of 256, and may exceed K
//   chunk load(w, lane, n)    the next n <= 256 weights, n a multiple of 32: 8 codes a lane
//   vfloats take(x, lane, n)  the activations that belong to them, a lane's 8
//   UNIT(i)                   what code i is multiplied by in `load`: x carries the inverse
//   void ahead(w)             a hint that the next 256 weights are read soon
//   SIDE                      how many rows q_gemv reads side by side; or not defined, and it is 4, or 1 where there are 16 registers
//   block decode(w, row, k, K)   weights k .. k + 31 of a row per lane; k a multiple of 32
//   SCALES, OFFSET (0 or 1)   weight = code * scale + offset, both the same for a lane's 8 weights
//   OWN_STEP 1                unless lanes l < i / 8 have weights 0 .. i - 1 of a chunk, for i a multiple of 32 below K % 256
//   HINTED                    how many steps before they are read q_gemv hints at weights; or not defined, and it is 48
// and, where codes fit into unsigned bytes, for integer products:
//   eight_bytes load_bytes(w, lane, n)   the same as `load`, in bytes
//   ZERO                      weight = (byte - ZERO) * scale; or 0, and weight = byte * scale + offset
//   GROUPS (or not defined)   a step is 8 groups of 32 weights, or 16 of 16, with a scale each (of 16 without ZERO: only with WHOLE). Then:
//     factors(w, lane, n)     of 8: lane 2 i of the first 16: 1 / FACTOR_UNIT times the scale of group i, lane 2 i + 1: its offset, or
//                             with ZERO anything; of 16: lane i: the scale of group i; and the same, or anything, from lane 16 on
//     factor_of(lane)         which of these is the scale of a lane's weights
//     lane_of(vint factor)    a lane whose weights have it; a group's weights are those of consecutive lanes
//   WHOLE 1 (or not defined)  with GROUPS, but no ZERO: scales are whole numbers times a step's own, and so are offsets. For `factors`, then:
//     scale_pairs(w, lane)    the whole number of the scale of a lane's weights, in both halves of a word; step_scale(w, lane): times
//                             this, in all lanes
//     offsets(w, lane)        lane i: that of the offset of group i, or anything behind the last; step_offset(w, lane): times minus this
//   TIMES(i) (or not defined)   byte i is its code times this, and `take` divides x by it
//   CODES, codes(w, row, k, K)   bits of a byte, and the bytes of weights k .. k + 31 of a row per lane
// Families of types share a text that makes the one of the other: bytes.h, signed_bytes.h, nibbles.h, values.h, grids.h.
#define STEP 256

struct vfloats { vfloat v[8]; };
struct chunk { vfloat c[8]; vfloat scale, offset; };
struct block { vfloat v[32]; };
struct eight_bytes { vuint a, b; vfloat scale, offset; };     // byte i of a, of b: code i, i + 4
struct codes32 { vuint c[8]; vfloat scale[2], offset[2]; };   // byte i of c[j]: weight 4 j + i; scales of 16 weights each

inline vfloats eight(vfloat4 a, vfloat4 b) {
    vfloats t;
    t.v[0] = a.x; t.v[1] = a.y; t.v[2] = a.z; t.v[3] = a.w;
    t.v[4] = b.x; t.v[5] = b.y; t.v[6] = b.z; t.v[7] = b.w;
    return t;
}
inline vfloat number(vuint code) { return vfloat(vint(code)); }          // codes are below 2^31: signed converts faster
inline codes32 scaled(codes32 c, vfloat scale, vfloat offset) {          // all 32 weights alike
    c.scale[0] = scale; c.scale[1] = scale;
    c.offset[0] = offset; c.offset[1] = offset;
    return c;
}
inline void put4(thread codes32& c, int j, vuint4 w) { c.c[j] = w.x; c.c[j + 1] = w.y; c.c[j + 2] = w.z; c.c[j + 3] = w.w; }
inline vuint4 masked(vuint4 w, int shift, uint mask) {
    w.x = w.x >> shift & mask; w.y = w.y >> shift & mask; w.z = w.z >> shift & mask; w.w = w.w >> shift & mask;
    return w;
}

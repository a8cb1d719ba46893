// What types with blocks of 32 weights share whose byte i holds, or stands for, weights i and i + 16: a lane has four bytes.
#define SCALES 1

template <typename P> inline vfloats take(P x, vlane lane, int n) {
    return eight(ld4(x, spread<4, 32, 4>(lane), first(lane, n / 8)),
                 ld4(x, spread<4, 32, 4>(lane) + 16, first(lane, n / 8)));
}
struct nibble_word { vuint w; vfloat scale, offset; };
struct nibble_block { vuint4 w; vfloat scale, offset; };
// Of types with GROUPS 8.
#define FACTOR_UNIT 1.0f
inline vint factor_of(vlane lane) { return vint(lane) / 4 * 2; }
inline vint lane_of(vint factor) { return factor / 2 * 4; }

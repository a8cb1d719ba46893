// q_gemv's products of integers: codes are bytes, and x is three digits of 8 bits (of 7, where codes have 7 or 8), times a unit: exact
// to 2^-23 of the largest of those that share it, 2^-22 of codes of 6 bits without ZERO, 2^-20 of codes of 7 and 8. Those are a lane's
// 8; or where a type of weights has GROUPS (see stored.h), a group: then the scales of all groups of a step are multiplied by their
// units, and offsets by sums of x, before any lane takes its own; or where it is WHOLE, a step.
// The largest integer: 8 of them times values fit into 31 bits, and its first digit into a byte. With ZERO a sum of products with
// codes may leave 32 bits on its way, that with values does not.
#if ZERO ? ZERO <= 32 : CODES <= 5
#define MOST 8257536.0f
#elif CODES == 6
#define MOST 4128768.0f
#else
#define MOST 1032192.0f
#endif
#define DIGIT (CODES <= 6 ? 8 : 7)                         // bits of a digit: see dot_digits
struct activation { vuint d[6]; vfloat unit; vuint total; };              // total: as float, or with ZERO, as integer times -ZERO

inline vuint packed(vint a, vint b, vint c, vint d) {
    return vuint(a & 255) | vuint(b & 255) << 8 | vuint(c & 255) << 16 | vuint(d) << 24;
}
inline vfloat largest(vfloats t) {
    vfloat most = abs(t.v[0]);
    UNROLL for (int i = 1; i < 8; ++i) most = max(most, abs(t.v[i]));
    return most;
}
inline vfloat added(vfloats t) {
    return ((t.v[0] + t.v[1]) + (t.v[2] + t.v[3])) + ((t.v[4] + t.v[5]) + (t.v[6] + t.v[7]));
}
inline vfloat total_of(vfloats t) {                       // of x, from what `take` gives
#ifdef TIMES
    UNROLL for (int i = 0; i < 8; ++i) t.v[i] = t.v[i] * TIMES(i);
#endif
    return added(t);
}
inline activation in_units(vfloats t, vfloat most) {      // most: the largest of t, or more
    activation a;
    vfloat total = total_of(t);
    vfloat scale = select(vfloat(0.0f), MOST / most, most > 0.0f);
    a.unit = most * (1.0f / MOST) + total * 0.0f;                         // not a number where one of x is none
    vint q[8], all = 0;
    UNROLL for (int i = 0; i < 8; ++i) { q[i] = vint(rint(t.v[i] * scale)); all += q[i]; }
#if ZERO
    a.total = vuint(all * -ZERO);
#else
    a.total = as_uint(total);
#endif
    UNROLL for (int j = 4; j > 0; j -= 2) {               // the lowest digit first
        vint d[8];
        UNROLL for (int i = 0; i < 8; ++i) {
            d[i] = (q[i] + (1 << (DIGIT - 1)) & (1 << DIGIT) - 1) - (1 << (DIGIT - 1));
            q[i] = (q[i] - d[i]) >> DIGIT;
        }
        a.d[j] = packed(d[0], d[1], d[2], d[3]);
        a.d[j + 1] = packed(d[4], d[5], d[6], d[7]);
    }
    a.d[0] = packed(q[0], q[1], q[2], q[3]);
    a.d[1] = packed(q[4], q[5], q[6], q[7]);
    return a;
}

inline vint digits_dot(activation a, eight_bytes e) { return dot_digits<CODES, DIGIT, (ZERO > 0)>(vint(a.total), e.a, e.b, a.d); }
#if GROUPS && !ZERO && !WHOLE
template <typename V> struct sum_of { V v, more; };       // of products: with codes; with offsets, by group
typedef sum_of<vfloat> row_sum;                           // a lane's own
typedef sum_of<vtotal> row_total;                         // the same where lanes need not be told apart
template <typename S> inline S nothing() {
    S s;
    s.v = 0.0f;
    s.more = 0.0f;
    return s;
}
inline vtotal whole(row_total s) { return s.v + s.more; }
// t, and row r's part of a step with N lanes of each of some rows.
template <int N> inline vtotal add_row(vtotal t, row_sum s, int r, vlane lane) {
    return add_range<N / 2>(add_range<N>(t, s.v, r, lane), s.more, r, lane);
}
#else
typedef vfloat row_sum;
typedef vtotal row_total;
template <typename S> inline S nothing() { S s; s = 0.0f; return s; }
inline vtotal whole(vtotal s) { return s; }
template <int N> inline vtotal add_row(vtotal t, row_sum s, int r, vlane lane) { return add_range<N>(t, s, r, lane); }
#endif

template <int N, int FROM> inline eight_bytes join(eight_bytes a, eight_bytes b, eight_bytes c, eight_bytes d, vlane lane) {
    a.a = join<N, FROM>(a.a, b.a, c.a, d.a, lane);
    a.b = join<N, FROM>(a.b, b.b, c.b, d.b, lane);
    a.scale = join<N, FROM>(a.scale, b.scale, c.scale, d.scale, lane);
    a.offset = join<N, FROM>(a.offset, b.offset, c.offset, d.offset, lane);
    return a;
}

#if WHOLE
// A unit for all of a step's x; scales stay integers.
struct scaled_step { eight_bytes e; vuint scales; vfloat offsets, scale, offset; };      // these times those
#define CHUNK scaled_step
#define APART_TOTALS 0                                    // sums of groups are in units, whose lanes from 16 on have the unit

inline scaled_step LOAD(weights w, vlane lane, int n) {
    scaled_step q;
    q.e = load_bytes(w, lane, n);
    q.scales = scale_pairs(w, lane);
    q.offsets = offsets(w, lane);
    q.scale = step_scale(w, lane);
    q.offset = step_offset(w, lane);
    return q;
}
inline activation in_units(vfloats t, vlane lane) {
    float most = simd_max(largest(t));
    vfloat total = total_of(t);
    UNROLL for (int other = 1; other < 32 / GROUPS; other *= 2) total += simd_shuffle_xor(total, other);
    activation a = in_units(t, vfloat(most));
    float unit = most * (1.0f / MOST) + simd_sum(added(t)) * 0.0f;
    a.unit = select(simd_shuffle(-total, lane_of(vint(lane) % GROUPS * (16 / GROUPS))), vfloat(unit), vint(lane) >= 16);
    return a;
}
template <typename S> inline void add_dot(thread S& sum, thread const scaled_step& q, activation a, vlane lane) {
    sum = add_scaled<CODES, DIGIT>(sum, q.e.a, q.e.b, a.d, q.scales, q.scale, a.unit);
    sum = add_times<(1u << GROUPS) - 1u>(sum, q.offsets, a.unit, q.offset, lane);
}
#elif GROUPS
struct grouped { eight_bytes e; vfloat factors; };
template <int N, int FROM> inline grouped join(grouped a, grouped b, grouped c, grouped d, vlane lane) {
    a.e = join<N, FROM>(a.e, b.e, c.e, d.e, lane);        // a group's two factors lie where four lanes' weights do, halved
    a.factors = join<N / 2, FROM / 2>(a.factors, b.factors, c.factors, d.factors, lane);
    return a;
}
#define CHUNK grouped
#define APART_TOTALS (ZERO > 0)                           // else units have them in their odd lanes

inline grouped LOAD(weights w, vlane lane, int n) {
    grouped q;
    q.e = load_bytes(w, lane, n);
    q.factors = factors(w, lane, n);
    return q;
}
inline activation in_units(vfloats t, vlane lane) {
    vfloat most = largest(t), total = total_of(t);
    UNROLL for (int other = 1; other < 32 / GROUPS; other *= 2) {
        most = max(most, simd_shuffle_xor(most, other));
        total += simd_shuffle_xor(total, other);
    }
    activation a = in_units(t, most);
    vint from = lane_of(vint(lane) % 16);
    a.unit = simd_shuffle((a.unit + total * 0.0f) * FACTOR_UNIT, from);
#if !ZERO
    a.unit = select(a.unit, simd_shuffle(total * FACTOR_UNIT, from), vint(lane) % 2 == 1);
#endif
    return a;
}
template <typename S> inline void add_dot(thread S& sum, thread const grouped& q, activation a, vlane lane) {
    vfloat both = q.factors * a.unit, s = vfloat(digits_dot(a, q.e));
#if ZERO
    sum = add_product(sum, s, simd_shuffle16(both, factor_of(lane)));
#else
    sum.v = add_product(sum.v, s, simd_shuffle16(both, factor_of(lane)));
    sum.more = add_some<0xaaaau>(sum.more, both, lane);
#endif
}
#else
#define CHUNK eight_bytes
#define LOAD load_bytes
#define APART_TOTALS 1

inline activation in_units(vfloats t, vlane) { return in_units(t, largest(t)); }
template <typename S> inline void add_dot(thread S& sum, thread const eight_bytes& q, activation a, vlane) {
    sum = add_product(sum, vfloat(digits_dot(a, q)), q.scale * a.unit);
#if !ZERO
    sum = add_product(sum, q.offset, as_float(a.total));
#endif
}
#endif

#define TILE (224 + 32 * APART_TOTALS)                    // words: 3 times 2 of digits, units, and totals, of 32 lanes
inline void stage(tptr<float> s, activation a, vlane lane) {
    tptr<uint> words = tptr<uint>(s);
    UNROLL for (int i = 0; i < 6; ++i) words[lane + 32 * i] = a.d[i];
    s[lane + 192] = a.unit;
#if APART_TOTALS
    words[lane + 224] = a.total;
#endif
}
inline activation staged(tptr<float> s, vlane lane) {
    tptr<uint> words = tptr<uint>(s);
    activation a;
    UNROLL for (int i = 0; i < 6; ++i) a.d[i] = words[lane + 32 * i];
    a.unit = s[lane + 192];
#if APART_TOTALS
    a.total = words[lane + 224];
#endif
    return a;
}

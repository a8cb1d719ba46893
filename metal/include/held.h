// Held pages: plain numbers, HTYPE, beside the pool. A slot and KV head: K [DK][PAGE], then V in groups as the codes lie,
// [PAGE * V_UNITS / 32][V_PER][32]; both rotated where the format's are. After pages.h and the format's headers.
#pragma once
#define HELD_NUMBERS (PAGE * (DK + DV))
inline dptr<const HTYPE> held_at(dptr<const HTYPE> held, int slot, int kv_heads, int h) {
    return held + long(slot * kv_heads + h) * HELD_NUMBERS;
}
// Channel d of tokens t0 + lane.
inline vfloat held_k(dptr<const HTYPE> page, vlane lane, int d, int t0) {
    return vfloat(ld(page, lane + (d * PAGE + t0), first(lane, BLOCK)));
}
// Number j of groups 32 column + lane of token t.
inline vfloat held_v(dptr<const HTYPE> page, vlane lane, int t, int column, int j) {
    vint group = vint(lane) + (t * V_UNITS + 32 * column);
    vint at = group / 32 * (32 * V_PER) + group % 32 + (DK * PAGE + 32 * j);
    return vfloat(ld(page, at, first(lane, V_UNITS - 32 * column)));
}

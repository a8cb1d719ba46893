// token[S] drawn from logits [S, V]: the most likely one at temperature 0, else one of those that top-k, top-p and min-p
// leave, all looking at the distribution before temperature, by the inverse of the distribution's sum at the number u.
// settings [S, 8]: temperature, top_k (V for all), top_p, min_p, u in [0, 1), and three unused.
// No sorting: the least probability that stays is found by bisection of its bits. kept [S, V] is scratch.
// Built with: SGS. Grid: S / SGS threadgroups; a row is one SIMD-group's.
#define LARGEST 1e30f                                     // infinity minus infinity would be no number
#define LOG2E 1.44269504f

inline vfloat part(dptr<const float> x, vlane lane, int c, int V) {
    vfloat a = min(ld(x, lane + c, first(lane, V - c)), vfloat(LARGEST));
    return V - c < 32 ? select(vfloat(-INFINITY), a, vint(lane) < V - c) : a;
}

// Number and mass of the probabilities that are at least `least`.
inline void above(dptr<const float> p, vlane lane, int V, float least, thread int& count, thread float& mass) {
    vint n = 0;
    vfloat sum = 0.0f;
    for (int c = 0; c < V; c += 32) {
        vfloat a = ld(p, lane + c, first(lane, V - c));
        vbool in = a >= least && vint(lane) < V - c;
        n += select(vint(0), vint(1), in);
        sum += select(vfloat(0.0f), a, in);
    }
    count = simd_sum(n);
    mass = simd_sum(sum);
}

// Where the ties at `least` end that still stay: the number of the token after the allowed-th of them.
inline int after_tie(dptr<const float> p, vlane lane, int V, float least, int allowed) {
    for (int c = 0; c < V; c += 32) {
        vfloat a = ld(p, lane + c, first(lane, V - c));
        vint tied = select(vint(0), vint(1), a == least && vint(lane) < V - c);
        int n = simd_sum(tied);
        if (n >= allowed)
            for (int l = 0; l < 32; ++l) {
                allowed -= simd_broadcast(tied, l);
                if (allowed == 0) return c + l + 1;
            }
        allowed -= n;
    }
    return V;
}

// The largest probability below `high`.
inline float next_below(dptr<const float> p, vlane lane, int V, float high) {
    vfloat best = 0.0f;
    for (int c = 0; c < V; c += 32) {
        vfloat a = ld(p, lane + c, first(lane, V - c));
        best = max(best, select(vfloat(0.0f), a, a < high));
    }
    return simd_max(best);
}

// What top-k and top-p leave: probabilities above `least`, and equal ones up to token `limit`.
inline void cut(dptr<const float> p, vlane lane, int V, int k, float mass, thread float& least, thread int& limit) {
    uint low = 0, high = 0x3f800001u;                     // of bits: enough stay at `low`, too few at `high`
    int at_low = V, more_than = 0, count;                 // how many there are at `low`, and at `high`, and their mass
    float heavier = 0.0f, sum;
    while (high - low > 1 && at_low - more_than > 1) {
        uint middle = low + (high - low) / 2;
        above(p, lane, V, as_float(middle), count, sum);
        if (count >= k || sum >= mass) { low = middle; at_low = count; }
        else { high = middle; more_than = count; heavier = sum; }
    }
    least = high - low > 1 ? next_below(p, lane, V, as_float(high)) : as_float(low);
    limit = V;
    if (least == 0.0f) return;
    float more = min((mass - heavier) / least, float(V));
    int allowed = min(k - more_than, int(more) + (float(int(more)) < more ? 1 : 0));
    limit = after_tie(p, lane, V, least, allowed);
}

inline vfloat weight(dptr<const float> x, dptr<const float> p, vlane lane, int c, int V, float base, float steep, float least,
                     int limit) {
    vfloat w = exp2((part(x, lane, c, V) - base) * steep);
    if (limit < 0) return w;                              // nothing was cut
    vfloat a = ld(p, lane + c, first(lane, V - c));
    return select(vfloat(0.0f), w, a > least || (a == least && vint(lane) + c < limit));
}

KERNEL draw(dptr<const float> logits, dptr<const float> settings, dptr<int> token, dptr<float> kept, int S, int V, GRID) {
    SIMDGROUPS {
        int row = tg.x * SGS + sg;
        if (row < S) {
            dptr<const float> x = logits + long(row) * V, s = settings + row * 8;
            dptr<float> p = kept + long(row) * V;
            vfloat top = -INFINITY;
            vint where = 0;
            for (int c = 0; c < V; c += 32) {
                vfloat a = part(x, lane, c, V);
                vbool better = a > top;
                top = select(top, a, better);
                where = select(where, vint(lane) + c, better);
            }
            float most = simd_max(top), base = max(most, -LARGEST);
            int found = -simd_max(select(vint(-V), -where, top == most));
            float temperature = s[0], top_p = s[2], min_p = s[3], least = 0.0f;
            int k = int(s[1]), limit = -1;
            if (temperature > 0.0f) {
                if (k < V || top_p < 1.0f || min_p > 0.0f) {
                    vfloat sum = 0.0f;
                    for (int c = 0; c < V; c += 32) {
                        vfloat a = exp2((part(x, lane, c, V) - base) * LOG2E);
                        st(p, lane + c, a, first(lane, V - c));
                        sum += a;
                    }
                    limit = V;
                    if (k < V || top_p < 1.0f)
                        cut(p, lane, V, k, top_p < 1.0f ? max(simd_sum(sum) * top_p, 1e-30f) : INFINITY, least, limit);
                    if (min_p > least) { least = min_p; limit = V; }
                }
                float steep = min(LOG2E / temperature, LARGEST), total = 0.0f, sum = 0.0f;
                for (int c = 0; c < V; c += 32) total += simd_sum(weight(x, p, lane, c, V, base, steep, least, limit));
                float target = s[4] * total;
                for (int c = 0; c < V; c += 32) {
                    vfloat w = weight(x, p, lane, c, V, base, steep, least, limit);
                    float all = simd_sum(w);
                    if (sum + all > target) {
                        // The last that weighs anything, where rounding leaves the target behind all of them.
                        for (int l = 0; l < 32; ++l) {
                            float one = simd_broadcast(w, l);
                            if (one > 0.0f && sum <= target) found = c + l;
                            sum += one;
                        }
                        break;
                    }
                    sum += all;
                }
            }
            st(token, lane + row, vint(found), first(lane, 1));
        }
    }
}

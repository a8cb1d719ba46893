// What kernels know of pages. Built with DK, DV, PAGE, and RECORD, the words of a record; a header of formats/ follows.
#pragma once
#define BLOCK (PAGE < 32 ? PAGE : 32)                     // tokens that one SIMD-group takes at once, one a lane
#define BLOCKS (PAGE / BLOCK)
#define V_WORDS (DV / V_PER)
#define V_COLUMNS ((V_WORDS + 31) / 32)
#define LOG2E 1.44269504f

// A row of Batch.sequences: rows of new tokens from `row` on, and of the output from `out` on.
struct sequence { int row, count, start, slot, complete, out; };
inline sequence sequence_at(dptr<const int> sequences, int b) {
    dptr<const int> s = sequences + b * 8;
    sequence r;
    r.row = s[0]; r.count = s[1]; r.start = s[2]; r.slot = s[3]; r.complete = s[4]; r.out = s[5];
    return r;
}
inline long record_at(int page, int kv_heads, int h) { return long(page * kv_heads + h) * RECORD; }

struct quads { vfloat4 v[BLOCKS]; };                      // four channels of a page's tokens; lane = token
struct token { vfloat v[(DV + 31) / 32][4]; };            // [c][j]: channel (32 c + lane) * V_PER + j of one token

"""Words of a page record: how page formats pack codes and fp16 numbers into 32-bit words. Arrays are MLX's."""

import mlx.core as mx

RECORD_BYTES = 128   # a record's size is a multiple of this: one cache line of Apple's GPUs


def pack(codes, bits):
    """uint32 [..., n * bits / 32] of codes uint32 [..., n], each of `bits` bits, the first in the lowest."""
    per = 32 // bits
    shifts = mx.array([bits * i for i in range(per)], mx.uint32)
    return (codes.reshape(*codes.shape[:-1], -1, per) << shifts).sum(axis=-1).astype(mx.uint32)


def unpack(words, bits):
    """codes uint32 [..., n] of words [..., n * bits / 32]: the inverse of pack."""
    shifts = mx.array([bits * i for i in range(32 // bits)], mx.uint32)
    codes = (words[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*words.shape[:-1], -1)


def deal(codes, bits):
    """As pack, but the codes of a word are dealt to its bytes in turn: number j lies in byte j % 4, the first four in the
    lowest bits. One shift and one mask then leave four consecutive numbers in four bytes, which CPUs multiply at once."""
    return (codes.reshape(*codes.shape[:-1], -1, 32 // bits) << _places(bits)).sum(axis=-1).astype(mx.uint32)


def dealt(words, bits):
    """codes uint32 [..., n] of words [..., n * bits / 32]: the inverse of deal."""
    codes = (words[..., None] >> _places(bits)) & ((1 << bits) - 1)
    return codes.reshape(*words.shape[:-1], -1)


def _places(bits):
    return mx.array([j % 4 * 8 + j // 4 * bits for j in range(32 // bits)], mx.uint32)


def half_words(x):
    """uint32 [..., n / 2] of numbers [..., n] as fp16, the first in the low half."""
    return mx.contiguous(x.astype(mx.float16)).view(mx.uint32)


def halves(words):
    """float32 [..., n] of words [..., n / 2] of fp16 pairs."""
    return mx.contiguous(words).view(mx.float16).astype(mx.float32)


def k_rows(words, loads=1):
    """K's words as they lie in a record, [..., groups * loads * page], of [..., page, groups * loads]: a word of all
    tokens together, so that 32 tokens of it are one line."""
    return words.swapaxes(-1, -2).reshape(*words.shape[:-2], -1)


def k_words(rows, page):
    """[..., page, groups * loads] of a record's [..., groups * loads * page]: the inverse of k_rows."""
    return rows.reshape(*rows.shape[:-1], -1, page).swapaxes(-1, -2)


def v_lines(words):
    """V's words as they lie, [..., page * units * loads], of [..., page, units, loads]: lines of 32 units, token after
    token, and for each line its first words, then its second ones, and so on."""
    lead, loads = words.shape[:-3], words.shape[-1]
    if loads == 1:
        return words.reshape(*lead, -1)
    return words.reshape(*lead, -1, 32, loads).swapaxes(-1, -2).reshape(*lead, -1)


def v_words(lines, page, loads=1):
    """[..., page, units, loads] of a record's [..., page * units * loads]: the inverse of v_lines."""
    lead = lines.shape[:-1]
    if loads == 1:
        return lines.reshape(*lead, page, -1, 1)
    return lines.reshape(*lead, -1, loads, 32).swapaxes(-1, -2).reshape(*lead, page, -1, loads)

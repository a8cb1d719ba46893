"""Page format q8: 8-bit codes; K has a scale and an offset for each channel of a page, V for each token."""

import mlx.core as mx

from ..record import RECORD_BYTES


def _encode(x, axis):
    """(codes uint32, scale and offset as words uint32) of x, affine along one axis, both rounded to fp16."""
    zero = mx.min(x, axis=axis, keepdims=True).astype(mx.float16)
    scale = ((mx.max(x, axis=axis, keepdims=True) - zero.astype(mx.float32)) / 255).astype(mx.float16)
    step = mx.where(scale > 0, scale.astype(mx.float32), 1.0)
    codes = mx.clip(mx.round((x - zero.astype(mx.float32)) / step), 0, 255).astype(mx.uint32)
    words = [mx.contiguous(a).view(mx.uint16).astype(mx.uint32) for a in (scale, zero)]
    return codes, (words[0] | (words[1] << 16)).squeeze(axis)


def _pack(codes):
    """uint32 [..., d / 4] from codes [..., d], the first in the low byte."""
    four = codes.reshape(*codes.shape[:-1], -1, 4) << mx.array([0, 8, 16, 24], mx.uint32)
    return four.sum(axis=-1).astype(mx.uint32)


def _unpack(words):
    four = (words[..., None] >> mx.array([0, 8, 16, 24], mx.uint32)) & 255
    return four.reshape(*words.shape[:-1], -1).astype(mx.float32)


def _affine(codes, words, axis):
    scale, zero = ((words >> s & 0xFFFF).astype(mx.uint16).view(mx.float16).astype(mx.float32) for s in (0, 16))
    return codes * mx.expand_dims(scale, axis) + mx.expand_dims(zero, axis)


class Format:
    """Record: K words [dk / 4][page], K scales [dk], V words [page][dv / 4], V scales [page]; a scale word has the
    scale in its low half and the offset in its high half, in fp16. value = code * scale + offset."""

    name = "q8"
    bits = 8
    header = "formats/q8.h"

    def coded(self, backend):
        """Whether kernels keep a second copy of q, in units of the codes."""
        return True

    def words(self, page, dk, dv):
        """32-bit words of one record, rounded up to RECORD_BYTES."""
        words = page * (dk + dv) // 4 + dk + page
        return -(-words * 4 // RECORD_BYTES) * RECORD_BYTES // 4

    def bits_per_element(self, page, dk, dv):
        return self.words(page, dk, dv) * 32 / (page * (dk + dv))

    def encode(self, k, v):
        """Records uint32 [..., words] of k [..., page, dk] and v [..., page, dv] (any floating dtype)."""
        page, dk = k.shape[-2:]
        lead = k.shape[:-2]
        kc, ks = _encode(k.astype(mx.float32), -2)
        vc, vs = _encode(v.astype(mx.float32), -1)
        record = mx.concatenate([_pack(kc).swapaxes(-1, -2).reshape(*lead, -1), ks, _pack(vc).reshape(*lead, -1), vs],
                                axis=-1)
        spare = self.words(page, dk, v.shape[-1]) - record.shape[-1]
        return mx.pad(record, [(0, 0)] * len(lead) + [(0, spare)]) if spare else record

    def decode(self, records, page, dk, dv):
        """(k [..., page, dk], v [..., page, dv]) in float32, from records uint32 [..., words]."""
        lead = records.shape[:-1]
        kw, ks, vw, vs, _ = mx.split(records, [page * dk // 4, page * dk // 4 + dk, page * (dk + dv) // 4 + dk,
                                               page * (dk + dv) // 4 + dk + page], axis=-1)
        k = _unpack(kw.reshape(*lead, dk // 4, page).swapaxes(-1, -2))
        return _affine(k, ks, -2), _affine(_unpack(vw.reshape(*lead, page, dv // 4)), vs, -1)

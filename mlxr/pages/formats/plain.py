"""Records of plain floating-point K and V: what the unquantized page formats share."""

import mlx.core as mx

from ..record import RECORD_BYTES


class PlainFormat:
    """K channel-major and V token-major, each element `bits` wide, in 32-bit words, low half first.

    A record of head sizes (dk, dv) and `page` tokens: K words [dk * bits / 32][page], V words [page][dv * bits / 32].
    """

    name: str
    bits: int
    dtype: mx.Dtype
    header: str                      # of metal/include: how kernels read and write a record

    def coded(self, backend):
        """Whether kernels keep a second copy of q, in units of the codes."""
        return False

    def words(self, page, dk, dv):
        """32-bit words of one record, rounded up to RECORD_BYTES."""
        return -(-page * (dk + dv) * self.bits // 8 // RECORD_BYTES) * RECORD_BYTES // 4

    def bits_per_element(self, page, dk, dv):
        return self.words(page, dk, dv) * 32 / (page * (dk + dv))

    def encode(self, k, v):
        """Records uint32 [..., words] of k [..., page, dk] and v [..., page, dv] (any floating dtype)."""
        page, dk = k.shape[-2:]
        dv = v.shape[-1]
        lead = k.shape[:-2]
        kw = mx.contiguous(k.astype(self.dtype)).view(mx.uint32)           # [..., page, dk * bits / 32]
        vw = mx.contiguous(v.astype(self.dtype)).view(mx.uint32)
        record = mx.concatenate([kw.swapaxes(-1, -2).reshape(*lead, -1), vw.reshape(*lead, -1)], axis=-1)
        spare = self.words(page, dk, dv) - record.shape[-1]
        return mx.pad(record, [(0, 0)] * len(lead) + [(0, spare)]) if spare else record

    def decode(self, records, page, dk, dv):
        """(k [..., page, dk], v [..., page, dv]) in this format's dtype, from records uint32 [..., words]."""
        lead = records.shape[:-1]
        kn, vn = page * dk * self.bits // 32, page * dv * self.bits // 32
        k = records[..., :kn].reshape(*lead, dk * self.bits // 32, page).swapaxes(-1, -2)
        v = records[..., kn:kn + vn].reshape(*lead, page, dv * self.bits // 32)
        return mx.contiguous(k).view(self.dtype), mx.contiguous(v).view(self.dtype)

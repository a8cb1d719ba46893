"""Page format a4: plain affine 4-bit codes; K has a scale and an offset for each channel of a page, V for each token."""

from .affine import Affine


class K(Affine):
    kind, bits, per, loads = "K", 4, 8, 1


class V(Affine):
    kind, bits, per, loads, deep = "V", 4, 8, 1, True

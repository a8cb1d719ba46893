"""Page format q8: 8-bit codes; K has a scale and an offset for each channel of a page, V for each token."""

from .affine import Affine


class K(Affine):
    kind, bits, per, loads = "K", 8, 4, 1


class V(Affine):
    kind, bits, per, loads, deep = "V", 8, 4, 1, True

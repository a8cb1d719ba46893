"""Page format q6: 6-bit codes; K has a scale and an offset for each channel of a page, V for each token."""

from .affine import Affine


class K(Affine):
    kind, bits, per, loads = "K", 6, 16, 3


class V(Affine):
    kind, bits, per, loads, deep = "V", 6, 16, 3, True

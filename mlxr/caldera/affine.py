"""Affine quantization of a matrix so that what it makes of its inputs changes least: errors are passed on, column by column.

Source: GPTQ (Frantar et al., arXiv 2210.17323), which is LDLQ of QuIP (arXiv 2307.13304) with affine codes.
"""

import numpy as np

_SHRINKS = np.linspace(1.0, 0.6, 9, dtype=np.float32)    # of the range that the codes of a group span
_DAMP = 0.01                                             # of the mean diagonal, added to it


class Hessian:
    """H = X^T X of inputs X [tokens, n], damped, and what quantization needs of it.

    h: float32 [n, n], positive definite; upper: [n, n], the upper Cholesky factor of its inverse.
    """

    def __init__(self, h):
        """h: [n, n], symmetric, positive semidefinite. Columns that no input ever reached get the damping alone."""
        n, mean = len(h), float(np.mean(np.diag(h)))
        self.h = (h + np.eye(n) * (_DAMP * mean if mean > 0 else 1.0)).astype(np.float32)
        self.upper = np.linalg.cholesky(np.linalg.inv(self.h.astype(np.float64))).T.astype(np.float32)

    def loss(self, error):
        """The sum of squares of what an error [m, n] of the weights makes of all inputs."""
        return float(np.vdot(error @ self.h, error))


def quantize(w, hessian, bits, group, dtype=np.float16):
    """(codes uint8 [m, n], scales, offsets [m, n / group] of dtype, decoded float32 [m, n]) of w, float32 [m, n]."""
    w, upper = np.array(w, np.float32), hessian.upper
    m, n = w.shape
    codes, decoded = np.empty((m, n), np.uint8), np.empty((m, n), np.float32)
    scales, offsets = np.empty((m, n // group), dtype), np.empty((m, n // group), dtype)
    for at in range(0, n, group):
        to, errors = at + group, np.empty((m, group), np.float32)
        scale, offset = _spans(w[:, at:to], 1 / np.diag(upper)[at:to] ** 2, bits, dtype)
        scales[:, at // group], offsets[:, at // group] = scale, offset
        scale, offset = scale.astype(np.float32), offset.astype(np.float32)
        block = np.ascontiguousarray(w[:, at:to].T)                   # by columns, which are read one after another
        for j in range(group):
            code = np.clip(np.rint((block[j] - offset) / scale), 0, 2 ** bits - 1)
            codes[:, at + j] = code
            value = code * scale + offset
            decoded[:, at + j] = value
            errors[:, j] = (block[j] - value) / upper[at + j, at + j]
            block[j + 1:] -= upper[at + j, at + j + 1:to, None] * errors[:, j]
        w[:, to:] -= errors @ upper[at:to, to:]
    return codes, scales, offsets, decoded


def _spans(w, weights, bits, dtype):
    """(scale, offset) [m] of dtype for a group w [m, group]: of several ranges the one with the least weighted error."""
    low, high = w.min(1), w.max(1)
    middle, half, best = (low + high) / 2, (high - low) / 2, None
    for shrink in _SHRINKS:
        scale = (2 * half * shrink / (2 ** bits - 1)).astype(dtype)
        scale = np.where(scale == 0, np.finfo(dtype).tiny, scale).astype(dtype)
        offset = (middle - half * shrink).astype(dtype)
        s, o = scale.astype(np.float32)[:, None], offset.astype(np.float32)[:, None]
        error = w - (np.clip(np.rint((w - o) / s), 0, 2 ** bits - 1) * s + o)
        error = (error * error) @ weights
        if best is None:
            best = error, scale, offset
        else:
            better = error < best[0]
            best = tuple(np.where(better, new, old) for new, old in zip((error, scale, offset), best))
    return best[1:]

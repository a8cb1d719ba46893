"""W ~ Q + L R by alternating updates: Q in few bits, L R a correction of low rank, errors weighted by the inputs.

Source: CALDERA (Saha et al., arXiv 2405.18886), with MLX's affine codes in place of a lattice's.
"""

from dataclasses import dataclass

import numpy as np

from .affine import Hessian, quantize

_ROUNDS, _INNER = 5, 2       # alternations of Q with L R, and of L with R within one
_GAIN = 0.01                 # an alternation that improves the loss by less is the last
_MORE, _POWERS = 16, (6, 2)  # vectors beside those wanted; steps of the subspace iteration, first and later


@dataclass
class Part:
    """A matrix in MLX's affine format: codes uint8 [m, n], scales and offsets fp16 [m, n / group]; or as plain numbers,
    all three None. decoded: float32 [m, n], what it stands for."""

    codes: object
    scales: object
    offsets: object
    decoded: np.ndarray


@dataclass
class Parts:
    """Q [m, n], L [m, rank] and R [rank, n], and the weighted error of Q + L R relative to that of nothing.

    plain: the error of Q alone, quantized with the same care: what L R gains is seen against it.
    """

    q: Part
    left: Part
    right: Part
    loss: float
    plain: float


def decompose(w, hessian, bits, rank, factor_bits, group, factor_group):
    """Parts for w, float32 [m, n], and the Hessian of its inputs. factor_bits 16: L and R are fp16."""
    whole = hessian.loss(w) or 1.0
    q = Part(*quantize(w, hessian, bits, group))
    plain, best, basis = hessian.loss(w - q.decoded) / whole, None, None
    for _ in range(_ROUNDS):
        before = best.loss if best else plain
        left, right, basis = factors(w - q.decoded, hessian, rank, factor_bits, factor_group, basis)
        product = left.decoded @ right.decoded
        again = Part(*quantize(w - product, hessian, bits, group))
        for part in (q, again):
            loss = hessian.loss(w - part.decoded - product) / whole
            if best is None or loss < best.loss:
                best = Parts(part, left, right, loss, plain)
        if best.loss > before * (1 - _GAIN):
            break
        q = again
    return best


def factors(error, hessian, rank, bits, group, start=None):
    """(L, R, basis): Parts whose product is nearest to error [m, n]. start: an earlier basis of similar errors, or None.

    L begins with the directions of outputs in which the error shows most; then each of L and R is the best, by least
    squares, for the other as it was quantized.
    """
    basis = leading(error, hessian.h, rank, start)
    left, metric, best = basis[:, :rank], Hessian(np.eye(rank, dtype=np.float32)), None
    for _ in range(_INNER):
        left = _part(left, metric, bits, group)
        known = left.decoded
        right = _part(np.linalg.solve(_safe(known.T @ known), known.T @ error), hessian, bits, group)
        loss = hessian.loss(error - known @ right.decoded)
        if best is None or loss < best[0]:
            best = loss, left, right
        inputs = hessian.h @ right.decoded.T
        gram = right.decoded @ inputs
        left, metric = np.linalg.solve(_safe(gram), (error @ inputs).T).T, Hessian(gram)
    return best[1], best[2], basis


def _safe(gram):
    """A Gram matrix that can be solved with, where some of its vectors are zero or the same."""
    return gram + np.eye(len(gram), dtype=np.float32) * max(1e-6 * float(np.trace(gram)) / len(gram), 1e-30)


def _part(w, hessian, bits, group):
    if bits == 16:
        return Part(None, None, None, w.astype(np.float16).astype(np.float32))
    return Part(*quantize(w, hessian, bits, group))


def leading(error, h, rank, start=None):
    """Orthonormal float32 [m, rank + a few], the best first: left singular vectors of error [m, n] times the root of h.

    By subspace iteration on the smaller side.
    """
    m, n = error.shape
    count, steps = min(m, n, rank + _MORE), _POWERS[start is not None]
    basis = np.random.default_rng(0).standard_normal((m, count)).astype(np.float32) if start is None else start
    weighted = error @ h
    if m <= n:
        gram = weighted @ error.T
        for _ in range(steps):
            basis = np.linalg.qr(gram @ basis)[0]
    else:
        gram, z = error.T @ error, error.T @ basis
        for _ in range(steps - 1):
            z = np.linalg.qr(gram @ (h @ z))[0]
        basis = np.linalg.qr(weighted @ z)[0]
    inner = basis.T @ weighted @ (error.T @ basis)
    return (basis @ np.linalg.eigh((inner + inner.T) / 2)[1][:, ::-1]).astype(np.float32)

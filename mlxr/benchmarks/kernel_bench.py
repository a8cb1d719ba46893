"""Measures kernels: time, bandwidth and error of each case, with MLX's own operation and the read bound in turns."""

import contextlib
import ctypes
import os
import statistics
import time

import mlx.core as mx

from .. import _blas
from ..errors import KernelError
from ..kernels import host_call, library, read_bound
from .kernel_cases import dtype
from .kernel_shapes import plans
from .machine import memory_available
from .progress import Steps

BOUND_BYTES = 128 << 20
SHARE_OF_MEMORY = 0.6     # of what is available: larger cases are left out
MLX_MOST = 10.0           # seconds of one launch of MLX's operation: slower ones are left out
ENOUGH = 0.25             # seconds of MLX's operation in one repetition
CASE_MOST = 20.0          # seconds of one case: fewer repetitions then
TOLERANCE = {mx.float32: 1e-3, mx.float16: 1e-2}


def timed(launch, count):
    """Seconds of one of `count` launches that are evaluated together: launch(i) -> [lazy arrays]."""
    outs = [a for i in range(count) for a in launch(i)]
    start = time.perf_counter()
    mx.eval(outs)
    return (time.perf_counter() - start) / count


def relative_error(pairs):
    """The largest difference of (result, expected) arrays over the largest expected number."""
    worst = 0.0
    for got, want in pairs:
        got, want = got.astype(mx.float32), want.astype(mx.float32)
        top = mx.max(mx.abs(want)).item()
        off = mx.max(mx.abs(got - want)).item()
        worst = max(worst, off / top if top else off)
    return worst


def limit_blas(threads):
    """Let the BLAS that MLX uses have as many threads as our kernels; it may have been loaded with more."""
    if _blas.LOADED:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(_blas.LOADED).openblas_set_num_threads(threads)


class KernelBench:
    """Runs a preset, of the named kernels alone where some are. Results: .rows, .notes, .interrupted; .wrong names rows
    that differ from their twins. Raises ConfigError for unknown names, KernelError where no kernel runs."""

    def __init__(self, preset, kernels=(), reps=5):
        self.plans, self.reps = plans(preset, kernels), reps
        if library.backend() == "reference":
            raise KernelError("no kernel runs here: install a C++ compiler, or unset MLXR_BACKEND")
        self.rows, self.notes, self.interrupted = [], [], False
        limit_blas(host_call.threads())

    def run(self):
        words = mx.zeros((BOUND_BYTES // 4,), mx.uint32) + 1
        mx.eval(words, read_bound.apply(words))
        self._bound = lambda: BOUND_BYTES / timed(lambda _: [read_bound.apply(words)], 1) / 1e9
        try:
            with Steps(len(self.plans), "kernel") as steps:
                for planned in self.plans:
                    steps.begin(f"{planned.kernel} {planned.model} {planned.shape}")
                    self._one(planned)
                    steps.step()
        except KeyboardInterrupt:
            if not self.rows:
                raise
            self.interrupted = True
        return self

    def _one(self, planned):
        room = memory_available() * SHARE_OF_MEMORY
        if planned.memory > room:
            self.notes.append(f"{planned.kernel} {planned.model} {planned.shape} was left out: it needs some "
                              f"{planned.memory / 1e9:.1f} GB, and {room / 1e9:.1f} GB may be used")
            return
        case = planned.build()
        before = library.used[planned.kernel, library.backend()]
        mx.eval(case.ours(0))
        if library.used[planned.kernel, library.backend()] == before:
            self.notes.append(f"{planned.kernel} {planned.model} {planned.shape} was left out: its twin ran in its place")
            return
        row = self._measured(planned, case)
        if row["max_rel_error"] > TOLERANCE[dtype()]:
            self.notes.append(f"{planned.kernel} {planned.model} {planned.shape} is wrong: {row['max_rel_error']:.1e} from its twin")
        self.rows.append(row)
        del case
        mx.clear_cache()

    @property
    def wrong(self):
        """The rows whose error is too large."""
        return [r for r in self.rows if r["max_rel_error"] > TOLERANCE[dtype()]]

    def _measured(self, planned, case):
        error = relative_error(case.check())
        copies = self._mlx_copies(planned, case)
        bound, ours, theirs, start = [], [], [], time.perf_counter()
        for _ in range(self.reps):
            bound.append(self._bound())
            ours.append(timed(case.ours, case.copies))
            if copies:
                theirs.append(timed(case.theirs, copies))
            if time.perf_counter() - start > CASE_MOST:
                break
        seconds = statistics.median(ours)
        mlx = statistics.median(theirs) if theirs else None
        gbps, most = case.nbytes / seconds / 1e9, statistics.median(bound)
        return {"kernel": planned.kernel, "model": planned.model, "shape": planned.shape, "ms": _round(seconds * 1e3),
                "gbps": _round(gbps), "share_of_bound": _round(gbps / most), "bound_gbps": _round(most),
                "gflops": _round(case.flops / seconds / 1e9) if case.flops else None,
                "mlx": case.mlx, "mlx_ms": _round(mlx * 1e3) if mlx else None, "ratio_to_mlx": _round(mlx / seconds) if mlx else None,
                "max_rel_error": float(f"{error:.3g}"), "reps": len(ours), "backend": library.backend(),
                "threads": host_call.threads(), "load": round(os.getloadavg()[0], 2)}

    def _mlx_copies(self, planned, case):
        """Launches of MLX's operation in one repetition; 0 where one would take too long."""
        probe, times = case.probe or (None, 1)
        if probe and times > 1:
            mx.eval(probe())
            expected = timed(lambda _: probe(), 1) * times
        else:
            mx.eval(case.theirs(0))
            expected = timed(case.theirs, 1)
        if expected > MLX_MOST:
            self.notes.append(f"{planned.kernel} {planned.model} {planned.shape}: {case.mlx} was left out: it would take "
                              f"some {expected:.0f} s a launch")
            return 0
        return max(1, min(case.copies, int(ENOUGH / expected)))


def _round(x):
    return float(f"{x:.4g}")

"""The gate: runs the Metal text of a kernel in the simulator of ../shared/metalhost, and checks all that it reports.

gate = pytest.importorskip-like: `from kernels.gate import Gate, needs_simulator`
run = Gate(kernel, inputs, shapes, grid, ints)          # kernel made with on="metal"; inputs: NumPy or MLX arrays
run.check(oracle, tolerance, traffic={"w": 1.01})       # everything below, in one call
"""

import importlib
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxr.errors import KernelError
from mlxr.kernels.host_call import ELEMENTS

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "metalhost"
WHY = (
    f"the Metal simulator is not at {FOLDER.parent.name}/{FOLDER.name} beside the repository"
    if not (FOLDER / "mslsim.py").exists()
    else "clang++-19 is not installed"
    if not shutil.which("clang++-19")
    else ""
)
needs_simulator = pytest.mark.skipif(bool(WHY), reason=WHY)


def simulator():
    """The mslsim module."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module("mslsim")


def as_mx(a, element):
    """An array as MLX would get it: bf16 comes as uint16 bits in NumPy."""
    if isinstance(a, mx.array):
        return a
    a = mx.array(a)
    return a.view(mx.bfloat16) if element == "bfloat16_t" and a.dtype == mx.uint16 else a


def relative(a, b):
    """Relative L2 distance of a from b."""
    a, b = np.asarray(a, np.float64).reshape(-1), np.asarray(b, np.float64).reshape(-1)
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)


class Gate:
    """One launch of one specialisation. Results of a run: .outputs (NumPy), .report."""

    def __init__(self, kernel, inputs, shapes, grid, ints=()):
        assert kernel.backend == "metal"
        self.kernel, self.shapes, self.grid = kernel, list(shapes), grid
        self.header, self.body = kernel.metal_text()
        self.names = [n for n, _ in kernel.inputs] + (["dims"] if kernel.ints else [])
        self.inputs = [as_mx(a, e) for a, (_, e) in zip(inputs, kernel.inputs)]
        if kernel.ints:
            self.inputs.append(mx.array(list(ints) + [0] * (8 - len(ints)), dtype=mx.int32))
        self.call = dict(
            output_shapes=self.shapes,
            output_dtypes=[ELEMENTS[e][0] for _, e in kernel.outputs],
            grid=(grid[0] * 32 * kernel.sgs, grid[1], grid[2]),
            threadgroup=(32 * kernel.sgs, 1, 1),
        )

    def text(self):
        """What MLX itself generates for this launch."""
        made = mx.fast.metal_kernel(
            name=self.kernel.name,
            input_names=self.names,
            output_names=[n for n, _ in self.kernel.outputs],
            source=self.body,
            header=self.header,
        )
        return simulator().mlx_source(made, inputs=self.inputs, **self.call)

    def run(self, cut=None, **sim):
        """Simulate. cut: (old, new) in the header, a planted fault. Errors are in .report, not raised."""
        s = simulator()
        header = self.header
        if cut:
            assert cut[0] in header, f"{cut[0]!r} is not in the kernel"
            header = header.replace(*cut)
        f = s.metal_kernel(self.kernel.name, self.names, [n for n, _ in self.kernel.outputs], self.body, header)
        outs = f(inputs=self.inputs, as_mx=False, raise_errors=False, sim=sim, **self.call)
        self.outputs = [np.asarray(o) for o in outs]
        self.report, self.generated = f.report, f.text
        return self

    def strict(self, size):
        """Messages of a compile with real address spaces, every input of `size` elements ('' when clean)."""
        s = simulator()
        inputs = [((size,), str(a.dtype).split(".")[-1]) for a in self.inputs]
        text, *_ = s.generate(
            self.kernel.name,
            self.names,
            [n for n, _ in self.kernel.outputs],
            self.body,
            self.header,
            False,
            inputs,
            [str(d).split(".")[-1] for d in self.call["output_dtypes"]],
            [],
        )
        return s.strict_check(s.mlx_utils() + text, include=[s.mlx_include()], defines=["MLX_METAL_JIT"])

    def errors(self):
        """Kinds of what the simulator found, warnings included."""
        return self.report.kinds()

    def check(self, oracle, tolerance, *, traffic=None, written=None, threadgroup_bytes=16384, seeds=(0, 1, 2)):
        """The whole gate. oracle: arrays, one an output. written: {output name: most bytes written / its size}.

        traffic: {input name: most bytes read / its size}, where a byte counts for each lane that reads it.
        """
        assert self.text() == self.run(seed=seeds[0]).generated, "MLX generates another text than the simulator"
        self._clean(oracle, tolerance)
        sizes = {n: a.nbytes for n, a in zip(self.names, self.inputs)}
        for name, most in (traffic or {}).items():
            assert self.report.buffers[name]["read_bytes"] <= most * sizes[name], (
                name,
                most,
                sizes[name],
                self.report.buffers[name],
            )
        for (name, _), out in zip(self.kernel.outputs, self.outputs):
            if name in (written or {}):
                assert self.report.buffers[name]["write_bytes"] <= written[name] * out.nbytes, self.report.buffers
        assert self.report.stats["tgbytes"] <= threadgroup_bytes, self.report.stats
        for sim in [dict(seed=s) for s in seeds[1:]] + [dict(reverse=True)]:
            self.run(**sim)._clean(oracle, tolerance)
        assert self.strict(8) == "", self.strict(8)
        assert "error" in self.strict(7), "inputs of 7 elements come as constant: the launch code must refuse them"
        with pytest.raises(KernelError, match="pad it to 8"):
            short = [mx.zeros((7,), ELEMENTS[e][0]) for _, e in self.kernel.inputs]
            self.kernel._metal(short, self.shapes, self.grid, ())

    def _clean(self, oracle, tolerance):
        assert not self.report.errors and not self.report.warnings, str(self.report)
        for out, (_, element), want in zip(self.outputs, self.kernel.outputs, oracle):
            if element == "bfloat16_t" and out.dtype == np.uint16:
                out = (out.astype(np.uint32) << 16).view(np.float32)
            assert relative(out, want) <= tolerance, (relative(out, want), tolerance)

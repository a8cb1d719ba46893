"""The kernel library: a Kernel runs on Metal or, compiled at first use, on this CPU; without either its twin does.

k = Kernel("q_gemv", inputs=[("w", "uint"), ("x", "float")], outputs=[("y", "float")], ints=["N", "K"],
           defines={"SGS": 2, "ROWS": 4})
if k.ready(): y, = k([w, x], [(n,)], grid=(groups, 1, 1), ints=(n, k))     # lazy mx.arrays
"""

import collections
import contextlib
import ctypes
import functools
import os
import sys
import threading

import mlx.core as mx

from ..errors import ConfigError, KernelError
from . import host_build, host_call, mlx_bridge, source, tuning

BACKENDS = ("metal", "host", "reference")
used = collections.Counter()  # (kernel name, backend) -> calls
_rehearsal = threading.local()


@functools.lru_cache(None)
def _say(line):
    """One line on stderr, once."""
    print(f"mlxr: {line}", file=sys.stderr, flush=True)


@functools.lru_cache(None)
def _backend(forced, on_gpu):
    if forced:
        if forced not in BACKENDS:
            raise ConfigError(f"MLXR_BACKEND is {forced!r}: give one of {', '.join(BACKENDS)}")
        if forced == "metal" and not mx.metal.is_available():
            raise KernelError("MLXR_BACKEND is metal, but this machine has no Metal GPU")
        if forced == "host" and host_build.compiler() is None:
            raise KernelError("MLXR_BACKEND is host, but no C++ compiler was found: install one, or set MLXR_CXX")
        return forced
    if on_gpu and mx.metal.is_available():
        return "metal"
    if host_build.compiler():
        return "host"
    _say("no C++ compiler found (c++, g++ or clang++): running on MLX's own operations, which are slower on a CPU")
    return "reference"


_refused = []  # why our kernels may not be used in this process, once something was found wrong with them


def refuse(why):
    """From now on every kernel's twin runs, in this process. One line on stderr says why."""
    _refused.append(why)
    _say(f"running on MLX's own operations: {why}")


@contextlib.contextmanager
def aside():
    """In here every kernel's twin runs."""
    _refused.append("set aside for a comparison")
    try:
        yield
    finally:
        _refused.pop()


def backend():
    """ "metal", "host" or "reference": what kernels run on. MLXR_BACKEND forces one."""
    if _refused:
        return "reference"
    return _backend(os.environ.get("MLXR_BACKEND", ""), mx.default_device().type == mx.DeviceType.gpu)


class Kernel:
    """One specialisation of metal/<name>.metal.

    inputs, outputs: [(name, element type)], in the order of the function's parameters, then ints: the names of its int
    parameters. defines: macros; `metal` and `host` add to them or override them there (tuning). SGS, the SIMD-groups of
    a threadgroup, must be among them. shared: floats of threadgroup memory, a number or {backend: number}.
    checked: a host build that checks every index. on: force a backend. text: instead of that of metal/<name>.metal.
    headers: files of metal/include that go before it, after the defines.
    flags: further flags of the host compiler.
    """

    def __init__(
        self,
        name,
        *,
        inputs,
        outputs,
        ints=(),
        defines=None,
        metal=None,
        host=None,
        shared=0,
        checked=False,
        on=None,
        text=None,
        headers=(),
        flags=(),
    ):
        self.name, self.inputs, self.outputs, self.ints = name, tuple(inputs), tuple(outputs), tuple(ints)
        self.backend, self.checked, self.flags = on or backend(), checked, list(flags)
        if not checked and (why := tuning.refused(name, self.backend)):
            _say(f"kernel {name} runs on MLX's own operations: mlxr doctor found it wrong on this machine ({why})")
            self.backend = "reference"
        self.defines = {**(defines or {}), **((metal if self.backend == "metal" else host) or {})}
        self.shared = shared.get(self.backend, 0) if isinstance(shared, dict) else shared
        self.text = source.kernel_text(name, tuple(headers)) if text is None else source.strip(source.flatten(text))
        self.sgs = self.defines.get("SGS")
        if not self.sgs:
            raise KernelError(f"kernel {name}: defines must have SGS, the SIMD-groups of a threadgroup")
        unknown = [t for _, t in (*self.inputs, *self.outputs) if t not in host_call.ELEMENTS]
        if unknown:
            raise KernelError(
                f"kernel {name}: unknown element type {unknown[0]!r}; there are {', '.join(host_call.ELEMENTS)}"
            )
        self._run, self._entry = None, None

    def __repr__(self):
        return f"Kernel({self.name}, {self.backend}, {self.defines})"

    def metal_text(self):
        """(header, body) for mx.fast.metal_kernel."""
        return source.metal_program(
            self.name, self.text, self.inputs, self.outputs, self.ints, self.defines, self.shared
        )

    def host_text(self):
        """The whole C++ program of the host."""
        return source.host_dialect() + source.host_program(
            self.name, self.text, self.inputs, self.outputs, self.ints, self.defines
        )

    def program(self):
        """(text, flags) for host_build."""
        return self.host_text(), host_build.kernel_flags(self.checked) + self.flags

    def load(self):
        """Compile and load now, rather than at the first call. Raises KernelError."""
        if self.backend == "host" and self._entry is None:
            self._library = host_build.library(*self.program(), f"kernel {self.name}")
            self._entry = ctypes.cast(self._library.entry, ctypes.c_void_p).value
        elif self.backend == "metal" and self._run is None:
            header, body = self.metal_text()
            names = [n for n, _ in self.inputs] + (["dims"] if self.ints else [])
            key = "_".join(str(v) for v in self.defines.values())
            self._run = mx.fast.metal_kernel(
                name=f"{self.name}_{key}".replace(".", "p").replace("-", "m"),
                input_names=names,
                output_names=[n for n, _ in self.outputs],
                source=body,
                header=header,
            )
        return self

    def ready(self):
        """Whether this kernel can run here. Where it should but cannot, one line on stderr says why; use the twin."""
        if self.backend == "reference":
            return False
        if self._entry or self._run or _called() is not None:
            return True
        try:
            self.load()
        except KernelError as e:
            _say(f"kernel {self.name} runs on MLX's own operations: {e}")
            self.backend = "reference"
            return False
        return True

    def __call__(self, inputs, shapes, grid, ints=(), shared=None):
        """Lazy output arrays. inputs: arrays of the declared types; shapes: of the outputs; grid: threadgroups x, y, z.

        shared: floats of threadgroup memory of this launch, on the host only: Metal has it fixed in the text.
        """
        if len(inputs) != len(self.inputs) or len(shapes) != len(self.outputs) or len(ints) != len(self.ints):
            raise KernelError(
                f"kernel {self.name} takes {len(self.inputs)} inputs, {len(self.outputs)} shapes and "
                f"{len(self.ints)} ints"
            )
        for array, (label, element) in zip(inputs, self.inputs):
            if array.dtype != host_call.ELEMENTS[element][0]:
                raise KernelError(
                    f"kernel {self.name}: {label} is {array.dtype}, should be {host_call.ELEMENTS[element][0]}"
                )
        called = _called()
        if called is not None:
            called[self] = True
            return [mx.zeros(s, host_call.ELEMENTS[e][0]) for s, (_, e) in zip(shapes, self.outputs)]
        if not (self._entry or self._run):
            self.load()
        used[self.name, self.backend] += 1
        if self.backend == "host":
            return host_call.call(
                self._entry,
                inputs,
                shapes,
                [e for _, e in self.outputs],
                grid,
                ints,
                4 * (self.shared if shared is None else shared),
                host_call.threads(),
            )
        return self._metal(inputs, shapes, grid, ints)

    def _metal(self, inputs, shapes, grid, ints):
        for array, (label, _) in zip(inputs, self.inputs):
            if array.size < 8:
                raise KernelError(
                    f"kernel {self.name}: {label} has {array.size} elements; pad it to 8 (MLX passes less as constant)"
                )
        return self._run(
            inputs=[*inputs, *([_dims(tuple(ints))] if self.ints else [])],
            output_shapes=list(shapes),
            output_dtypes=[host_call.ELEMENTS[e][0] for _, e in self.outputs],
            grid=(grid[0] * 32 * self.sgs, grid[1], grid[2]),
            threadgroup=(32 * self.sgs, 1, 1),
        )


@functools.lru_cache(4096)
def _dims(ints):
    return mx.array(list(ints) + [0] * (source.INTS - len(ints)), dtype=mx.int32)


def _called():
    return getattr(_rehearsal, "called", None)


def rehearsing():
    """Whether this thread's graphs are built only to learn which kernels they take."""
    return _called() is not None


def expect(kernel):
    """Note a kernel in this thread's rehearsal, as if it were called. Only within one."""
    _called()[kernel] = True


@contextlib.contextmanager
def rehearsal():
    """In here kernels called by this thread are only noted, and give zeros: {Kernel: True}, in order of first calls.

    For graphs that are built to learn which kernels they take, and never computed.
    """
    if _called() is not None:
        raise KernelError("a rehearsal is under way in this thread")
    _rehearsal.called = {}
    mx.disable_compile()  # or a function that a model compiles would keep the zeros
    try:
        yield _rehearsal.called
    finally:
        _rehearsal.called = None
        if not os.environ.get("MLX_DISABLE_COMPILE"):
            mx.enable_compile()


def keep(most):
    """Have so many bytes of freed buffers kept for the next steps, where the C library would give them back to the system."""
    if backend() == "host":
        host_call.keep(most)


def warm(kernels):
    """Compile several kernels at once, with the thread pool and the bridge, in parallel, with one line of progress.

    Returns whether each is ready. What was compiled before is only loaded.
    """
    waiting = [k for k in kernels if k.backend == "host" and k._entry is None]
    if waiting:
        programs = [p for p in (host_call.pool_program(), mlx_bridge.program()) if p] + [
            k.program() for k in waiting
        ]
        try:
            host_build.build(programs, "kernels")
        except KernelError as e:
            _say(str(e))
    return [k.ready() for k in kernels]

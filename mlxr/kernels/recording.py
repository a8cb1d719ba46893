"""Recordings: a lazy graph of host kernels, noted once and then replayed as one MLX operation with new inputs."""

import copy

import mlx.core as mx
import numpy as np

from ..errors import KernelError
from . import library, mlx_bridge


def possible():
    """Whether graphs can be recorded here: kernels run on the host, as lazy operations, and this is no rehearsal."""
    return library.backend() == "host" and not library.rehearsing() and mlx_bridge.bridge() is not None


_reads = 0


def read(array):
    """The values of an array of a graph that is being built, as NumPy's: all that leads to it is computed now.

    Whatever is read this way decides what the graph becomes, so that a graph with reads in it must not be recorded.
    """
    global _reads
    _reads += 1
    return np.array(array)


def reads():
    """How often `read` was called: a graph can be recorded when nothing was read while it was built."""
    return _reads


def in_place():
    """Whether write_rows is an operation of our own here."""
    return library.backend() == "host" and mlx_bridge.bridge() is not None


def write_rows(into, rows, source, values, after, always=False):
    """`into` [R, ...] with its rows[i] replaced by values[source[i]], computed after the array `after`; lazily.

    rows, source: int32 [U]. values: [T, ...]. Memory of `into` is taken over where nothing else holds it. always: on the
    host, in any case: whoever else holds it is computed before, as the CPU stream computes in order.
    """
    values = values.astype(into.dtype)
    if not in_place():
        into = copy.copy(into)                    # an update changes all names of an array
        into[rows] = values[source]
        return into
    out = mx.array(0)
    error = mlx_bridge.bridge().mlxr_write_rows((into, rows, source, values, after), (out,), always)
    if error:
        raise KernelError(f"rows cannot be written: {error.decode()}")
    return out


class Recording:
    """How `outputs` come of `inputs`; whatever else their graph reaches must be evaluated, and is kept as it is.

    written: arrays that write_rows made of some of the inputs. A replay writes these rows into the inputs themselves. One that
    is among the outputs is the input's memory under a new name, for what is to come after the rows are written.
    Raises KernelError when the graph holds anything but host kernels, reshapes and write_rows. All are lazy arrays.
    """

    def __init__(self, inputs, outputs, written=()):
        bridge = mlx_bridge.bridge()
        self._forget, self._outputs = bridge.mlxr_forget, len(outputs)
        self._handle = bridge.mlxr_record(tuple(inputs), tuple(outputs), tuple(written))
        if not self._handle:
            raise KernelError(f"this graph cannot be recorded: {bridge.mlxr_problem().decode()}")

    def __call__(self, inputs, after=()):
        """The outputs for other inputs of the same shapes and types, in the same order: a list of lazy arrays. after: further arrays
        that are computed before.

        They must be evaluated once, and in the order of the calls: the rows are written when they are.
        """
        outputs = tuple([mx.array(0) for _ in range(self._outputs)])
        error = mlx_bridge.bridge().mlxr_replay(self._handle, (*inputs, *after), outputs)
        if error:
            raise KernelError(f"a recording cannot be replayed: {error.decode()}")
        return list(outputs)

    def __del__(self):
        if getattr(self, "_handle", None):
            self._forget(self._handle)


class Likeness:
    """How one part of a graph comes of another by other constants: so that of later graphs the one part can be made of the other,
    where building it in Python takes some hundred times as long. All are lazy arrays."""

    def __init__(self):
        self._handle, self._forget = None, mlx_bridge.bridge().mlxr_unlike

    def learn(self, one, one_out, other, other_out, shared):
        """Note how other_out, which come of the arrays `other`, are made as one_out are of `one`. shared: arrays that both parts
        read, and that are such in each graph. Whether they are made alike; where not, nothing is noted. May be called again
        with the same parts of another graph, for what is new there.
        """
        found = mlx_bridge.bridge().mlxr_alike(self._handle, *map(tuple, (one, one_out, other, other_out, shared)))
        if found:
            self.__del__()
            self._handle = found
        return bool(found)

    def clone(self, one, one_out, other, shared):
        """What one_out, which come of `one`, are for `other`: a list; or None where a constant is in them that was not noted."""
        outputs = tuple([mx.array(0) for _ in one_out])
        error = mlx_bridge.bridge().mlxr_clone(self._handle, *map(tuple, (one, one_out, other, shared)), outputs)
        return None if error else list(outputs)

    def __del__(self):
        if getattr(self, "_handle", None):
            self._forget(self._handle)
            self._handle = None

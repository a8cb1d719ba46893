"""The trial before a GPU serves, on the kernels of this machine: it passes, and it finds a kernel that fails or lies."""

import mlx.core as mx
import pytest
from helpers.tiny import prompts, run, tiny_engine
from kernels.matrices import needs_compiler

from mlxr.kernels import library
from mlxr.sequence import SamplingParams
from mlxr.trial import trial

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def nothing_refused():
    yield
    library._refused.clear()


@pytest.mark.parametrize("mode", ["paged", "serial", "gathered"])
@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_passes_and_leaves_nothing_behind(mode, kv):
    engine = tiny_engine(mode=mode, kv=kv)
    before = library.used["attend", "host"]
    assert trial(engine) and library.backend() == "host"
    assert mode == "gathered" or library.used["attend", "host"] > before
    assert engine.scheduler.allocator.used == 0
    engine.scheduler.check()


def broken(monkeypatch, how):
    original = library.Kernel.__call__

    def call(self, *args, **options):
        outs = original(self, *args, **options)
        return how(outs) if self.name == "attend" else outs
    monkeypatch.setattr(library.Kernel, "__call__", call)


def fail(_):
    raise RuntimeError("[metal::Device] Unable to build metal library from source\nmany lines")


@pytest.mark.parametrize("how, said", [(fail, "Unable to build"), (lambda outs: [o * 1.5 for o in outs], "from plain MLX"),
                                       (lambda outs: [o * mx.nan for o in outs], "nan from plain MLX")], ids=["fails", "lies", "nan"])
def test_a_bad_kernel_is_found_and_the_twins_serve(monkeypatch, capsys, how, said):
    prompt = prompts([40])[0]
    expected = tiny_engine()
    with library.aside():
        request = expected.add(prompt, SamplingParams(max_tokens=6))
        want = run(expected, [request])
    engine = tiny_engine()
    broken(monkeypatch, how)
    assert not trial(engine)
    assert library.backend() == "reference"
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and "running on MLX's own operations" in line
    request = engine.add(prompt, SamplingParams(max_tokens=6))
    assert run(engine, [request]) == want

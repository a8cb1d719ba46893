"""Tokens a second of whole engines: mlxr alone or against others, which take turns in one run."""

import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass, field

from ..errors import ConfigError
from .children import Child, ChildFailed
from .machine import machine, versions
from .progress import Steps

PEERS = {"llama.cpp": "llama_cpp", "mlx-lm": "mlx_lm"}   # name -> the Python module that must be installed
METRICS = "prefill", "decode"
PATIENCE = 30.0   # seconds of one measurement of a peer, in all; a slow one is repeated less
PAUSE = 0.05      # seconds between turns: threads that still wait for work must go to sleep


@dataclass(frozen=True)
class Plan:
    """What is measured: prompts of pp tokens, tg tokens generated after `depth` others, `batch` sequences at once."""

    pp: int = 512
    tg: int = 64
    depth: int = 128
    batch: int = 1
    reps: int = 5

    def __post_init__(self):
        for name, least in (("pp", 1), ("tg", 1), ("depth", 0), ("batch", 1), ("reps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} must be at least {least}, not {getattr(self, name)}")

    @property
    def sizes(self):
        return {"pp": self.pp, "tg": self.tg, "depth": self.depth, "batch": self.batch}


@dataclass
class Result:
    """One contestant's measurements, in tokens a second, as they came."""

    name: str
    settings: dict = field(default_factory=dict)
    rates: dict = field(default_factory=lambda: {m: [] for m in METRICS})
    seconds: dict = field(default_factory=lambda: dict.fromkeys(METRICS, 0.0))
    firsts: list = field(default_factory=list)      # seconds to the first token of a prompt

    def add(self, metric, measured):
        if "first" in measured:
            self.firsts.append(measured["first"])
        self.rates[metric].append(measured["tokens"] / measured["seconds"])
        self.seconds[metric] += measured["seconds"]

    def summary(self):
        """Medians, spreads ([least, most]) and all values, by metric; None where nothing was measured."""
        out = {}
        for metric, rates in self.rates.items():
            out[f"{metric}_tps"] = round(statistics.median(rates), 2) if rates else None
            out[f"{metric}_tps_spread"] = [round(min(rates), 2), round(max(rates), 2)] if rates else None
            out[f"{metric}_tps_all"] = [round(r, 2) for r in rates]
        return out


def thread_limits(threads):
    """Environment that keeps every library of a child to that many threads; None leaves each its own choice."""
    names = "MLXR_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"
    return {} if threads is None else {n: str(threads) for n in names}


def check_peers(names):
    """Raises ConfigError for a peer that is not known."""
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"--against {name}: there are {', '.join(PEERS)}")


def _why_not(name, path):
    """Why a peer cannot take part, or None."""
    if importlib.util.find_spec(PEERS[name]) is None:
        return f"{name} is not installed"
    if name == "llama.cpp" and path.suffix != ".gguf":
        return "llama.cpp reads GGUF files alone"
    return None


class Contest:
    """Runs a Plan for a model's path. against: names of peers. config: fields of EngineConfig. metrics: those of
    METRICS that are measured.

    After run(), or what of it Ctrl-C left: .results ({name: Result}, mlxr first), .notes, .info, .interrupted.
    """

    def __init__(self, path, plan, config, against=(), threads=None, metrics=METRICS):
        self.metrics = metrics
        self.path, self.plan, self.config, self.against, self.threads = path, plan, config, tuple(against), threads
        check_peers(self.against)
        self.results, self.notes, self.info, self.interrupted = {}, [], {}, False
        self._children = {}

    def run(self):
        """Measure. Raises MlxrError when mlxr itself fails, KeyboardInterrupt when nothing was measured before it."""
        try:
            self._set_up()
            with Steps(self.plan.reps, "round") as steps:
                for i in range(self.plan.reps):
                    self._round(i, steps)
                    steps.step()
            self.info.update(self._children["mlxr"].ask("used"))
        except KeyboardInterrupt:
            if not any(r for result in self.results.values() for r in result.rates.values()):
                raise
            self.interrupted = True
        finally:
            for child in self._children.values():
                child.close()
        return self

    def _set_up(self):
        own = self._start("mlxr", "own_engine", thread_limits(self.threads))
        self.info = own.ask("setup", model=str(self.path), config=self.config, **self.plan.sizes)
        self.results["mlxr"] = Result("mlxr")
        for metric in self.metrics:                  # warm-up: kernels compile, memory is there
            own.ask(metric, seed=-1)
        self.info.update(own.ask("used"))
        for name in self.against:
            why = _why_not(name, self.path)
            if why:
                self.notes.append(f"{name} was left out: {why}")
                continue
            try:
                self.results[name] = Result(name, self._set_up_peer(name))
            except (ChildFailed, ConfigError) as e:
                self._drop(name, f"{name} was left out: {e}")

    def _set_up_peer(self, name):
        limits = thread_limits(self.info["threads"])
        more = dict(self.plan.sizes, model=str(self.path), vocabulary=self.info["vocabulary"])
        if name == "llama.cpp":
            return self._start(name, "peer_llama_cpp", limits, quiet=True).ask("setup", threads=self.info["threads"], **more)
        stock = {"MLXR_BACKEND": "reference", "MLXR_BLAS": "none"}       # as mlx and mlx-lm come
        return self._start(name, "peer_mlx_lm", {**limits, **stock}, quiet=True).ask("setup", dtype=self.info["dtype"], **more)

    def _start(self, name, module, environment, quiet=False):
        print(f"mlxr: loading and warming up {name}", file=sys.stderr, flush=True)
        self._children[name] = Child(name, f"{__package__}.{module}", environment, quiet)
        return self._children[name]

    def _round(self, i, steps):
        """Each measurement once, the contestants one after the other."""
        for metric in self.metrics:
            for name, result in self.results.items():
                if name not in self._children or name != "mlxr" and result.seconds[metric] > PATIENCE:
                    continue
                steps.begin(f"{name} {metric}")
                time.sleep(PAUSE)
                try:
                    result.add(metric, self._children[name].ask(metric, seed=i))
                except ChildFailed as e:
                    if name == "mlxr":
                        raise
                    self._drop(name, f"{name} dropped out: {e}")

    def _drop(self, name, why):
        """Go on without a peer; what it did so far counts."""
        self._children.pop(name).close()
        self.notes.append(why)

    def report(self):
        """One JSON object: what was measured, of what, with what, on what."""
        own, info = self.results["mlxr"].summary(), self.info
        against = {}
        for name, result in list(self.results.items())[1:]:
            theirs = result.summary()
            against[name] = {**theirs, **{f"{m}_ratio": ratio(own[f"{m}_tps"], theirs[f"{m}_tps"]) for m in METRICS},
                             "settings": result.settings}
        return {"model": str(self.path), **self.plan.sizes, "reps": self.plan.reps, **own,
                **{n: info.get(n) for n in ("backend", "kernels", "threads", "page_format", "page_size", "dtype", "architecture",
                                            "weights_bytes", "kv_bytes_per_token", "peak_bytes")},
                "ttft_seconds": _median(self.results["mlxr"].firsts), "against": against, "notes": self.notes, "interrupted": self.interrupted,
                "versions": versions(), "machine": machine()}


def ratio(ours, theirs):
    """How many times theirs ours is, or None."""
    return round(ours / theirs, 3) if ours and theirs else None


def _median(values):
    return round(statistics.median(values), 4) if values else None

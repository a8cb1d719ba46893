"""Tokens a second of whole engines: mlxr alone or against others, which take turns in one run."""

import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass, field

from ..errors import ConfigError
from .children import Child, ChildFailed
from .progress import Steps

PEERS = {"llama.cpp": "llama_cpp", "mlx-lm": "mlx_lm"}   # name -> the Python module that must be installed
METRICS = "prefill", "decode"
PATIENCE = 30.0   # seconds of one measurement of a peer, in all; a slow one is repeated less
PAUSE = 0.05      # seconds between turns: threads that still wait for work must go to sleep


@dataclass(frozen=True)
class Plan:
    """What is measured after `depth` tokens of context, in `batch` sequences at once: prompts of pp tokens, tg tokens generated."""

    pp: int = 512
    tg: int = 128
    depth: int = 0
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
        return f"{name} is not installed" + (": pip install 'mlxr[bench]'" if name == "llama.cpp" else "")
    if name == "llama.cpp" and path.suffix != ".gguf":
        return "llama.cpp reads GGUF files alone"
    return None


class Contestants:
    """mlxr and its peers, each in a process that has the model loaded once. config: fields of EngineConfig.

    After start(): .info of mlxr, .settings {peer: what it runs with}, .notes of those that were left out.
    """

    def __init__(self, path, config, against=(), threads=None):
        check_peers(against)
        self.path, self.config, self.against, self.threads = path, config, tuple(against), threads
        self.info, self.settings, self.notes, self._children = {}, {}, [], {}

    def start(self):
        """Load. Raises MlxrError when mlxr itself cannot."""
        self.info = self._start("mlxr", "own_engine", thread_limits(self.threads)).ask("setup", model=str(self.path), config=self.config)
        for name in self.against:
            why = _why_not(name, self.path)
            if why:
                self.notes.append(f"{name} was left out: {why}")
                continue
            try:
                self.settings[name] = self._start_peer(name)
            except (ChildFailed, ConfigError) as e:
                self.drop(name, f"{name} was left out: {e}")

    def _start_peer(self, name):
        limits = thread_limits(self.info["threads"])
        more = {"model": str(self.path), "vocabulary": self.info["vocabulary"]}
        if name == "llama.cpp":
            return self._start(name, "peer_llama_cpp", limits, quiet=True).ask("setup", threads=self.info["threads"], **more)
        stock = {"MLXR_BACKEND": "reference", "MLXR_BLAS": "none"}       # as mlx and mlx-lm come
        return self._start(name, "peer_mlx_lm", {**limits, **stock}, quiet=True).ask("setup", dtype=self.info["dtype"], **more)

    def _start(self, name, module, environment, quiet=False):
        print(f"mlxr: loading {name}", file=sys.stderr, flush=True)
        self._children[name] = Child(name, f"{__package__}.{module}", environment, quiet)
        return self._children[name]

    def __contains__(self, name):
        return name in self._children

    def ask(self, name, command, **arguments):
        return self._children[name].ask(command, **arguments)

    def drop(self, name, why):
        """Go on without a peer; what it did so far counts."""
        self._children.pop(name).close()
        self.notes.append(why)

    def close(self):
        for child in self._children.values():
            child.close()
        self._children.clear()


class Contest:
    """One cell: runs a Plan with a page format. contestants: started; against: names of peers that take part in this cell.

    After run(), or what of it Ctrl-C left: .results ({name: Result}, mlxr first), .notes, .info, .interrupted.
    """

    def __init__(self, contestants, plan, kv, against=()):
        self.contestants, self.plan, self.kv, self.against = contestants, plan, kv, against
        self.results, self.notes, self.info, self.interrupted = {}, [], {}, False

    def run(self):
        """Measure. Raises ConfigError when mlxr cannot measure this cell, MlxrError when it fails, KeyboardInterrupt when
        nothing was measured before it."""
        try:
            self._set_up()
            with Steps(self.plan.reps, "round") as steps:
                for i in range(self.plan.reps):
                    self._round(i, steps)
                    steps.step()
            self.info.update(self.contestants.ask("mlxr", "used"))
        except KeyboardInterrupt:
            if not any(r for result in self.results.values() for r in result.rates.values()):
                raise
            self.interrupted = True
        if self.info.get("preemptions"):
            self.notes.append(f"{self._where}: sequences were preempted, which costs time")
        return self

    @property
    def _where(self):
        return f"{self.kv}, batch {self.plan.batch}, depth {self.plan.depth}"

    def _set_up(self):
        ask = self.contestants.ask
        self.info = {**self.contestants.info, **ask("mlxr", "size", kv=self.kv, **self.plan.sizes)}
        self.results["mlxr"] = Result("mlxr")
        if self.info.get("note"):
            self.notes.append(f"{self._where}: {self.info['note']}")
        ask("mlxr", "warm")
        self.info.update(ask("mlxr", "used"))
        for name in self.against:
            if name in self.contestants:
                self.results[name] = Result(name, {})
                self._guarded(name, "was left out", "size", kv_elements=self.info.get("kv_elements", 0), **self.plan.sizes)
                if name in self.contestants and name in self.results:
                    self._guarded(name, "was left out", "warm")

    def _guarded(self, name, what, command, **arguments):
        """A peer's answer; None where it cannot take part in this cell, or in no more at all."""
        try:
            return self.contestants.ask(name, command, **arguments)
        except ConfigError as e:
            del self.results[name]
            self.notes.append(f"{self._where}: {name} {what}: {e}")
        except ChildFailed as e:
            self.contestants.drop(name, f"{name} {what}: {e}")
            if not any(self.results[name].rates.values()):
                del self.results[name]
        return None

    def _round(self, i, steps):
        """Each measurement once, the contestants one after the other."""
        for metric in METRICS:
            for name, result in list(self.results.items()):
                if name not in self.contestants or name != "mlxr" and result.seconds[metric] > PATIENCE:
                    continue
                steps.begin(f"{name} {metric}")
                time.sleep(PAUSE)
                measured = (self.contestants.ask(name, metric, seed=i) if name == "mlxr"
                            else self._guarded(name, "dropped out", metric, seed=i))
                if measured:
                    result.add(metric, measured)

    def report(self):
        """One JSON object: what was measured, of what, with what, on what."""
        own, info, first = self.results["mlxr"].summary(), self.info, self.results["mlxr"].firsts
        against = {}
        for name, result in list(self.results.items())[1:]:
            theirs = result.summary()
            against[name] = {**theirs, **{f"{m}_ratio": ratio(own[f"{m}_tps"], theirs[f"{m}_tps"]) for m in METRICS},
                             "settings": self.contestants.settings.get(name, {})}
        return {"model": str(self.contestants.path), **self.plan.sizes, "reps": self.plan.reps, **own,
                **{n: info.get(n) for n in ("backend", "kernels", "threads", "page_format", "page_size", "sink", "decoded_pages", "dtype", "architecture",
                                            "weights_bytes", "pool_bytes", "kv_bytes_per_token", "peak_bytes", "fill_seconds", "past_context")},
                "ttft_seconds": _median(first), "ttft_spread": [round(min(first), 4), round(max(first), 4)] if first else None,
                "against": against, "notes": self.notes, "interrupted": self.interrupted}


def ratio(ours, theirs):
    """How many times theirs ours is, or None."""
    return round(ours / theirs, 3) if ours and theirs else None


def _median(values):
    return round(statistics.median(values), 4) if values else None

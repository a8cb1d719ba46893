"""A whole benchmark of a model: every depth, batch and page format asked for, then prefix hits and a small serving load."""

import sys
import time
from dataclasses import replace
from datetime import datetime, timezone

from ..errors import ConfigError
from .children import ChildFailed
from .machine import machine, versions
from .speed import METRICS, Contest, Contestants, Plan

FIELDS = ("model", "contestant", "metric", "pp", "tg", "depth", "batch", "kv", "tps", "least", "most", "ratio", "reps", "threads")
CSV = ("time", "tag", *FIELDS, "cpu", "mlxr_version", "mlx_version")


class Suite:
    """Runs a Plan for each page format, batch and depth, each against the peers. Every contestant loads the model once.

    kvs: page formats; peers keep f16, and take part beside the first. extras: whether prefix hits and a serving load
    are measured. After run(), or what of it Ctrl-C or a failure left: .cells, .interrupted, .failed, .report(). Raises
    ConfigError for bad sizes, before anything is loaded.
    """

    def __init__(self, path, plan, depths, batches, kvs, config, against=(), threads=None, extras=False):
        for values, name in ((depths, "depth"), (batches, "batch")):
            if not values:
                raise ConfigError(f"--{name} names no size")
        self.path, self.plan, self.extras, self.kvs = path, plan, extras, list(kvs)
        self.plans = [(replace(plan, depth=depth, batch=batch), kv, tuple(against) if i == 0 else ())
                      for i, kv in enumerate(self.kvs) for batch in batches for depth in depths]
        self.contestants = Contestants(path, config, against, threads)
        self.cells, self.more, self.notes, self.interrupted, self.failed = [], [], [], False, False
        self._start, self._done = 0.0, 0.0

    def run(self):
        """Raises what the only cell, or every one, raised; KeyboardInterrupt when nothing was measured."""
        try:
            self.contestants.start()
            self._start = time.perf_counter()
            self._cells()
            for i, kv in enumerate(self.kvs if self.extras else ()):
                self._say(len(self.plans) + i, f"{kv}, prefix hits and a serving load")
                self.more.append({"kv": kv, **self._extras(kv)})
                self._done += self._work(None)
        except KeyboardInterrupt:
            if not self.cells:
                raise
            self.interrupted = True
        except ChildFailed as e:
            if not self.cells:
                raise
            self.failed = True
            self.notes.append(f"it ended early: {e}")
        finally:
            self.contestants.close()
        return self

    def _cells(self):
        refused = None
        for i, (plan, kv, against) in enumerate(self.plans):
            self._say(i, f"{kv}, batch {plan.batch}, depth {plan.depth}")
            contest = Contest(self.contestants, plan, kv, against)
            try:
                self.cells.append({**contest.run().report(), "kv": kv})
            except ConfigError as e:                             # this one cannot be measured; others can
                refused = e
                self.notes.append(f"left out: {e}")
            if contest.interrupted:
                raise KeyboardInterrupt
            self._done += self._work(plan)
        if not self.cells:
            raise refused

    def _work(self, plan):
        """About how much a part takes, in tokens of prompts: to guess the time left."""
        if plan is None:
            return self._work(self.plan) * 4
        return plan.depth + plan.batch * plan.pp * plan.reps + 16 * plan.tg * plan.reps * (1 + plan.batch / 4) + 4096

    def _say(self, i, what):
        parts = len(self.plans) + (len(self.kvs) if self.extras else 0)
        if parts > 1:
            left = sum(self._work(p) for p, _, _ in self.plans) + (len(self.kvs) * self._work(None) if self.extras else 0) - self._done
            passed = time.perf_counter() - self._start
            left = f", about {passed / self._done * left:.0f} s left" if self._done else ""
            print(f"mlxr: part {i + 1} of {parts}: {what}{left}", file=sys.stderr, flush=True)

    def _extras(self, kv):
        try:
            return self.contestants.ask("mlxr", "extras", kv=kv, pp=self.plan.pp, tg=self.plan.tg, reps=self.plan.reps)
        except ConfigError as e:
            self.notes.append(f"prefix hits and serving with {kv} were left out: {e}")
            return {"prefix": None, "serving": None}

    def report(self):
        """One JSON object: the first cell's report, and all cells under `cells`, prefix hits and serving under `extras`."""
        first = self.cells[0]
        return {**first, "cells": [_cell(c) for c in self.cells], "extras": self.more, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "notes": self.contestants.notes + list(dict.fromkeys(n for c in self.cells for n in c["notes"])) + self.notes,
                "interrupted": self.interrupted, "failed": self.failed,
                "versions": versions(), "machine": machine()}

    def csv_rows(self, tag):
        """Rows of CSV: one for each cell, contestant and metric."""
        made = self.report()
        for c in made["cells"]:
            for name, rates in c["contestants"].items():
                for metric in METRICS:
                    if rates[f"{metric}_tps"] is None:
                        continue
                    least, most = rates[f"{metric}_tps_spread"]
                    yield [made["time"], tag, made["model"], name, metric, made["pp"], made["tg"], c["depth"], c["batch"], c["kv"],
                           rates[f"{metric}_tps"], least, most, rates.get(f"{metric}_ratio", ""), len(rates[f"{metric}_tps_all"]), made["threads"],
                           made["machine"]["cpu"], made["versions"]["mlxr"], made["versions"].get("mlx", "")]


def _cell(c):
    """A Contest's report without what all cells share."""
    peers = {n: {k: v for k, v in r.items() if k.startswith(METRICS)} for n, r in c["against"].items()}
    return {**{n: c[n] for n in ("kv", "depth", "batch", "peak_bytes", "pool_bytes", "kv_bytes_per_token", "ttft_seconds", "ttft_spread", "fill_seconds",
                                 "past_context")}, "contestants": {"mlxr": {k: v for k, v in c.items() if k.startswith(METRICS)}, **peers}}


__all__ = ["CSV", "Plan", "Suite"]

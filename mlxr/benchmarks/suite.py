"""A whole benchmark of a model: every depth, batch and page format asked for, then prefix hits and a small serving load."""

import sys
import time
from dataclasses import replace
from datetime import datetime, timezone

from ..errors import ConfigError
from .children import Child, ChildFailed
from .machine import machine, versions
from .speed import METRICS, Contest, Plan, ratio, thread_limits

FIELDS = ("model", "contestant", "metric", "pp", "tg", "depth", "batch", "kv", "tps", "least", "most", "ratio", "reps", "threads")
CSV = ("time", "tag", *FIELDS, "cpu", "mlxr_version", "mlx_version")


class Suite:
    """Runs a Plan for each page format, batch and depth, each against the peers; prompts once for each format and batch.

    kvs: page formats; peers keep f16, and take part beside the first. extras: whether prefix hits and a serving load
    are measured. After run(), or what of it Ctrl-C left: .cells, .interrupted, .report(). Raises ConfigError for bad
    sizes, before anything is measured.
    """

    def __init__(self, path, plan, depths, batches, kvs, config, against=(), threads=None, extras=False):
        for values, name in ((depths, "depth"), (batches, "batch")):
            if not values:
                raise ConfigError(f"--{name} names no size")
        self.path, self.plan, self.config, self.against, self.threads, self.extras = path, plan, config, tuple(against), threads, extras
        self.kvs, self.plans = list(kvs), []
        for i, kv in enumerate(self.kvs):
            for batch in batches:
                for j, depth in enumerate(depths):
                    self.plans.append((replace(plan, depth=depth, batch=batch), kv, METRICS if j == 0 else METRICS[1:],
                                       self.against if i == 0 else ()))
        self.cells, self.first, self.more, self.notes, self.interrupted = [], None, [], [], False

    def run(self):
        start, parts = time.perf_counter(), len(self.plans) + (len(self.kvs) if self.extras else 0)
        try:
            for i, (plan, kv, metrics, against) in enumerate(self.plans):
                self._say(start, i, parts, f"{kv}, batch {plan.batch}, depth {plan.depth}")
                contest = Contest(self.path, plan, {**self.config, "kv": kv}, against, self.threads, metrics).run()
                self.cells.append({**contest.report(), "kv": kv})
                if contest.interrupted:
                    raise KeyboardInterrupt
            for i, kv in enumerate(self.kvs if self.extras else ()):
                self._say(start, len(self.plans) + i, parts, f"{kv}, prefix hits and a serving load")
                self.more.append({"kv": kv, **self._extras(kv)})
        except KeyboardInterrupt:
            if not self.cells:
                raise
            self.interrupted = True
        return self

    def _say(self, start, i, parts, what):
        if parts > 1:
            passed = time.perf_counter() - start
            left = f", about {passed / i * (parts - i):.0f} s left" if i else ""
            print(f"mlxr: part {i + 1} of {parts}: {what}{left}", file=sys.stderr, flush=True)

    def _extras(self, kv):
        """Prefix hits and a serving load, in a child of its own."""
        child = Child("mlxr", f"{__package__}.serving_load", thread_limits(self.threads))
        try:
            child.ask("setup", model=str(self.path), config={**self.config, "kv": kv}, pp=self.plan.pp, tg=self.plan.tg)
            child.ask("serving", seed=-1)                        # what compiles is not measured
            return {"prefix": child.ask("prefix", reps=self.plan.reps), "serving": child.ask("serving", seed=0)}
        except ChildFailed as e:
            self.notes.append(f"prefix hits and serving with {kv} were left out: {e}")
            return {"prefix": None, "serving": None}
        finally:
            child.close()

    def report(self):
        """One JSON object: the first cell's report, and all cells under `cells`, prefix hits and serving under `extras`."""
        first = self.cells[0]
        return {**first, "cells": [_cell(c) for c in self.cells], "extras": self.more, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "notes": list(dict.fromkeys(n for c in self.cells for n in c["notes"])) + self.notes, "interrupted": self.interrupted,
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
    own = {k: v for k, v in c.items() if k.startswith(METRICS)}
    decode = own.get("decode_tps")
    peers = {n: {k: v for k, v in r.items() if k.startswith(METRICS)} for n, r in c["against"].items()}
    for theirs in peers.values():
        theirs["decode_ratio"] = ratio(decode, theirs.get("decode_tps"))
    return {"kv": c["kv"], "depth": c["depth"], "batch": c["batch"], "peak_bytes": c["peak_bytes"], "kv_bytes_per_token": c["kv_bytes_per_token"],
            "ttft_seconds": c["ttft_seconds"], "contestants": {"mlxr": own, **peers}}


__all__ = ["CSV", "Plan", "Suite"]

"""One examination: system, kernels, products, donation, memory; what it found goes into the tuning table."""

import sys
from datetime import datetime, timezone

import mlx.core as mx

from ..benchmarks.progress import Steps
from ..kernels import library, source, tuning
from ..weights.locate import locate
from . import machine, products
from .kernels import examine, kernel_cases


class Examination:
    """Runs it: .report is a dict of JSON types, .wrong the kernels that give wrong numbers or fail.

    model: of weights.locate, whose matrices are measured; None for a few sizes. every: all formats and types of weights.
    measure: whether products are measured. Raises what locating and reading a model raise.
    """

    def __init__(self, model=None, every=False, measure=True):
        self.path = locate(model) if model is not None else None
        self.shapes, self.left = products.shapes_of(self.path) if self.path else (list(products.DEFAULT), [])
        self.every, self.measure = every, measure
        self.wrong, self.report = {}, {}

    def run(self):
        with tuning.ignored():                       # what was found before must not hide what is so now
            backend = library.backend()
            self.report = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "model": self.path and str(self.path),
                           "system": machine.system(), "memory": machine.memory(), "kernels": [], "products": [],
                           "donation": None, "interrupted": False, "notes": [f"not measured: {x}" for x in self.left], "table": None}
            if backend == "reference":
                self.report["notes"].append("no kernel runs here: MLX's own operations compute everything")
            else:
                self._examine()
        if backend != "reference" and not self.report["interrupted"]:
            self._store(backend)
        self.report["ok"] = not self.wrong and (self.report["donation"] or {"ok": not self.wrong})["ok"]
        return self

    def _examine(self):
        """Ctrl-C keeps what was found, once there is something."""
        try:
            self._kernels()
            self.report["donation"] = machine.donation() if not self.wrong.get("seal") else None
        except KeyboardInterrupt:
            if not self.report["kernels"]:
                raise
            self.report["interrupted"] = True
            self.report["notes"].append("interrupted: what follows was not examined, and the tuning table stays as it was")

    def _kernels(self):
        cases = list(kernel_cases(self.every))
        missing = set(source.names()) - {c.kernel for c in cases}
        with Steps(len(cases) + len(self.shapes) * self.measure, "check") as steps:
            for planned in cases:
                steps.begin(f"{planned.kernel}, {planned.shape}")
                self.report["kernels"].append(row := examine(planned))
                if not row["ok"]:
                    self.wrong.setdefault(row["kernel"], f"{row['what']}: {row['why']}")
                mx.clear_cache()
                steps.step()
            for shape in self.shapes if self.measure else ():
                steps.begin(f"{shape[0]} {shape[1]}x{shape[2]}")
                self._product(shape)
                mx.clear_cache()
                steps.step()
        self.report["notes"] += [f"kernel {name} has no check here" for name in sorted(missing)]

    def _product(self, shape):
        if {"q_gemv", "q_gemm"} & self.wrong.keys():
            return
        try:
            self.report["products"].append(products.measure(*shape))
        except Exception as e:      # a product that fails is a finding, whoever's it is
            self.report["notes"].append(f"{tuning.linear_key(*shape)} could not be measured ({type(e).__name__}: {str(e).splitlines()[0][:200]})")

    def _store(self, backend):
        linear = {p["key"]: {"choice": p["choice"], "rows": p["rows"]} for p in self.report["products"] if p["mlx"] == "mx.quantized_matmul"}
        try:
            self.report["table"] = str(tuning.store(backend, self.wrong, linear))
        except OSError as e:
            self.report["notes"].append(f"the tuning table could not be written ({e.strerror or e}); set MLXR_HOME to another folder")
            print(f"mlxr: {self.report['notes'][-1]}", file=sys.stderr)

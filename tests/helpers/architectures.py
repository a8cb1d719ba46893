"""One tiny model through the paged seam, in chunks and ragged batches, against stock mlx-lm's logits.

Used by tests/models/test_architectures.py and by tools/architectures.
"""

import random

import mlx.core as mx
from models.tiny_configs import VOCAB, tiny_model

from mlxr.models import seam, zoo
from mlxr.models.modes import GATHERED, METAL_ONLY, MODES, PAGED, REFUSALS, SERIAL
from mlxr.pages.formats import page_format
from mlxr.pages.pool import PagePool
from mlxr.runner import Runner
from mlxr.scheduler import Scheduler
from mlxr.sequence import SamplingParams, Sequence

PAGE = 16
LIMIT = 1e-4      # relative L2 distance of logits that counts as equal, in fp32
BUDGET = 512      # more tokens than any step here has


class Rig:
    """A model on f32 pages whose sequences follow scripts: every sampled token is replaced by the script's next one."""

    def __init__(self, model, mode):
        seam.install()
        shape = seam.probe(model)
        self.model = model
        self.pool = PagePool(shape.specs, page_format("f32"), PAGE, 24, mx.float32)
        self.pool.reserve(4)
        self.scheduler = Scheduler(PAGE, 24, BUDGET, 4, align=mode == GATHERED)
        self.runner = Runner(model, self.pool, mode, shape.windows)
        self.scripts, self.rows = {}, {}
        self.counts = []                 # of each step: the number of tokens of each of its works

    def add(self, length, prompt, seed):
        """A sequence of `length` random tokens, the first `prompt` of which are its prompt."""
        draw = random.Random(seed)
        tokens = [draw.randrange(1, VOCAB - 1) for _ in range(length)]
        sequence = Sequence(tokens[:prompt], SamplingParams(), length + 1)
        self.scripts[sequence], self.rows[sequence] = tokens, {}
        self.scheduler.add(sequence)
        return sequence

    def step(self, budget=BUDGET):
        """One step of at most `budget` tokens; keeps the logits of its sampled positions."""
        self.scheduler.token_budget = budget
        plan = self.scheduler.schedule()
        self.counts.append([w.count for w in plan.works])
        logits = self.runner.logits(plan.works)
        mx.eval(self.pool.arrays, *([] if logits is None else [logits]))
        follow = []
        for row, work in enumerate(plan.samples):
            end = work.start + work.count
            self.rows[work.sequence][end - 1] = logits[row]
            follow.append((self.scripts[work.sequence] + [0])[end])
        list(self.scheduler.commit(plan, follow))
        self.scheduler.check()

    def run_until(self, sequence, total):
        while len(sequence.tokens) < total:
            self.step()

    def distance(self, sequence):
        """The largest relative L2 distance of a sequence's sampled logits from stock mlx-lm's."""
        tokens, rows = self.scripts[sequence], self.rows[sequence]
        stock = self.model(mx.array([tokens]), cache=seam.stock_caches(self.model))[0]
        known = [p for p in rows if p < len(tokens)]
        ours, theirs = mx.stack([rows[p] for p in known]), stock[mx.array(known)]
        apart = mx.linalg.norm(ours - theirs, axis=-1) / mx.linalg.norm(theirs, axis=-1)
        return mx.max(mx.where(mx.isfinite(apart), apart, mx.inf)).item()


def serve(model, mode):
    """Run four sequences through a model and return the Rig.

    One prompt alone in chunks of 7, 20 and the rest, then 6 decode steps; two more prompts together; then all three
    decode beside the two chunks of a fourth one's prompt.
    """
    rig = Rig(model, mode)
    first = rig.add(50, 40, seed=1)
    rig.step(7)
    rig.step(20)
    rig.run_until(first, 46)
    others = [rig.add(30, 23, seed=2), rig.add(12, 5, seed=3)]
    for sequence in others:
        rig.run_until(sequence, sequence.num_prompt + 1)
    last = rig.add(36, 34, seed=4)
    rig.step(3 + 20)
    rig.run_until(last, 36)
    return rig


def measure(name, mode):
    """The largest distance from stock mlx-lm of architecture `name` in that mode."""
    rig = serve(tiny_model(name), mode)
    return max(rig.distance(s) for s in rig.scripts)


def best_mode(name):
    """(mode, distance): the first mode in which an architecture gives stock mlx-lm's logits, or (None, why not)."""
    why = "no mode gives mlx-lm's logits"
    for mode in (PAGED, SERIAL, GATHERED):
        try:
            distance = measure(name, mode)
        except Exception as e:          # whatever a model does with what it does not understand
            why = f"{type(e).__name__}: {e}".splitlines()[0]
            continue
        if distance <= LIMIT:
            return mode, distance
    return None, why



_MEANING = {
    PAGED: "straight on pages, sequences batched",
    SERIAL: "straight on pages, one sequence at a time",
    GATHERED: "pages gathered into dense K and V, one sequence at a time",
}


def markdown():
    """The README's tables of architectures: those that run, by mode, and those that are refused."""
    lines = ["| Mode | | Architectures (`model_type`) |", "| --- | --- | --- |"]
    for mode, meaning in _MEANING.items():
        names = sorted((n for n in MODES if MODES[n] == mode), key=str.lower)
        marked = " ".join(f"`{n}`" + ("\\*" if n in METAL_ONLY else "") for n in names)
        lines.append(f"| {mode} ({len(names)}) | {meaning} | {marked} |")
    other = ", ".join(f"`{alias}` (`{name}`)" for alias, name in sorted(zoo.ALIASES.items()) if name in MODES)
    lines += ["", "\\* with Metal only: its layers have no other kernel in mlx-lm.", "",
              f"Other names for some of these: {other}.", "", "Refused by name:", ""]
    return "\n".join(lines + [f"- `{name}`: {why}" for name, why in sorted(REFUSALS.items())])

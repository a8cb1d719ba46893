"""Checks that a format's answers do not depend on the schedule: batch, chunks, preemption, prefix hit, pages on disk."""

import os
import tempfile

import mlx.core as mx
import numpy as np

from ..sequence import SamplingParams
from .formats import REFERENCE
from .metrics import relative
from .teacher import SCORED, Feed, window_tokens

# Relative L2 of logits, by dtype of activations, that the order of sums may make. Where pages are rounded, noise of 1e-6
# can take a number to the next code: what that makes must stay below what rounding itself costs, and below MOST.
MOST = 2e-2
NOISE = {mx.float32: 1e-4, mx.float16: 2e-2, mx.bfloat16: 1e-1}
TOKENS = 12          # generated in each check
SMALL_BUDGET = 64    # tokens of a chunk, where chunks are small


def check_all(validation):
    """[{"format", "check", "ok", "difference", "limit", "detail"}] of every format. difference: the largest relative L2
    distance of the logits of any draw; None where there is nothing to compare."""
    out = []
    for name in validation.plan.formats:
        validation.progress.begin(f"checks, {name}")
        out += Checks(validation, name).run()
        validation.progress.step()
    return out


class Checks:
    """The checks of one format, on three prompts that end just before a page is full."""

    def __init__(self, validation, name):
        self.validation, self.name = validation, name
        self.size = size = validation.base.config.page_size
        self.limit = NOISE[validation.base.dtype]
        tokens, self.length = validation.passages.tokens, 3 * size - 4
        self.prompts = [validation.passages.start + _cut(tokens, i * self.length, self.length) for i in range(3)]

    def run(self):
        roomy = self.validation.engine_of(16, kv=self.name, prefix_cache=False)
        solo = [answer for p in self.prompts for answer in draws(roomy, [p])]
        plain = draws(self.validation.engine_of(16, kv=REFERENCE, prefix_cache=False), self.prompts[:1])
        self.limit = max(self.limit, min(MOST, float(f"{distance(plain[0], solo[0]):.3g}")))
        found = [self._compare("batch against alone", solo, draws(roomy, self.prompts))]
        roomy.scheduler.token_budget = SMALL_BUDGET
        found.append(self._compare(f"chunks of {SMALL_BUDGET} tokens against one", solo[:1], draws(roomy, self.prompts[:1])))
        found += [self._preempted(solo), self._prefix_hit(solo), self._file()]
        return [c for c in found if c]

    def _compare(self, check, wanted, got, detail=""):
        worst = max(distance(a, b) for a, b in zip(wanted, got))
        return self._result(check, worst <= self.limit, worst, detail)

    def _result(self, check, ok, difference, detail):
        rounded = None if difference is None else float(f"{difference:.3g}")
        return {"format": self.name, "check": check, "ok": bool(ok), "difference": rounded,
                "limit": self.limit if difference is not None else None, "detail": detail}

    def _preempted(self, solo):
        """Eight pages for three sequences that come to need nine: the last one loses its pages and is computed again."""
        engine = self.validation.engine_of(8, kv=self.name, prefix_cache=False)
        answers = draws(engine, self.prompts)
        if not engine.preemptions:
            return self._result("preempted against not", False, None, "no sequence was preempted")
        return self._compare("preempted against not", solo, answers, f"{engine.preemptions} preemptions")

    def _prefix_hit(self, solo):
        """The same prompt again, whose pages are still there."""
        engine = self.validation.engine_of(16, kv=self.name, prefix_cache=True)
        if engine.scheduler.cache is None:
            return None                          # models with a recurrent state share no pages
        draws(engine, self.prompts[:1])
        again, request = draws(engine, self.prompts[:1], True)
        cached = request[0].sequence.cached
        if not cached:
            return self._result("prefix hit against cold", False, None, "the prefix was not found")
        return self._compare("prefix hit against cold", solo[:1], again, f"{cached} tokens shared")

    def _file(self):
        """A context's pages go to a file, are zeroed, and come back: the same bits, and the same logits to the bit."""
        engine, context = self.validation.engine_of(16, kv=self.name, prefix_cache=False), 4 * self.size
        window = self.validation.passages.start + _cut(self.validation.passages.tokens, 0, window_tokens(context))
        with Feed(engine, [window], context) as feed:
            feed.prefill()
            before = None if engine.recurrent else np.array(feed.score(0)[:SCORED])
            pages, held = feed.pages_of_context(0), engine.pool.held
            first = held.first if held else 0
            firsts, pages = mx.array([held.slot(p) for p in pages[:first]] if first else [], mx.int32), mx.array(pages[first:])
            places = [(a, p) for x in engine.pool.layers for a, p in ((x.records, pages), *([(x.held.numbers, firsts)] if first else []))]
            kept = [np.array(a[p]) for a, p in places]
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "pages.bin")
                with open(path, "wb") as f:
                    f.writelines(a.tobytes() for a in kept)
                for array, p in places:
                    array[p] = mx.zeros(array[p].shape, array.dtype)
                with open(path, "rb") as f:
                    for (array, p), a in zip(places, kept):
                        array[p] = mx.array(np.frombuffer(f.read(a.nbytes), a.dtype).reshape(a.shape))
            mx.eval(engine.pool.arrays)
            same = all(np.array_equal(np.array(array[p]), a) for (array, p), a in zip(places, kept))
            if before is not None:
                same = same and np.array_equal(np.array(feed.score(0)), before)
        nbytes = sum(a.nbytes for a in kept)
        return self._result("pages to a file and back", same, None, f"{nbytes} bytes, {'bit for bit' if same else 'changed'}")


def _cut(tokens, start, count):
    """count tokens from `start` on; the text goes round where it is too short."""
    return [tokens[(start + i) % len(tokens)] for i in range(count)]


def draws(engine, prompts, with_requests=False):
    """[{position: float32 logits [vocabulary]}] of each prompt, run as one batch, with the tokens that were drawn."""
    seen = {}

    def observer(works, logits):
        for work, row in zip(works, np.array(logits.astype(mx.float32))):
            seen.setdefault(work.sequence.id, {})[work.start + work.count] = row

    engine.runner.observer = observer
    try:
        requests = [engine.add(p, SamplingParams(max_tokens=TOKENS, ignore_eos=True)) for p in prompts]
        while engine.busy:
            engine.step()
    finally:
        engine.runner.observer = None
    found = [(r.sequence.generated, seen[r.sequence.id], r.sequence.num_prompt) for r in requests]
    return (found, requests) if with_requests else found


def distance(a, b):
    """The largest relative L2 distance of two answers' logits, draw by draw, up to where their tokens part."""
    worst = 0.0
    for step in range(len(a[0])):
        worst = max(worst, relative(b[1][b[2] + step], a[1][a[2] + step]))
        if a[0][step] != b[0][step]:
            break
    return worst

"""What the prefix cache saves, and a small serving load: requests that come at random times."""

import random
import statistics
import time

from ..sequence import SamplingParams
from .prompts import prompts

REQUESTS = 16
AT_ONCE = 8
GAP = 0.6            # between requests on average, in times of one request alone: batching has to help


class ServingLoad:
    """engine: idle, its prefix cache on, with room for AT_ONCE requests of pp + tg tokens and two more."""

    def __init__(self, engine, pp, tg):
        self.engine, self.pp, self.tg = engine, pp, tg

    def prefix(self, reps):
        """Seconds to the first token of a prompt of pp tokens, and of others that begin with its first 7/8; medians."""
        cold, hits, cached = [], [], 0
        for seed in range(reps):
            prompt, = prompts(1000 + seed, 1, self.pp, self.engine.vocabulary)
            cold.append(self._first_token(prompt)[0])
            keep = self.pp * 7 // 8
            seconds, cached = self._first_token(prompt[:keep] + [(t + 1) % self.engine.vocabulary for t in prompt[keep:]])
            hits.append(seconds)
        return {"prompt_tokens": self.pp, "cached_tokens": cached, "cold_seconds": statistics.median(cold),
                "hit_seconds": statistics.median(hits), "note": self.engine.uncached}

    def _first_token(self, prompt):
        request = self.engine.add(prompt, SamplingParams(max_tokens=1, ignore_eos=True))
        while not request.first:
            self.engine.step()
        while self.engine.busy:
            self.engine.step()
        self.engine.release(request)
        return request.first - request.added, request.sequence.cached or 0

    def serving(self, seed):
        """REQUESTS prompts of pp / 4 to pp tokens come at random times (exponential gaps) and generate tg / 4 to tg tokens."""
        rng, engine = random.Random(seed), self.engine
        start = time.perf_counter()
        self._run([(0.0, self._prompt(rng), self.tg)])
        gap = (time.perf_counter() - start) * GAP
        arrivals, at = [], 0.0
        for _ in range(REQUESTS):
            arrivals.append((at, self._prompt(rng), rng.randint(max(1, self.tg // 4), self.tg)))
            at += rng.expovariate(1 / gap)
        before = engine.preemptions
        requests, seconds = self._run(arrivals)
        firsts = sorted(r.first - due for r, due in requests)
        paces = sorted((r.done - r.first) / (len(r.sequence.generated) - 1) for r, _ in requests if len(r.sequence.generated) > 1)
        read, written = (sum(x) for x in zip(*((r.sequence.num_prompt, len(r.sequence.generated)) for r, _ in requests)))
        return {"requests": REQUESTS, "at_once": AT_ONCE, "mean_gap_seconds": gap, "seconds": seconds, "prompt_tokens": read, "generated_tokens": written,
                "tps": written / seconds, "total_tps": (read + written) / seconds, "ttft_p50": _share(firsts, 0.5), "ttft_p95": _share(firsts, 0.95),
                "pace_p50": _share(paces, 0.5), "pace_p95": _share(paces, 0.95), "preemptions": engine.preemptions - before}

    def _prompt(self, rng):
        return [rng.randrange(self.engine.vocabulary) for _ in range(rng.randint(max(1, self.pp // 4), self.pp))]

    def _run(self, arrivals):
        """[(request, when it was due)], and seconds until all are done. arrivals: (second, prompt, tokens), in order."""
        engine, start, made = self.engine, time.perf_counter(), []
        while len(made) < len(arrivals) or engine.busy:
            now = time.perf_counter() - start
            while len(made) < len(arrivals) and arrivals[len(made)][0] <= now:
                due, prompt, tokens = arrivals[len(made)]
                made.append((engine.add(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True)), start + due))
            if engine.busy:
                engine.step()
            else:
                time.sleep(max(0.0, min(0.01, arrivals[len(made)][0] - now)))
        seconds = time.perf_counter() - start
        for request, _ in made:
            engine.release(request)
        return made, seconds


def _share(values, share):
    """The value that `share` of the sorted values do not exceed; None where there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None

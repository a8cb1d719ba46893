"""`mlxr validate --logits A B`: how far the logits of two configurations are apart, in prefill and in decoding.

A configuration is `FORMAT`, or settings with semicolons: `kv=q8;backend=reference;dtype=float16;page=32`. Each runs in a
process of its own, since what computes a model is decided when it is loaded.
"""

import json
import os
import subprocess
import sys
import tempfile

import mlx.core as mx
import numpy as np

from ..config import DTYPES, EngineConfig
from ..engine import load_engine
from ..errors import ConfigError, MlxrError
from ..kernels.library import BACKENDS
from . import formats
from .metrics import divergence, log_probabilities
from .teacher import SCORED, Feed, check_context, window_tokens
from .texts import Passages, Text

DECODED = 32       # tokens that are computed one at a time
SETTINGS = {"kv": None, "backend": BACKENDS, "dtype": DTYPES, "page": ("16", "32", "64", "128")}


def parse(text):
    """{"kv", "backend", "dtype", "page"} of a configuration; None where it leaves the choice. Raises ConfigError."""
    found = dict.fromkeys(SETTINGS)
    for piece in (p.strip() for p in text.split(";") if p.strip()):
        name, equals, value = piece.partition("=")
        if not equals or name not in SETTINGS:
            name, value = "kv", piece
        known = SETTINGS[name]
        if found[name] is not None or known and value not in known:
            raise ConfigError(f"--logits {text!r}: {piece!r} is " + (f"no {name}; there are {', '.join(known)}" if known and
                              found[name] is None else "given twice"))
        found[name] = value
    found["kv"] = found["kv"] or formats.REFERENCE
    formats.known(found["kv"])
    found["page"] = int(found["page"] or 64)
    return found


def compare(model, a, b, text, context=512):
    """A report of two configurations (texts, as parse takes them) on one passage of a Text.

    {"a", "b", "prefill", "decode"}; the last two: {"tokens", "max_abs", "mean_abs", "kl", "kl_max", "top1", "relative"}:
    of the last SCORED tokens of the context as they come out of its prefill in chunks, and of DECODED tokens after it,
    computed one at a time. kl in nats, top1 in percent, relative: L2. Raises MlxrError, with what a process said.
    """
    settings = [parse(a), parse(b)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = []
        for i, one in enumerate(settings):
            path = os.path.join(folder, f"{i}.npz")
            _run({**one, "model": str(model), "context": context, "text": [text.name, text.content], "out": path})
            outputs.append(np.load(path))
        return {"a": a, "b": b, "context": context, "text": {"name": text.name, "digest": text.digest},
                **{what: _difference(outputs[0][what], outputs[1][what]) for what in ("prefill", "decode")}}


def _run(job):
    """Run one configuration's process to its end."""
    environment = {**os.environ, **({"MLXR_BACKEND": job["backend"]} if job["backend"] else {})}
    done = subprocess.run([sys.executable, "-m", __name__], input=json.dumps(job), capture_output=True, text=True,
                          env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MlxrError(f"the configuration {_named(job)} failed: {lines[-1]}")


def _named(job):
    return ";".join(f"{n}={job[n]}" for n in SETTINGS if job[n] is not None)


def _difference(a, b):
    p, q = (log_probabilities(mx.array(x)) for x in (a, b))
    kl, away = np.array(divergence(p, q)), np.abs(a.astype(np.float64) - b)
    return {"tokens": len(a), "max_abs": _short(away.max()), "mean_abs": _short(away.mean()), "kl": _short(kl.mean()),
            "kl_max": _short(kl.max()), "top1": _short(100 * (a.argmax(-1) == b.argmax(-1)).mean()),
            "relative": _short(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))}


def _short(x):
    return float(f"{float(x):.4g}")


def outputs(engine, tokens, context):
    """float32 (prefill [min(SCORED, context), vocabulary], decode [DECODED, vocabulary]) of an engine on given tokens."""
    with Feed(engine, [tokens], context) as feed:
        prefill = feed.prefill_logits(0, min(SCORED, context))
        decode = feed.decode(0, DECODED)
    return tuple(np.array(x.astype(mx.float32)) for x in (prefill, decode))


def main():
    """In the child: the job as JSON on standard input."""
    job = json.load(sys.stdin)
    try:
        config = EngineConfig(kv=job["kv"], page_size=job["page"], dtype=job["dtype"], prefix_cache=False,
                              pool_tokens=window_tokens(job["context"]) + job["page"])
        engine = load_engine(job["model"], config)
        check_context(job["context"], engine)
        window = Passages(engine.tokenizer, Text(*job["text"])).windows(window_tokens(job["context"]), 1)[0]
        prefill, decode = outputs(engine, window, job["context"])
        np.savez(job["out"], prefill=prefill, decode=decode)
    except MlxrError as e:
        sys.exit(" ".join(str(e).split()))


if __name__ == "__main__":
    main()

"""`--kv auto`: the smallest page format that a validation of this very model has accepted."""

from dataclasses import replace

from ..errors import ConfigError
from ..weights.locate import locate
from . import formats, store
from .texts import shipped_text
from .validation import Plan, accepted, validate

AUTO = "auto"
FALLBACK = "q8"           # where nothing is known of a model: the most careful of the formats that save memory
PLAIN = "f16"             # where a validation accepted none
QUICK_WINDOWS = 4


def resolve(model, config, may_validate=False, say=None):
    """config with a page format in place of kv "auto"; any other config as it is.

    The smallest format that stored results accept, else, with may_validate, that a quick validation accepts, else
    FALLBACK. say: called with one line that tells which, and why. What is raised is what locate and validate raise, and
    ConfigError for a may_validate that would do nothing.
    """
    if config.kv != AUTO:
        if may_validate:
            raise ConfigError(f"a validation may choose the page format (--kv-auto-validate, kv_auto_validate) with kv {AUTO!r} "
                              f"alone, not with {config.kv!r}")
        return config
    say = say or (lambda line: None)
    path = locate(model)
    key = store.identity(path)
    results = [r for r in store.load(key) if _still_there(r["format"])]
    best = store.smallest_accepted(results, config.page_size)
    if best:
        kv, why = best["format"], f"the smallest format that the validation of {best['time'][:10]} accepted for this model"
        kv_bits = f"{kv} ({best['bits']:.2f} bits)"
    elif may_validate:
        kv, why = _quick(path, key, config, say)
        kv_bits = kv
    else:
        known = any(r["page_size"] == config.page_size for r in results)
        why = ("no smaller format was accepted for this model" if known else "this model was not validated with these pages")
        kv_bits = kv = FALLBACK
        why += "; run `mlxr validate` on it, or allow a quick validation with --kv-auto-validate (kv_auto_validate=True)"
    say(f"kv auto: {kv_bits}, {why}")
    return replace(config, kv=kv)


def _quick(path, key, config, say):
    """(format, why): each format in turn, the smallest first, until one is accepted."""
    text = shipped_text()
    for name in formats.quantized(config.page_size):
        say(f"kv auto: measuring {name} on {QUICK_WINDOWS} windows of text")
        plan = Plan((name,), windows=QUICK_WINDOWS, modes=("in-forward",), streams=(), checks=False, recall=False)
        report = validate(path, plan, text, page_size=config.page_size, dtype=config.dtype)
        store.save(key, report)
        if accepted(report, name):
            row = report["rows"][0]
            return name, (f"{row['bits']:.2f} bits, the smallest format that a quick validation accepted now (perplexity "
                          f"{row['delta_ppl']:+.2f} %, top-1 {row['top1']:.1f} %)")
    return PLAIN, "because a quick validation accepted no smaller format"


def _still_there(name):
    try:
        formats.known(name)
        return True
    except ValueError:
        return False

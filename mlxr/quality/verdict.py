"""The verdict on a page format, from its change of perplexity and its top-1 agreement."""

ACCEPT, MARGINAL, REJECT = "ACCEPT", "MARGINAL", "REJECT"
ACCEPT_DELTA, ACCEPT_TOP1 = 1.0, 95.0        # |change of perplexity| at most, agreement at least; both in percent
REJECT_DELTA, REJECT_TOP1 = 20.0, 75.0       # a rise of this much, or agreement below this


def verdict(delta_ppl, top1):
    """ACCEPT, MARGINAL or REJECT. delta_ppl: change of perplexity in percent; top1: agreement in percent.

    None or NaN (the logits were not numbers) is REJECT.
    """
    if delta_ppl is None or top1 is None or not (delta_ppl < REJECT_DELTA and top1 >= REJECT_TOP1):
        return REJECT
    return ACCEPT if abs(delta_ppl) <= ACCEPT_DELTA and top1 >= ACCEPT_TOP1 else MARGINAL


def worst(verdicts):
    """The worst of some verdicts; None of none."""
    return max(verdicts, key=(ACCEPT, MARGINAL, REJECT).index, default=None)

"""The prompts of the speed benchmark: random tokens, the same ones for every contestant."""

import random

CONTEXT = 10 ** 6      # the seed of the tokens that come before what is measured


def prompts(seed, batch, tokens, vocabulary):
    """`batch` lists of `tokens` token ids below `vocabulary`; each seed gives others, so that nothing can be kept."""
    rng = random.Random(f"{seed}/{batch}/{tokens}")
    return [[rng.randrange(vocabulary) for _ in range(tokens)] for _ in range(batch)]

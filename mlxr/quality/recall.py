"""A recall probe: a fact is planted early in real text and asked for at its end."""

from ..sequence import SamplingParams
from .formats import REFERENCE

# (what is planted, how the answer is begun at the end, what must follow)
FACTS = (
    ("The password of the harbour gate is copper 7391.", "The password of the harbour gate is copper", "7391"),
    ("Remember that the parcel for Miriam is kept in room 482.", "Remember that the parcel for Miriam is kept in room", "482"),
    ("The old mill was sold to a man named Petrovsky.", "The old mill was sold to a man named", "Petrovsky"),
)
DEPTH = 8           # the fact stands after this share (1/8) of the text
TOKENS = 8          # of an answer
CONTEXT = 512       # of a probe, at most


def probe(validation):
    """{"context", "facts", "formats": {name: {"right": facts recalled, "answers": [...]}}}, the reference among them.

    Greedy answers of TOKENS tokens, all facts as one batch through the real engine. A fact that the reference does not
    recall says nothing about a format.
    """
    context = min(CONTEXT, *validation.plan.contexts)
    prompts = [_prompt(validation.passages, validation.base.tokenizer, context, *fact[:2]) for fact in FACTS]
    size = validation.base.config.page_size
    found = {}
    for name in (REFERENCE, *(f for f in validation.plan.formats if f != REFERENCE)):
        validation.progress.begin(f"recall, {name}")
        engine = validation.engine_of(sum((len(p) + TOKENS) // size + 1 for p in prompts), kv=name)
        answers = [engine.tokenizer.decode(tokens) for tokens in _answer(engine, prompts)]
        found[name] = {"right": sum(want in text for text, (_, _, want) in zip(answers, FACTS)), "answers": answers}
        validation.progress.step()
    return {"context": context, "facts": len(FACTS), "formats": found}


def _prompt(passages, tokenizer, context, fact, question):
    """context token ids: text, the fact, text, and the beginning of the fact again."""
    fact, question = (list(tokenizer.encode(t, add_special=False)) for t in (f"\n\n{fact}\n\n", f"\n\n{question}"))
    room = max(8, context - len(fact) - len(question) - len(passages.start))
    text = (passages.tokens * (room // max(1, len(passages.tokens)) + 1))[:room]
    at = room // DEPTH
    return passages.start + text[:at] + fact + text[at:] + question


def _answer(engine, prompts):
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    requests = [engine.add(p, params) for p in prompts]
    while engine.busy:
        engine.step()
    return [r.sequence.generated for r in requests]

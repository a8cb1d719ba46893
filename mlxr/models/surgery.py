"""Changes to a model's modules: here, a head that computes logits only for the rows that are sampled from."""

import mlx.nn as nn

from ..kernels import q_rows


class RowChoice:
    """Which rows the head computes. rows: int32 [S] of `total` flattened tokens, or None for all; used: if it did.

    keep: note its input; kept: that, [S, hidden], of the last call.
    """

    def __init__(self):
        self.rows, self.total, self.used, self.keep, self.kept = None, 0, False, False, None

    def __call__(self, x):
        """x [..., hidden] -> [1, S, hidden]."""
        if self.rows is not None and x.size == self.total * x.shape[-1]:
            self.used = True
            x = q_rows.take(x.reshape(-1, x.shape[-1]), self.rows)[None]
        if self.keep:
            self.kept = x.reshape(-1, x.shape[-1])
        return x


def select_rows(model):
    """Make every output head of `model` apply the returned RowChoice to its input.

    A prefill chunk of 512 tokens needs the logits of its last token at most; the head is a fifth of a small model.
    A model has one RowChoice, however many runners it has: each sets the rows before it calls the model.
    """
    if "row_choice" in model.__dict__:
        return model.row_choice
    choice = RowChoice()
    object.__setattr__(model, "row_choice", choice)      # no parameter, and no module
    for _, module in model.named_modules():
        if hasattr(module, "as_linear"):
            _wrap_instance(module, "as_linear", choice)
    for owner in (m for _, m in model.named_modules()):
        for name in ("lm_head", "embed_out", "output_projection"):
            head = owner.get(name) if isinstance(owner, nn.Module) else None
            if isinstance(head, nn.Module) and not isinstance(head, ChosenRows):
                owner[name] = ChosenRows(head, choice)
    return choice


def _wrap_instance(module, name, choice):
    inner = getattr(module, name)
    object.__setattr__(module, name, lambda x: inner(choice(x)))


class ChosenRows(nn.Module):
    """An output head that computes the chosen rows only."""

    def __init__(self, head, choice):
        super().__init__()
        self.head = head
        object.__setattr__(self, "choice", choice)

    def __call__(self, x):
        return self.head(self.choice(x))

    @property
    def weight(self):
        return self.head.weight

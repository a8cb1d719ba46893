"""Small random models with a tokenizer of bytes, for tests of the quality harness."""

from helpers.tiny import LLAMA, NoText, tiny_model, unpaced
from mlxr.config import EngineConfig
from mlxr.engine import Engine
from mlxr.models.modes import PAGED
from mlxr.quality.texts import Text, shipped_text

WIDE = {**LLAMA, "hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}     # heads of 64


class Bytes(NoText):
    """Every byte is a token, modulo the size of the vocabulary; texts are ASCII."""

    def __init__(self, start=(), size=131):
        self.start, self.size = list(start), size

    def encode(self, text, add_special=True):
        return (self.start if add_special else []) + [b % self.size for b in text.encode()]

    def decode(self, ids):
        return bytes(i for i in ids if i < 128).decode(errors="replace")


def byte_engine(config=LLAMA, mode=PAGED, start=(), scale=2.0, **engine):
    """An engine with f32 pages of 16 tokens and room for one page, as validate() makes its base."""
    settings = {"page_size": 16, "kv": "f32", "token_budget": 128, "pool_tokens": 1, "prefix_cache": False, **engine}
    return unpaced(Engine(tiny_model(config, scale=scale), config, Bytes(start), EngineConfig(**settings), mode))


def broken_engine(**engine):
    """The same of heads of 64, with a NaN among the weights of K in layer 1."""
    settings = {"page_size": 32, "kv": "f32", "pool_bytes": 1 << 22, "prefix_cache": False, **engine}
    model = tiny_model(WIDE)
    model.model.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
    return Engine(model, WIDE, Bytes(), EngineConfig(**settings), PAGED)


def passages_text(characters=4000):
    return Text("a passage", shipped_text().content[:characters])

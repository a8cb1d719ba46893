"""A page format of one's own, in one file: 8-bit codes with one scale a token. Written, registered, measured, used.

    python examples/custom_page_format.py

A format says how the K, and the V, of a page lie in 32-bit words, in plain MLX operations. Without a header of Metal code the
engine computes attention over such pages with MLX's operations, and says so; see mlxr/docs/extending.md for the rest.
"""

import argparse
from typing import ClassVar

import mlxr  # noqa: F401  (before mlx: it decides which BLAS a CPU uses)
import mlx.core as mx

from mlxr import LLM, SamplingParams
from mlxr.pages.encoding import Encoding
from mlxr.pages.formats import page_format, register
from mlxr.pages.record import half_words, halves, pack, unpack


class Symmetric(Encoding):
    """code = round(x / scale) + 128, scale = max |x| / 127 of a token. Words: codes [page][d / 4], then scales [page / 2]."""

    name: ClassVar[str] = "sym8"

    def words(self, page, d):
        return page * d // 4 + page // 2

    def encode(self, x):
        scale = mx.maximum(mx.abs(x).max(axis=-1) / 127, 1e-6).astype(mx.float16)
        codes = (mx.clip(mx.round(x / scale[..., None].astype(mx.float32)), -127, 127) + 128).astype(mx.uint32)
        return mx.concatenate([pack(codes, 8).reshape(*x.shape[:-2], -1), half_words(scale)], axis=-1)

    def decode(self, words, page, d):
        codes, scales = mx.split(words, [page * d // 4], axis=-1)
        return (unpack(codes, 8).astype(mx.float32) - 128).reshape(*words.shape[:-1], page, d) * halves(scales)[..., None]


class K(Symmetric):
    kind = "K"


class V(Symmetric):
    kind = "V"


register("sym8", k=K, v=V)

parser = argparse.ArgumentParser()
parser.add_argument("--model")
args = parser.parse_args()

mx.random.seed(0)
k, v = (mx.random.normal((1, 64, 64)) for _ in range(2))                        # one page of one head
mine = page_format("sym8")
for x, again in zip((k, v), mine.decode(mine.encode(k, v), 64, 64, 64)):
    print(f"relative error {(mx.linalg.norm((again - x).reshape(-1)) / mx.linalg.norm(x.reshape(-1))).item():.4f}, "
          f"{mine.bits_per_element(64, 64, 64):.2f} bits an element")

text = "Pages are sealed once and never change. " * 8 + "A page"
outputs = {}
for kv in ("f16", "sym8"):
    with LLM(args.model, kv=kv, context=512) as llm:
        outputs[kv] = llm.generate(text, SamplingParams(max_tokens=12)).text
        print(f"{kv:5s} {llm.info['kv_bytes_per_token']:.0f} bytes a token: {outputs[kv]!r}")

"""The vocabulary in a GGUF file: byte-level BPE ("gpt2"), BPE on characters ("gemma4"), sentencepiece ("llama")."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from ..errors import TokenizerError, WeightsError
from .pretokenizers import pre_tokenizer
from .sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieceEncoder, model_proto
from .stream import SPACE_MARK, TokenBytes, byte_fallback_bytes, byte_level_bytes
from .vocab import END_OF_TURN, Vocabulary, end_tokens
from ..weights.gguf_header import Strings, read_header
from ..weights.gguf_split import first_part

_DEFAULT_IDS = {"gpt2": {}, "gemma4": {}, "llama": {"bos": 1, "eos": 2, "unknown": 0}}


def load_gguf(path: Path) -> Vocabulary:
    """Raises TokenizerError, naming the file, for a vocabulary that is missing, inconsistent or of another kind."""
    try:
        return _Reader(read_header(first_part(path)).metadata).vocabulary(path.name)
    except WeightsError as error:
        raise TokenizerError(str(error)) from None
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if message.startswith(path.name) else f"{path.name}: {message}") from None


class FastEncoder:
    """Ids by the tokenizers library."""

    def __init__(self, fast: FastTokenizer):
        self.fast = fast

    def encode(self, text: str) -> list[int]:
        # As a batch of one: `encode` keeps all other threads of Python waiting, which are those that generate.
        return self.fast.encode_batch_fast([text], add_special_tokens=False)[0].ids


class _Reader:
    """Takes the vocabulary out of the metadata, checking each part."""

    def __init__(self, metadata: dict[str, Any]):
        self._metadata = metadata
        self.model = self.get("model", str)
        if self.model is None:
            raise TokenizerError("it has no vocabulary (tokenizer.ggml.model is absent)")
        if self.model not in _DEFAULT_IDS:
            raise TokenizerError(f"tokenizer.ggml.model is {self.model!r}; supported are gpt2, gemma4 and llama")
        self.tokens = self.strings("tokens")
        if not self.tokens:
            raise TokenizerError("it has no vocabulary (tokenizer.ggml.tokens is absent or empty)")
        self.types = self.token_types()
        self.ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        for name in END_OF_TURN & self.ids.keys():  # some files call these normal tokens
            if self.types[self.ids[name]] != USER_DEFINED:
                self.types[self.ids[name]] = CONTROL
        marks = (CONTROL, UNKNOWN, USER_DEFINED)  # what is looked for in the text before it is split
        self.marked = {index: kind for index, kind in enumerate(self.types) if kind in marks}

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        value = self._metadata.get("tokenizer.ggml." + key, default)
        if value is not None and type(value) is not kind:
            raise TokenizerError(f"tokenizer.ggml.{key} must be {kind.__name__}, it is {type(value).__name__}")
        return value

    def strings(self, key: str) -> list[str]:
        """An array of strings, empty where it is absent. Most of the time of loading goes here: keep it lean."""
        values = self.get(key, Strings)
        if values is None:
            return []
        raw = values.raw
        try:
            return [str(raw(index), "utf-8") for index in range(len(values))]
        except UnicodeDecodeError:
            raise TokenizerError(f"tokenizer.ggml.{key} has a string that is not UTF-8") from None

    def numbers(self, key: str, kinds: str) -> np.ndarray:
        """An array with one number for each token. kinds: the NumPy kinds that its numbers may be of."""
        values = self._metadata.get("tokenizer.ggml." + key)
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens) or values.dtype.kind not in kinds:
            raise TokenizerError(f"tokenizer.ggml.{key} must be an array with one number for each of the "
                                 f"{len(self.tokens)} tokens")
        return values

    def token_types(self) -> list[int]:
        if "tokenizer.ggml.token_type" not in self._metadata:
            return [NORMAL] * len(self.tokens)
        types = self.numbers("token_type", "iu")
        if ((types < 0) | (types > BYTE)).any():
            raise TokenizerError(f"tokenizer.ggml.token_type has numbers outside 0 to {BYTE}")
        return np.where(types == 0, NORMAL, types).tolist()  # 0 says nothing

    def scores(self) -> list[float]:
        values = self.numbers("scores", "iuf").astype(np.float32)
        if np.isnan(values).any():
            raise TokenizerError("tokenizer.ggml.scores has values that are not numbers")
        return values.tolist()

    def token_id(self, name: str) -> int | None:
        """Id under tokenizer.ggml.<name>_token_id, or the model kind's default."""
        token = self.get(f"{name}_token_id", int, _DEFAULT_IDS[self.model].get(name))
        if token is None or token == 0xFFFFFFFF:
            return None
        if not 0 <= token < len(self.tokens):
            raise TokenizerError(f"tokenizer.ggml.{name}_token_id is {token}, outside the {len(self.tokens)} tokens")
        return token

    def vocabulary(self, where: str) -> Vocabulary:
        bos, eos = self.token_id("bos"), self.token_id("eos")
        if self.model in ("gpt2", "gemma4"):
            encoder: Any
            encoder, add_bos, strip_space = *self.bpe(), False
            convert = byte_level_bytes if self.model == "gpt2" else byte_fallback_bytes
        else:
            encoder, add_bos, strip_space = *self.sentencepiece(where), bool(self.get("add_space_prefix", bool, True))
            convert = byte_fallback_bytes
        add_bos = self.get("add_bos_token", bool, add_bos)
        add_eos = self.get("add_eos_token", bool, False)
        special = frozenset(index for index, kind in self.marked.items() if kind != USER_DEFINED)
        verbatim = frozenset(self.marked)
        tokens = self.tokens
        text_of = lambda token: tokens[token] if 0 <= token < len(tokens) else None  # noqa: E731
        ends = [eos, self.token_id("eot"), self.token_id("eom")]
        named = {"bos": bos, "eos": eos, "unk": self.token_id("unknown"), "pad": self.token_id("padding")}
        return Vocabulary(
            encoder=encoder, size=len(tokens), text_of=text_of, token_bytes=TokenBytes(text_of, convert, verbatim),
            special_ids=special, prefix=(bos,) if add_bos and bos is not None else (),
            suffix=(eos,) if add_eos and eos is not None else (), strip_space=strip_space, bos_id=bos,
            eos_ids=end_tokens(ends, lambda name: self.ids.get(name) if self.ids.get(name) in verbatim else None),
            chat_templates=self.chat_templates(),
            template_tokens={f"{name}_token": tokens[token] for name, token in named.items() if token is not None},
        )

    def bpe(self) -> tuple[FastEncoder, bool]:
        if "tokenizer.ggml.merges" not in self._metadata:
            raise TokenizerError(f"a {self.model} vocabulary needs tokenizer.ggml.merges")
        pre = pre_tokenizer(self.get("pre", str, "default")) if self.model == "gpt2" else None
        options = {"ignore_merges": pre.ignore_merges} if pre else {"byte_fallback": True}
        try:
            pairs: Any = [tuple(merge.split(" ", 1)) for merge in self.strings("merges")]
            fast = FastTokenizer(BPE(vocab=self.ids, merges=pairs, **options))
        except Exception as error:  # the library raises Exception itself for a merge outside the vocabulary
            reason = " ".join(str(error).split())[:160]
            raise TokenizerError(f"tokenizer.ggml.merges do not fit the tokens: {reason}") from None
        if pre:
            fast.pre_tokenizer = pre.build()
        else:  # characters with U+2581 for the space, cut at newlines alone
            fast.normalizer = normalizers.Replace(" ", SPACE_MARK)
            fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
        strip = self.strip_after()
        fast.add_tokens([
            AddedToken(self.tokens[index], special=kind != USER_DEFINED, normalized=False,
                       rstrip=self.tokens[index] in strip)
            for index, kind in self.marked.items() if self.tokens[index]
        ])
        return FastEncoder(fast), pre is None or pre.add_bos

    def proto(self) -> bytes:
        """The sentencepiece model that the tokens, scores and types stand for."""
        unknown = self.token_id("unknown")
        if unknown is None:
            raise TokenizerError("a llama vocabulary needs tokenizer.ggml.unknown_token_id")
        types = [NORMAL if kind == UNKNOWN else kind for kind in self.types]
        types[unknown] = UNKNOWN  # the library wants exactly one
        if sum(kind == BYTE for kind in types) not in (0, 256):
            raise TokenizerError("tokenizer.ggml.token_type marks some bytes as tokens, but not all 256")
        return model_proto(self.tokens, self.scores(), types,
                           add_dummy_prefix=bool(self.get("add_space_prefix", bool, True)))

    def sentencepiece(self, where: str) -> tuple[SentencePieceEncoder, bool]:
        specials = {self.tokens[index]: index for index in self.marked if self.tokens[index]}
        encoder = SentencePieceEncoder(self.proto(), specials, where=where, prefix_after_special=True,
                                       strip_after=self.strip_after())
        return encoder, True

    def strip_after(self) -> frozenset[str]:
        """Phi-3's special tokens take the white space behind them along, which the format has no field for."""
        name = str(self._metadata.get("general.name", "")).lower()
        if "phi-3" not in name and "phi3" not in name:
            return frozenset()
        return frozenset(self.tokens[index] for index in self.marked) - {"<unk>", "<s>", "<|endoftext|>"}

    def chat_templates(self) -> dict[str, str]:
        found = {}
        for key, value in self._metadata.items():
            if key == "tokenizer.chat_template":
                found["default"] = value
            elif key.startswith("tokenizer.chat_template."):
                found[key.removeprefix("tokenizer.chat_template.")] = value
        if not all(isinstance(template, str) for template in found.values()):
            raise TokenizerError("tokenizer.chat_template must be text")
        return found

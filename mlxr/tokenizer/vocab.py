"""What a loader found out about a tokenizer, and which tokens end a turn."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import TokenizerError
from .stream import TokenBytes

# Tokens that end a turn or a text in the models that use them, whatever the configuration says.
END_OF_TURN = frozenset(
    """<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> <|eom_id|>
    <EOT> _<EOT> <|end_of_text|> <turn|> </s> <eos> [EOS] [EOT]
    <|tool_response> <end_of_utterance> <\uff5cend\u2581of\u2581sentence\uff5c>""".split()
)
# Fill-in-the-middle tokens after which a model has nothing more to say about this file.
END_OF_FILE = frozenset(
    """<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD] <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>
    <|file_sep|>""".split()
)


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens parsed, nothing added in front or behind."""


@dataclass(frozen=True)
class Vocabulary:
    """Filled by folder.py or gguf.py, used by Tokenizer."""

    encoder: Encoder
    size: int  # ids are 0 .. size-1
    text_of: Callable[[int], str | None]
    token_bytes: TokenBytes
    special_ids: frozenset[int]  # control tokens: what `skip_special` leaves out
    prefix: tuple[int, ...]  # put in front by add_special (BOS), and behind (EOS)
    suffix: tuple[int, ...]
    strip_space: bool  # encoding puts a space in front of the text, so decoding removes it
    bos_id: int | None
    eos_ids: frozenset[int]
    chat_templates: dict[str, str] = field(default_factory=dict)  # by name; "default" is the usual one
    template_tokens: dict[str, str] = field(default_factory=dict)  # bos_token, eos_token, ... as templates name them


def end_tokens(declared: Iterable[int | None], id_of: Callable[[str], int | None]) -> frozenset[int]:
    """Ids that end generation: those declared, and the well-known ones that `id_of` knows as special tokens."""
    stated = frozenset(token for token in declared if token is not None)
    known = {name: token for name in END_OF_TURN if (token := id_of(name)) is not None}
    # In the harmony and solar formats <|end|> closes one channel of a turn, not the turn.
    calls = {"<|call|>", "<|calls|>"} & known.keys()
    if calls and {"<|return|>", "<|flush|>"} & known.keys():
        known.pop("<|end|>", None)
    known.update({name: token for name in END_OF_FILE if (token := id_of(name)) is not None})
    return stated | frozenset(known.values())


def ids_in(value: object, where: str) -> list[int]:
    """An eos_token_id as configurations write it: absent, one id, or a list of ids."""
    if value is None:
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in values):
        raise TokenizerError(f"{where}: token ids must be non-negative integers, found {str(value)[:60]!r}")
    return list(values)

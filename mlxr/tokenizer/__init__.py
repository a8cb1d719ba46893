"""Text to token ids and back: encode, decode, stream, and chat templates, for model folders and GGUF files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError, TokenizerError
from .chat_messages import check_messages, check_values
from .folder import load_folder
from .gguf import load_gguf
from .stream import TextStream, decode_all
from .vocab import Vocabulary

_NOTHING: frozenset[int] = frozenset()


class ChatIds(list):
    """Token ids of a rendered chat. What follows them is a text of its own, not the rest of a sentence."""


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer of a model folder or of a .gguf file. Raises TokenizerError."""
    path = Path(path)
    if path.is_dir():
        return Tokenizer(load_folder(path))
    if path.is_file():
        return Tokenizer(load_gguf(path))
    raise TokenizerError(f"{path}: no such folder or .gguf file")


class Tokenizer:
    """Immutable but for caches, so threads may share one. Ids are plain ints, 0 .. vocab_size-1."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._templates: dict[str, Any] = {}  # source -> compiled
        self.bos_id: int | None = vocabulary.bos_id
        self.eos_ids: frozenset[int] = vocabulary.eos_ids
        self.special_ids: frozenset[int] = vocabulary.special_ids
        self.vocab_size: int = vocabulary.size

    @property
    def chat_template(self) -> str | None:
        """Source of the usual chat template, if the model has one."""
        return self._vocabulary.chat_templates.get("default")

    @property
    def chat_templates(self) -> dict[str, str]:
        """All templates of the model, by name."""
        return dict(self._vocabulary.chat_templates)

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of a text. Special tokens written in it become their single id.

        add_special: put BOS in front and EOS behind where the tokenizer's files say so.
        Raises RequestError when the text is not a str.
        """
        ids = self._vocabulary.encoder.encode(_clean(text))
        return [*self._vocabulary.prefix, *ids, *self._vocabulary.suffix] if add_special else ids

    def decode(self, ids: Iterable[int], skip_special: bool = False, continues: bool = False) -> str:
        """Text of a sequence of ids; bytes that are not UTF-8 come out as U+FFFD, unknown ids as nothing.

        skip_special: leave control tokens out.
        continues: the ids go on from earlier text, so the space in front of the first one is meant.
        """
        skipped = self.special_ids if skip_special else _NOTHING
        return decode_all(self._vocabulary.token_bytes, ids, skipped, self._vocabulary.strip_space and not continues)

    def stream(self, skip_special: bool = False, continues: bool = False) -> TextStream:
        """A TextStream; its pieces together are what `decode` with the same options gives."""
        skipped = self.special_ids if skip_special else _NOTHING
        return TextStream(self._vocabulary.token_bytes, skipped, self._vocabulary.strip_space and not continues)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; a special token stands for its text."""
        return self._vocabulary.token_bytes[token]

    def token_text(self, token: int) -> str:
        """The bytes as text, U+FFFD for part of a character: for showing a token to people."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def render_chat(self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True,
                    tools: Sequence[Mapping] | None = None, documents: Sequence[Mapping] | None = None,
                    chat_template: str | None = None, **variables: Any) -> str:
        """The prompt that the chat template makes of the messages.

        messages: dicts with "role" and "content" (text, or a list of text parts).
        tools, documents: lists of objects; variables: what else the template reads; all JSON values.
        chat_template: source to use instead of the model's own, or the name of one of the model's.
        Raises RequestError for messages that are malformed or that the template refuses; TokenizerError where there
        is no template, or it is wrong or takes too long.
        """
        messages = check_messages(messages)
        values = check_values({"tools": tools, "documents": documents, **variables})
        template = self._compiled(self._template_source(chat_template, bool(tools)))
        return template.render(
            {**self._vocabulary.template_tokens, "messages": messages, **values,
             "add_generation_prompt": add_generation_prompt})

    def encode_chat(self, messages: Sequence[Mapping], **options: Any) -> ChatIds:
        """Ids of the rendered chat; options as for `render_chat`.

        Where the tokenizer adds a BOS, there is exactly one, whether or not the template writes it.
        """
        ids = self.encode(self.render_chat(messages, **options), add_special=False)
        prefix = list(self._vocabulary.prefix)
        return ChatIds(ids if ids[: len(prefix)] == prefix else prefix + ids)

    def _template_source(self, chosen: str | None, with_tools: bool) -> str:
        named = self._vocabulary.chat_templates
        if chosen is not None:
            return named.get(chosen, chosen)
        if with_tools and "tool_use" in named:
            return named["tool_use"]
        if "default" in named:
            return named["default"]
        if named:
            raise TokenizerError(f"this model has no default chat template; choose one of {', '.join(sorted(named))} "
                                 "with --chat-template")
        raise TokenizerError("this model has no chat template; use --raw for a plain prompt, or give a template "
                             "with --chat-template")

    def _compiled(self, source: str) -> Any:
        template = self._templates.get(source)
        if template is None:
            from .chat_template import ChatTemplate  # jinja2 takes 50 ms to import, and plain prompts need none of it

            if len(self._templates) > 16:
                self._templates.clear()
            template = self._templates[source] = ChatTemplate(source)
        return template


def _clean(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and UTF-8 cannot, as U+FFFD."""
    if not isinstance(text, str):
        raise RequestError(f"a prompt must be text, not {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

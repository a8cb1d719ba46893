"""The tokenizer in a model folder: tokenizer.json, or sentencepiece's tokenizer.model, and the files around them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from ..errors import TokenizerError
from .gguf import FastEncoder
from .sentencepiece import SentencePieceEncoder
from .stream import SPACE_MARK, TokenBytes, byte_fallback_bytes, byte_level_bytes, spaced_bytes
from .vocab import Vocabulary, end_tokens, ids_in

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def load_folder(path: Path) -> Vocabulary:
    """Raises TokenizerError, naming the file, for a folder without a tokenizer or with one that cannot be used."""
    settings = _Settings(path)
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json", settings)
    if (path / "tokenizer.model").is_file():
        return _from_sentencepiece(path / "tokenizer.model", settings)
    raise TokenizerError(f"{path}: no tokenizer.json and no tokenizer.model in this folder")


def _read_json(path: Path) -> dict:
    """Contents of a file with one JSON object; {} if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON
        raise TokenizerError(f"{path}: not valid JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: must hold a JSON object, not a {type(content).__name__}")
    return content


def _content(token: Any, where: Path) -> str | None:
    """Text of a special token, written as text or as {"content": text}."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise TokenizerError(f"{where}: a special token must be text, found {str(token)[:60]!r}")
    return token


class _Settings:
    """What the configuration files around the vocabulary say."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tokenizer = _read_json(folder / "tokenizer_config.json")
        self.model = _read_json(folder / "config.json")
        self.generation = _read_json(folder / "generation_config.json")
        special_map = _read_json(folder / "special_tokens_map.json")
        where = folder / "tokenizer_config.json"
        self.named = {}
        for name in _NAMED:
            text = _content(self.tokenizer.get(name, special_map.get(name)), where)
            if text is not None:
                self.named[name] = text
        self.added = self._added_tokens(where)
        self.chat_templates = self._chat_templates(where)

    def flag(self, name: str, default: bool) -> bool:
        value = self.tokenizer.get(name)
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(f"{self.folder / 'tokenizer_config.json'}: {name} must be true or false")
        return default if value is None else value

    def id_from_configs(self, name: str) -> int | None:
        """The first id under e.g. bos_token_id in config.json or generation_config.json."""
        ids = ids_in(self.model.get(name), f"config.json: {name}")
        ids += ids_in(self.generation.get(name), f"generation_config.json: {name}")
        return ids[0] if ids else None

    def end_ids(self) -> list[int]:
        text_config = self.model.get("text_config")
        sources = [("generation_config.json", self.generation), ("config.json", self.model),
                   ("config.json: text_config", text_config if isinstance(text_config, dict) else {})]
        return [token for name, source in sources
                for token in ids_in(source.get("eos_token_id"), f"{self.folder / name}: eos_token_id")]

    def _added_tokens(self, where: Path) -> dict[int, AddedToken]:
        found = {}
        for text, token in _read_json(self.folder / "added_tokens.json").items():
            for index in ids_in(token, f"{self.folder / 'added_tokens.json'}"):
                found[index] = AddedToken(text, special=text in self.named.values(), normalized=False)
        entries = self.tokenizer.get("added_tokens_decoder") or {}
        if not isinstance(entries, dict):
            raise TokenizerError(f"{where}: added_tokens_decoder must be an object")
        for token, entry in entries.items():
            text = _content(entry, where)
            if not token.isdecimal() or text is None:
                raise TokenizerError(f"{where}: added_tokens_decoder must map ids to tokens, found {token[:40]!r}")
            flags = entry if isinstance(entry, dict) else {}
            options = {name: bool(flags[name]) for name in ("lstrip", "rstrip", "normalized", "single_word", "special")
                       if name in flags}
            found[int(token)] = AddedToken(text, **options)
        return dict(sorted(found.items()))

    def _chat_templates(self, where: Path) -> dict[str, str]:
        """Files of their own come before what tokenizer_config.json holds."""
        found = {}
        if (self.folder / "chat_template.jinja").is_file():
            found["default"] = self._template_file(self.folder / "chat_template.jinja")
        for extra in sorted(self.folder.glob("additional_chat_templates/*.jinja")):
            found[extra.stem] = self._template_file(extra)
        if found:
            return found
        stated = (_read_json(self.folder / "chat_template.json").get("chat_template")
                  or self.tokenizer.get("chat_template"))
        if isinstance(stated, list):
            entries = [entry if isinstance(entry, dict) else {} for entry in stated]
            stated = {entry.get("name"): entry.get("template") for entry in entries}
        if isinstance(stated, str):
            stated = {"default": stated}
        stated = stated or {}
        if not isinstance(stated, dict) or not all(isinstance(part, str) for item in stated.items() for part in item):
            raise TokenizerError(f"{where}: chat_template must be text, or a list of templates with name and template")
        return stated

    @staticmethod
    def _template_file(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: cannot be read as text: {error}") from None


def _load_fast(path: Path, settings: _Settings) -> FastTokenizer:
    try:
        fast = FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise TokenizerError(f"{path}: not a usable tokenizer: {' '.join(str(error).split())[:160]}") from None
    fast.no_truncation()
    fast.no_padding()
    present = fast.get_added_tokens_decoder()
    for token, entry in settings.added.items():
        if token in present:
            continue
        fast.add_tokens([entry])
        if fast.token_to_id(entry.content) != token:
            raise TokenizerError(f"{path.parent}: tokenizer_config.json gives {entry.content!r} the id {token}, "
                                 f"tokenizer.json has {fast.token_to_id(entry.content)}")
    return fast


def _from_json(path: Path, settings: _Settings) -> Vocabulary:
    fast = _load_fast(path, settings)
    added = fast.get_added_tokens_decoder()
    special = frozenset(token for token, entry in added.items() if entry.special)
    convert, strip_space = _decoding(fast, path)
    bos = _named_id("bos_token", settings, fast.token_to_id, path)
    eos = _named_id("eos_token", settings, fast.token_to_id, path)
    if fast.post_processor is not None:  # then it alone decides what is added
        prefix, suffix = _affixes(fast)
    else:
        prefix = (bos,) if settings.flag("add_bos_token", False) and bos is not None else ()
        suffix = (eos,) if settings.flag("add_eos_token", False) and eos is not None else ()
    text_of = lambda token: fast.id_to_token(token) if token >= 0 else None  # noqa: E731
    return Vocabulary(
        encoder=FastEncoder(fast), size=max([fast.get_vocab_size(), *(token + 1 for token in added)]), text_of=text_of,
        token_bytes=TokenBytes(text_of, convert, frozenset(added)), special_ids=special, prefix=prefix, suffix=suffix,
        strip_space=strip_space, bos_id=bos,
        eos_ids=end_tokens([*settings.end_ids(), eos],
                           lambda name: token if (token := fast.token_to_id(name)) in added else None),
        chat_templates=settings.chat_templates, template_tokens=settings.named,
    )


def _named_id(name: str, settings: _Settings, id_of, path: Path) -> int | None:
    """Id of bos_token or eos_token, by its text, else as config.json says."""
    text = settings.named.get(name)
    if text is None:
        return settings.id_from_configs(name + "_id")
    token = id_of(text)
    if token is None:
        raise TokenizerError(f"{path}: {name} is {text!r}, which is not in the vocabulary")
    return token


def _affixes(fast: FastTokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the post-processor puts in front of a text and behind it."""
    plain = fast.encode("a", add_special_tokens=False).ids
    full = fast.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start]), tuple(full[start + len(plain) :])
    return (), ()


def _decoding(fast: FastTokenizer, path: Path):
    """How pieces become bytes, and whether a leading space is dropped, from the tokenizer's decoder."""
    decoder: dict[str, Any] = json.loads(fast.decoder.__getstate__()) if fast.decoder is not None else {"type": "none"}
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_bytes, False
    strip, known = False, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    for step in steps:
        if step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": SPACE_MARK}, " "):
            known.discard("Replace")
        elif step["type"] == "Metaspace":
            strip = step.get("prepend_scheme", "always") != "never"
            if step.get("replacement", SPACE_MARK) != SPACE_MARK:
                known.discard("Metaspace")
        elif step["type"] == "Strip":
            strip = True
            if (step["content"], step["start"], step["stop"]) != (" ", 1, 0):
                known.discard("Strip")
    if not set(kinds) <= known or not {"Replace", "Metaspace"} & set(kinds):
        raise TokenizerError(f"{path}: decoder {' + '.join(kinds)} is not supported; ByteLevel and Metaspace or "
                             "Replace + ByteFallback + Fuse are")
    return (byte_fallback_bytes if "ByteFallback" in kinds else spaced_bytes), strip


def _from_sentencepiece(path: Path, settings: _Settings) -> Vocabulary:
    try:
        proto = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror or error}") from None
    added = {entry.content: token for token, entry in settings.added.items()}
    probe = SentencePieceEncoder(proto, {}, where=str(path), prefix_after_special=True).processor
    size = probe.vocab_size()
    pieces = {probe.id_to_piece(token): token for token in range(size) if probe.is_control(token)}
    specials = {**pieces, **added}
    encoder = SentencePieceEncoder(proto, specials, where=str(path), prefix_after_special=settings.flag("legacy", True))
    texts = {token: text for text, token in specials.items()}

    def text_of(token: int) -> str | None:
        return texts.get(token) or (probe.id_to_piece(token) if 0 <= token < size else None)

    def id_of(text: str) -> int | None:
        token = specials.get(text, probe.piece_to_id(text))
        return token if text_of(token) == text else None

    plain = {token for token, entry in settings.added.items() if not entry.special}
    bos = _named_id("bos_token", settings, id_of, path) if "bos_token" in settings.named else _or_none(probe.bos_id())
    eos = _named_id("eos_token", settings, id_of, path) if "eos_token" in settings.named else _or_none(probe.eos_id())
    known = (("bos_token", bos), ("eos_token", eos))
    named = {name: text for name, token in known if token is not None and (text := text_of(token)) is not None}
    return Vocabulary(
        encoder=encoder, size=max([size, *(token + 1 for token in texts)]), text_of=text_of,
        token_bytes=TokenBytes(text_of, byte_fallback_bytes, frozenset(texts)),
        special_ids=frozenset(texts) - plain | {probe.unk_id()},
        prefix=(bos,) if settings.flag("add_bos_token", True) and bos is not None else (),
        suffix=(eos,) if settings.flag("add_eos_token", False) and eos is not None else (),
        strip_space=encoder.adds_space, bos_id=bos, eos_ids=end_tokens([*settings.end_ids(), eos], specials.get),
        chat_templates=settings.chat_templates,
        template_tokens={**named, **settings.named},
    )


def _or_none(token: int) -> int | None:
    return token if token >= 0 else None

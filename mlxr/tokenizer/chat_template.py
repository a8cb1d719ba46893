"""Renders chat templates as transformers does, in jinja2's sandbox, with limits on time and memory (chat_budget)."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .chat_budget import BUDGET, Budget, LimitExceeded
from ..errors import RequestError, TokenizerError

_MAX_SOURCE = 1 << 18  # characters; templates in use have up to 30,000
_BASE_WORK = 1 << 26  # characters a rendering may make on its way, plus 64 times the input
# Costly, and no template needs them.
_UNUSED_FILTERS = ("urlize", "striptags", "xmlattr", "wordwrap", "pprint", "random")
# Text and numbers made of others by a table, and bytes: ways around the limits, and no template needs them.
_UNUSED_METHODS = frozenset(["translate", "maketrans", "encode", "to_bytes", "from_bytes"])
# Filters that look at the value but do not turn it into text.
_STRUCTURAL = frozenset(
    """length count first last select selectattr reject rejectattr map list items default d sort unique groupby
    batch slice reverse attr min max sum dictsort abs round int float""".split()
)


class _Refused(Exception):
    """raise_exception() in a template: the messages do not fit it."""


class _Generation(Extension):
    """{% generation %} marks the assistant's text for training; here its body is simply rendered."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Watched(NodeTransformer):
    """Puts a question to the budget into every loop turn, concatenation and list."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_ask("tick")).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _ask("join_text", *node.nodes).set_lineno(node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node, [pair.value for pair in node.items])

    def _made(self, node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Node:
        if all(isinstance(part, nodes.Const) for part in parts):
            return node
        self.generic_visit(node)
        return _ask("made", node).set_lineno(node.lineno)


def _ask(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


class _Namespace(Namespace):
    """namespace(), without a text form of its own, and without names that begin with an underscore."""

    def __init__(*arguments: Any, **values: Any):
        self, attributes = arguments[0], dict(*arguments[1:], **values)
        for name in attributes:
            _Namespace._check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {str(name)[:40]!r}")

    def __repr__(self) -> str:
        return "<namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with a budget. Attributes named in _ask are functions of the environment."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols],
                         finalize=_finalize, optimized=False)
        self.concat = _concat
        self.tick, self.join_text, self.made = _tick, _join_text, _made
        for name in _UNUSED_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["tojson"] = _tojson
        for name, function in self.filters.items():
            self.filters[name] = _guarded(name, function)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace,
                            dict=_make_dict)

    def call_binop(self, context, operator, left, right):
        BUDGET.get().operator(operator, left, right)
        return BUDGET.get().made(super().call_binop(context, operator, left, right))

    def call(__self, __context, __function, *arguments, **values):  # the names a template cannot collide with
        arguments = _before_call(__function, arguments, values)
        return _made(super().call(__context, __function, *arguments, **values))

    def is_safe_attribute(self, value: Any, name: str, found: Any) -> bool:
        return name not in _UNUSED_METHODS and super().is_safe_attribute(value, name, found)

    def unsafe_undefined(self, value: Any, name: str) -> Undefined:
        """Refused at once; by default it would pass for undefined until it is used."""
        raise jinja2.exceptions.SecurityError(f"{name!r} of a {type(value).__name__} is unsafe")

    def wrap_str_format(self, value: Any) -> Callable | None:
        formatter = super().wrap_str_format(value)
        if formatter is None:
            return None
        text = value.__self__

        def checked(*arguments: Any, **values: Any) -> str:
            BUDGET.get().formatting(str(text), [*arguments, *values.values()])
            return formatter(*arguments, **values)

        return checked


def _before_call(function: Callable, arguments: tuple, values: dict) -> tuple:
    """Arguments to call with, after a look at what methods of text will make of them."""
    budget = BUDGET.get()
    budget.spend()
    text = getattr(function, "__self__", None)
    if not isinstance(text, str):
        return arguments
    budget.padding([*arguments, *values.values()])
    name = function.__name__
    if name == "replace" and len(arguments) >= 2:
        budget.replacing(text, *arguments[:2])
    elif name == "join" and len(arguments) == 1:
        arguments = (_listed(arguments[0]),)
        budget.joining(text, arguments[0])
    elif name == "expandtabs":
        width = arguments[0] if arguments else values.get("tabsize", 8)
        budget.text_of(len(text) + text.count("\t") * max(width, 0))
    return arguments


def _guarded(name: str, function: Callable) -> Callable:
    """A filter that asks the budget before it runs and for what it made. Jinja's marks (pass_context, ...) stay."""
    skip = 1 if getattr(function, "jinja_pass_arg", None) else 0  # context or environment come first

    @wraps(function)
    def guarded(*arguments: Any, **values: Any) -> Any:
        budget = BUDGET.get()
        front, value, rest = list(arguments[:skip]), arguments[skip], list(arguments[skip + 1 :])
        options = [*rest, *values.values()]
        if name not in ("default", "d"):
            budget.padding(option for option in options if name != "format")
        if name == "join":
            value = _listed(value)
            budget.joining(rest[0] if rest else values.get("d", ""), value)
        elif name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
            raise LimitExceeded("it sums lists or text; use the join filter")
        elif name not in _STRUCTURAL:
            budget.text_of(budget.measure(value))
        _before_text_filter(budget, name, value, options)
        return _made(function(*front, value, *rest, **values))

    return guarded


def _before_text_filter(budget: Budget, name: str, value: Any, options: list) -> None:
    if name == "replace" and len(options) >= 2:
        budget.replacing(str(value), *options[:2])
    elif name == "indent":
        budget.indenting(str(value), options[0] if options else 4)
    elif name == "format":
        budget.formatting(str(value), options)
    elif name == "tojson":
        widest = max([1, *(option if isinstance(option, int) else budget.measure(option) for option in options)])
        budget.text_of(budget.measure(value) * widest)
    elif name in ("batch", "slice"):
        budget.spend(sum(option for option in options if isinstance(option, int)))


def _listed(value: Any) -> Any:
    """What join iterates over, as a list, so that its size can be known beforehand."""
    if isinstance(value, (str, list, tuple, dict, Undefined)):
        return list(value)
    items = []
    for item in value:
        BUDGET.get().spend()
        items.append(item)
    return items


def _finalize(value: Any) -> Any:
    """Each {{ value }}, before it becomes text."""
    budget = BUDGET.get(None)
    if budget is not None:
        budget.text_of(budget.measure(value))
    return value


def _concat(parts) -> str:
    parts = list(parts)
    BUDGET.get().text_of(sum(map(len, parts)))
    return "".join(parts)


def _tick() -> None:
    BUDGET.get().spend()


def _join_text(*parts: Any) -> str:
    budget = BUDGET.get()
    budget.text_of(sum(map(budget.measure, parts)))
    return "".join(map(str, parts))


def _made(value: Any) -> Any:
    return BUDGET.get().made(value)


def _make_dict(*arguments: Any, **values: Any) -> dict:
    return dict(*arguments, **values)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    if len(form) > 200 or re.search(r"\d{3}", form):
        raise LimitExceeded("it formats the date with too long a form")
    return datetime.now().strftime(form)


def _raise_exception(message: Any = "") -> None:
    raise _Refused(str(message))


class ChatTemplate:
    """A compiled template; threads may share it.

    source: jinja2.  seconds: how long a rendering may take.
    Raises TokenizerError for a template that is no valid jinja2.
    """

    def __init__(self, source: str, seconds: float = 5.0):
        if len(source) > _MAX_SOURCE:
            raise TokenizerError(f"the chat template is {len(source)} characters long; the limit is {_MAX_SOURCE}")
        self._seconds = seconds
        environment = _Environment()
        token = BUDGET.set(Budget(seconds, _BASE_WORK))
        try:
            code = environment.compile(_Watched().visit(environment.parse(source)))
            self._template = environment.template_class.from_code(environment, code, environment.make_globals(None))
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(f"the chat template is wrong in line {error.lineno}: {_line(error)}") from None
        except Exception as error:  # code from anywhere: too deep, too many blocks, out of memory
            raise TokenizerError(f"the chat template cannot be compiled: {_line(error)}") from None
        finally:
            BUDGET.reset(token)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for plain JSON variables.

        Raises RequestError when the template refuses the messages, TokenizerError when it fails or does too much.
        """
        budget = Budget(self._seconds, _BASE_WORK)
        budget.work += 64 * budget.measure(dict(variables))
        budget.text = budget.work // 4
        token = BUDGET.set(budget)
        pieces = []
        try:
            length = 0
            for piece in self._template.generate(variables):
                length += len(piece)
                budget.spend()
                if length > budget.text:
                    raise LimitExceeded("it makes too long a text")
                pieces.append(piece)
        except _Refused as refusal:
            raise RequestError(f"the chat template refuses these messages: {_line(refusal)}") from None
        except LimitExceeded as limit:
            raise TokenizerError(f"the chat template was stopped: {limit}") from None
        except jinja2.exceptions.SecurityError as error:
            raise TokenizerError(f"the chat template reaches for what it may not use: {_line(error)}") from None
        except Exception as error:  # code from anywhere may fail in any way
            raise TokenizerError(f"the chat template failed: {_line(error)}") from None
        finally:
            BUDGET.reset(token)
        return "".join(pieces)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    if text and isinstance(error, (jinja2.TemplateError, _Refused)):
        return text
    return f"{type(error).__name__} {text}".strip()

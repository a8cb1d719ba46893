"""The ways in which model families write tool calls and reasoning, found from the chat template; parsers from mlx-lm."""

import json
import re
from dataclasses import dataclass

from ..guides import JSON_OPTIONS
from ..models.zoo import tool_parser

# A piece of a chat template or vocabulary that gives a family away -> its parser in mlx_lm.tool_parsers, in this order.
_SIGNS = [("<minimax:tool_call>", "minimax_m2"), ("<|tool_call>", "gemma4"), ("<start_function_call>", "function_gemma"),
          ("<longcat_tool_call>", "longcat"), ("<arg_key>", "glm47"), ("<|tool_call_start|>", "pythonic"),
          ("<|tool_list_start|>", "pythonic"), ("<tool_call>\\n<function=", "qwen3_coder"),
          ("<tool_call>\n<function=", "qwen3_coder"), ("<|tool_calls_section_begin|>", "kimi_k2"),
          ('<function name="', "minicpm5"), ("[TOOL_CALLS]", "mistral"), ("<atem:function_calls>", "muse_spark"),
          ("<|open|>", "kimi_k3"), ("<tool_call>", "json_tools")]
THINKING = [("<think>", "</think>"), ("<longcat_think>", "</longcat_think>"), ("<|think:start|>", "<|think:end|>"),
            ("<|channel>thought", "<channel|>"), ("<|open|>think<|sep|>", "<|close|>think<|sep|>"), ("[THINK]", "[/THINK]")]
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class ToolFormat:
    """How calls are written: between the marks start and end. injected: the template knows no tools, so that a system
    message describes them. streams: arguments can be told before the call is complete."""

    name: str
    start: str
    end: str
    streams: bool
    injected: bool = False

    def head(self, text):
        """(function name, where its arguments begin) once the text has come so far, else None."""
        found = _HEAD.match(text)
        return (json.loads(found[1]), found.end()) if found else None

    def parse(self, text, schemas):
        """[{name, arguments, maybe id}] in the text between the marks; empty when there is none."""
        try:
            calls = tool_parser(self.name).parse_tool_call(text, schemas)
        except Exception:            # written for well-formed text; a model may write anything
            return []
        calls = calls if isinstance(calls, list) else [calls]
        good = all(isinstance(c, dict) and isinstance(c.get("name"), str) and isinstance(c.get("arguments", {}), (dict, str))
                   for c in calls)
        return calls if good else []

    def grammar(self, tools, many):
        """Lark for one call, or for one or more, of these tools (OpenAI's objects). Only for JSON calls."""
        calls = [{"type": "object", "additionalProperties": False, "required": ["name", "arguments"],
                  "properties": {"name": {"const": t["function"]["name"]},
                                 "arguments": t["function"].get("parameters") or {"type": "object"}}} for t in tools]
        schema = json.dumps({**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "x-guidance": JSON_OPTIONS})
        call = f'call: {json.dumps(self.start + chr(10))} %json {schema} {json.dumps(chr(10) + self.end)}'
        return f'start: call{(" (" + json.dumps(chr(10)) + " call){0,15}") if many else ""}\n{call}\n'


def tool_format(template):
    """The ToolFormat of a chat template; a plain JSON one, described by us, where the template has no place for tools."""
    template = template or ""
    if "tools" in template:
        for sign, name in _SIGNS:
            if sign in template:
                module = tool_parser(name)
                return ToolFormat(name, module.tool_call_start, module.tool_call_end, name == "json_tools")
    return ToolFormat("json_tools", "<tool_call>", "</tool_call>", True, injected="tools" not in template)


def thinking_marks(template):
    """(start, end) of reasoning in a template's family, or None."""
    return next((marks for marks in THINKING if marks[1] in (template or "") or marks[0] in (template or "")), None)


def described(tools):
    """What a system message says of tools to a model whose template says nothing."""
    listed = "\n".join(json.dumps(t, ensure_ascii=False) for t in tools)
    return ("You may call functions. Their signatures, as JSON schemas:\n<tools>\n" + listed + "\n</tools>\n"
            "To call one, answer with nothing but a JSON object in these marks:\n"
            '<tool_call>\n{"name": <function name>, "arguments": <object of its arguments>}\n</tool_call>')

"""Taking answers apart: the same parts however the text is cut, in the formats of mlx-lm's model families."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxr.server.parts import JsonEnd, Splitter, overlap
from mlxr.server.tool_formats import ToolFormat, described, thinking_marks, tool_format

SCHEMAS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {
    "place": {"type": "string"}, "n": {"type": "integer"}}}}}]
# A line of each family's chat template -> (its parser, a call as the family writes it).
FAMILIES = {
    "json_tools": ("<tool_call>", '<tool_call>\n{"name": "look", "arguments": {"place": "a}b", "n": 3}}\n</tool_call>'),
    "qwen3_coder": ("<tool_call>\\n<function=", "<tool_call>\n<function=look>\n<parameter=place>\na}b\n</parameter>\n<parameter=n>\n3\n"
                    "</parameter>\n</function>\n</tool_call>"),
    "glm47": ("<arg_key>", "<tool_call>look<arg_key>place</arg_key><arg_value>a}b</arg_value><arg_key>n</arg_key>"
              "<arg_value>3</arg_value></tool_call>"),
    "mistral": ("[TOOL_CALLS]", '[TOOL_CALLS]look[ARGS]{"place": "a}b", "n": 3}'),
    "pythonic": ("<|tool_call_start|>", '<|tool_call_start|>[look(place="a}b", n=3)]<|tool_call_end|>'),
    "kimi_k2": ("<|tool_calls_section_begin|>", "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
                '<|tool_call_argument_begin|>{"place": "a}b", "n": 3}<|tool_call_end|><|tool_calls_section_end|>'),
    "minimax_m2": ("<minimax:tool_call>", '<minimax:tool_call>\n<invoke name="look">\n<parameter name="place">a}b</parameter>\n'
                   '<parameter name="n">3</parameter>\n</invoke>\n</minimax:tool_call>'),
    "minicpm5": ('<function name="', '<function name="look"><param name="place">a}b</param><param name="n">3</param></function>'),
    "longcat": ("<longcat_tool_call>", '<longcat_tool_call>{"name": "look", "arguments": {"place": "a}b", "n": 3}}</longcat_tool_call>'),
}


def feed(splitter, text, cuts):
    """(content, reasoning, [[name, arguments]]) of a text that comes in pieces."""
    ends = sorted({min(c, len(text)) for c in cuts} | {len(text)})
    content, reasoning, calls, at = "", "", [], 0
    for end in ends:
        for kind, *rest in splitter.add(text[at:end], last=end == len(text)):
            if kind == "content":
                content += rest[0]
            elif kind == "reasoning":
                reasoning += rest[0]
            elif kind == "call":
                assert rest[0] == len(calls) and rest[1]
                calls.append([rest[2], ""])
            else:
                calls[rest[0]][1] += rest[1]
        at = end
    return content, reasoning, [[name, json.loads(arguments)] for name, arguments in calls]


@pytest.mark.parametrize("family", FAMILIES)
@given(cuts=st.lists(st.integers(0, 400), max_size=30))
def test_calls_of_each_family_in_any_pieces(family, cuts):
    sign, call = FAMILIES[family]
    form = tool_format("{% if tools %}" + sign)
    assert form.name == family and not form.injected
    text = f"I look. {call}" if family == "mistral" else f"I look. {call}"
    content, _, calls = feed(Splitter(tools=form, schemas=SCHEMAS), text, cuts)
    assert content.strip() == "I look." and calls == [["look", {"place": "a}b", "n": 3}]]


@given(cuts=st.lists(st.integers(0, 200), max_size=30))
def test_reasoning_is_split_off(cuts):
    marks = ("<think>", "</think>")
    for inside, text in ((False, "<think>\nlet me < think\n</think>\n\nIt is 4 < 5."), (True, "\nlet me < think\n</think>\n\nIt is 4 < 5.")):
        content, reasoning, _ = feed(Splitter(thinking=marks, inside=inside), text, cuts)
        assert (content, reasoning.strip()) == ("It is 4 < 5.", "let me < think")
    assert feed(Splitter(thinking=marks), "no <think> here", cuts)[:2] == ("no <think> here", "")


@given(cuts=st.lists(st.integers(0, 400), max_size=30))
def test_several_calls_and_text_that_is_no_call(cuts):
    form = tool_format("")
    one = '<tool_call>\n{"name": "look", "arguments": {"n": 1}}\n</tool_call>'
    two = one.replace("1", "2")
    assert feed(Splitter(tools=form), one + "\n" + two, cuts)[2] == [["look", {"n": 1}], ["look", {"n": 2}]]
    assert feed(Splitter(tools=form, many=False), one + "\n" + two, cuts)[2] == [["look", {"n": 1}]]
    text = "a <tool_call>nonsense</tool_call> b"
    content, _, calls = feed(Splitter(tools=form), text, cuts)
    assert not calls and content.replace(" ", "") == text.replace(" ", "")


def test_a_call_that_was_cut_off_keeps_what_came():
    splitter = Splitter(tools=tool_format(""))
    parts = splitter.add('<tool_call>{"name": "look", "arguments": {"place": "Os', last=True)
    assert parts[0][0] == "call" and parts[1][2] == '{"place": "Os' and splitter.calls == 1


@given(st.recursive(st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x,
                                                                                                            max_size=3), max_leaves=9),
       st.text(max_size=5))
def test_the_end_of_json_is_found(value, rest):
    text = json.dumps({"v": value})
    reader = JsonEnd()
    assert "".join(reader.take(c) for c in text + rest) == text


def test_marks_of_templates():
    assert thinking_marks("... </think> ...") == ("<think>", "</think>") and thinking_marks("plain") is None and thinking_marks(None) is None
    assert tool_format(None).injected and "look" in described(SCHEMAS)
    assert overlap("abc<to", "<tool>") == 3 and overlap("abc", "<tool>") == 0
    assert isinstance(tool_format("tools <tool_call>"), ToolFormat)

"""Chat templates: the same text as transformers renders, and limits that hold against hostile ones."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlxr.tokenizer.chat_messages import check_messages, check_values
from mlxr.tokenizer.chat_template import ChatTemplate
from mlxr.errors import RequestError, TokenizerError

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
            + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content | tojson if message.content is mapping or message.content is iterable
            else message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system is defined %}
            {{- ' [INST] ' + system + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}
    {%- else %}
        {%- generation %}{{- ' ' + message['content'] + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}
"""

THINKING = """{%- set ns = namespace(last=-1, names=[]) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- macro part(role, text) -%}<{{ role|upper }}>{{ text|trim|replace('x', 'y') }}</{{ role }}>{%- endmacro %}
{%- for m in messages %}
  {%- if m.role == 'tool' %}{% continue %}{% endif %}
  {%- if m.reasoning_content is defined and loop.index0 > ns.last %}[{{ m.reasoning_content }}]{% endif %}
  {%- set ns.names = ns.names + [m.role ~ '-' ~ loop.index] %}
  {{- part(m.role, m.content if m.content is string else '') }}
  {%- for call in m.tool_calls or [] %}{{ '\\n' }}{{ call.function.arguments.items()|list|tojson }}
  {%- for k, v in call.function.arguments|dictsort %} {{ k }}={{ v|tojson(sort_keys=true) }}{% endfor %}{% endfor %}
{%- endfor %}
{{ ns.names|join(', ') }} {{ messages|map(attribute='role')|unique|sort|list }} {{ ', '.join(ns.names[:2]) }}
{%- if tools %} {{ tools|selectattr('type', 'equalto', 'function')|list|length }}
  {{ tools|tojson(indent=2) }}{% endif %}
{%- if documents %}{% for d in documents %}
{{- '%s: %-8s|' % (d.title, d.text) }}{{ '{:>6}'.format(loop.index) }}{% endfor %}{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
{{- '\\n' ~ (eos_token|default('none')) ~ messages[-1].content.split(' ')|last|indent(4) ~ 2 ** 3 * 4 }}"""

PLAIN = [{"role": "user", "content": "Hello  <b>wörld</b> & \"you\" 'x' 😀"}]
TURNS = [{"role": "system", "content": " be brief "}, {"role": "user", "content": "a\nb"},
         {"role": "assistant", "content": "c", "reasoning_content": "why"}, {"role": "user", "content": "x marks é"}]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "ünï <&>",
                                          "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}}}]
CALLS = [{"role": "user", "content": "run it"},
         {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [
             {"type": "function", "function": {"name": "f", "arguments": {"q": "é<>", "n": [1, 2.5, None, True]}}}]},
         {"role": "tool", "content": "42"}]
DOCUMENTS = [{"title": "one", "text": "a"}, {"title": "two", "text": "b"}]


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    empty = tokenizers.Tokenizer(tokenizers.models.BPE())
    return transformers.PreTrainedTokenizerFast(tokenizer_object=empty, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("template, messages, options", [
    (CHATML, PLAIN, {}), (CHATML, TURNS, {}),
    (LLAMA3, PLAIN, {}), (LLAMA3, TURNS, {"date_string": "1 Jan 2025"}), (LLAMA3, CALLS, {"tools": TOOLS}),
    (MISTRAL, PLAIN, {}), (MISTRAL, TURNS, {}),
    (THINKING, PLAIN, {}), (THINKING, TURNS, {"enable_thinking": False}), (THINKING, CALLS, {"tools": TOOLS}),
    (THINKING, TURNS, {"documents": DOCUMENTS, "tools": TOOLS, "enable_thinking": True}),
], ids=["chatml", "chatml-turns", "llama3", "llama3-turns", "llama3-tools", "mistral", "mistral-turns", "thinking",
        "thinking-turns", "thinking-calls", "thinking-documents"])
def test_the_text_is_transformers(theirs, template, messages, options, prompt):
    expected = theirs.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **options)
    values = check_values({"tools": None, "documents": None, **options})
    variables = {"bos_token": "<s>", "eos_token": "</s>", "messages": check_messages(messages), **values,
                 "add_generation_prompt": prompt}
    rendered = ChatTemplate(template).render(variables)
    assert rendered == expected and len(rendered) > 20


def test_the_models_own_template(theirs, smollm2_gguf):
    from mlxr.tokenizer import load_tokenizer

    ours = load_tokenizer(smollm2_gguf)
    expected = theirs.apply_chat_template(
        PLAIN, chat_template=ours.chat_template, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(PLAIN) == expected
    assert ours.encode_chat(PLAIN) == ours.encode(expected, add_special=False)
    opening = ours.encode("<|im_start|>assistant\n", add_special=False)
    assert ours.encode_chat(PLAIN, add_generation_prompt=False) + opening == ours.encode_chat(PLAIN)


def render(source, seconds=5, **variables):
    return ChatTemplate(source, seconds=seconds).render({"messages": [{"role": "user", "content": "hi"}], **variables})


GROW = "{% set ns = namespace(x=['a']) %}{% for i in range(200) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
                    "{% endfor %}{% endfor %}",
    "loops that write": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxx{% endfor %}{% endfor %}",
    "loops in a macro": "{% macro m() %}{% for a in range(99999) %}{% for b in range(9999) %}xxxxxxxxxxxxxx{% endfor %}"
                        "{% endfor %}{% endmacro %}{{ m() }}",
    "long range": "{{ range(10**9)|list }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "text times number": "{{ 'a' * 10**10 }}", "list times number": "{{ ([0] * 10**9)|length }}",
    "number times text": "{{ 10**9 * 'aa' }}", "power": "{{ 9**(9**9) }}", "negative power": "{{ 2**(10**6) }}",
    "doubling with ~": GROW.replace("['a']", "'aa'").replace("STEP", "ns.x ~ ns.x"),
    "doubling with +": GROW.replace("['a']", "'aa'").replace("STEP", "ns.x + ns.x"),
    "doubling with join": GROW.replace("['a']", "'aa'").replace("STEP", "[ns.x, ns.x]|join"),
    "doubling with replace": GROW.replace("['a']", "'aa'").replace("STEP", "ns.x.replace('a', 'aa')"),
    "doubling with the filter": GROW.replace("['a']", "'aa'").replace("STEP", "ns.x|replace('a', 'aa')"),
    "doubling with format": GROW.replace("['a']", "'aa'").replace("STEP", "'%s%s' % (ns.x, ns.x)"),
    "doubling with .format": GROW.replace("['a']", "'aa'").replace("STEP", "'{0}{0}'.format(ns.x)"),
    "doubling with |format": GROW.replace("['a']", "'aa'").replace("STEP", "'%s%s'|format(ns.x, ns.x)"),
    "doubling with set": "{% set ns = namespace(x='aa') %}{% for i in range(200) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}"
                         "{% endset %}{% endfor %}{{ ns.x }}",
    "doubling lists": GROW.replace("STEP", "ns.x + ns.x"), "nesting lists": GROW.replace("STEP", "[ns.x, ns.x]"),
    "nesting tuples": GROW.replace("STEP", "(ns.x, ns.x)"), "nesting dicts": GROW.replace("STEP", "{1: ns.x, 2: ns.x}"),
    "nesting dict()": GROW.replace("STEP", "dict(a=ns.x, b=ns.x)"),
    "nesting by addition": GROW.replace("STEP", "[ns.x] + [ns.x]"),
    "nesting by batch": GROW.replace("STEP", "[ns.x, ns.x]|batch(1)|list"),
    "center": "{{ 'a'|center(10**9) }}", "ljust": "{{ 'a'.ljust(10**9) }}", "zfill": "{{ 'a'.zfill(10**9) }}",
    "expandtabs": "{{ ('\t' * 99999).expandtabs(99999) }}", "indent": "{{ ('\n' * 99999)|indent(99999) }}",
    "wide %": "{{ '%999999999d' % 1 }}", "computed %": "{{ '%*d' % (999999999, 1) }}",
    "wide format": "{{ '{:>999999999}'.format(1) }}", "computed format": "{{ '{:>{w}}'.format(1, w=999999999) }}",
    "|format": "{{ '%999999999d'|format(1) }}", "tojson": "{{ [1]|tojson(indent=10**9) }}",
    "tojson separators": "{{ range(99999)|list|tojson(separators=('a' * 99999, 'b')) }}",
    "join": "{{ ([('a' * 99999)] * 99999)|join }}", "join separator": "{{ range(99999)|join('a' * 99999) }}",
    ".join": "{{ ('a' * 99999).join(['b'] * 99999) }}", "map": "{{ (['a' * 99999] * 99999)|map('upper')|join }}",
    "slice": "{{ [1]|slice(10**9)|list }}", "sum": "{{ ([[1] * 9999] * 9999)|sum(start=[]) }}",
    "round": "{{ 1|round(10**8) }}", "strftime": "{{ strftime_now('%999999999Y') }}",
    "translate": "{{ 'a'.translate({97: 'b' * 99999}) }}", "bytes": "{{ 'a'.encode() * 10**10 }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_are_stopped(source):
    start = time.thread_time()
    with pytest.raises(TokenizerError) as caught:
        render(source, seconds=0.5)
    assert time.thread_time() - start < 4 and "\n" not in str(caught.value)


def test_hostile_templates_take_little_memory():
    """All of them in a process that may have 1 GB."""
    if sys.platform != "linux":
        pytest.skip("the address-space limit is Linux's")
    code = """
import resource, test_chat_template as t
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for name, source in t.HOSTILE.items():
    try:
        t.render(source, seconds=0.2)
    except t.TokenizerError as error:
        assert "MemoryError" not in str(error), name
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))  # ru_maxrss has the parent's
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                         cwd=Path(__file__).parent, env={"PYTHONPATH": ".", "OPENBLAS_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) < 400_000  # KiB


@pytest.mark.parametrize("source", [
    "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ messages[0].update(a=1) }}", "{{ ''.__class__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ namespace(_x=1) }}", "{{ raise_exception.__globals__ }}",
    "{{ (messages|first)|attr('__class__')|attr('mro') }}",
    "{{ '{0.__class__}'.format(1) }}", "{{ messages|map(attribute='__class__')|list }}{{ self.__init__.__globals__ }}",
])
def test_the_sandbox_holds(source):
    with pytest.raises(TokenizerError, match="unsafe|may not|undefined"):
        render(source)


@pytest.mark.parametrize("source, named", [
    ("{% for x in %}", "line 1"), ("a\n{{ x", "line 2"), ("{{ x|nosuch }}", "nosuch"),
    ("{{ x.y.z }}", "'x' is undefined"), ("{{ 1 / 0 }}", "division"), ("{% include 'x' %}", "loader"),
    ("{% extends 'x' %}", "loader"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be compiled"), ("x" * 300_000, "limit"),
    ("{{ messages + 1 }}", "TypeError"),
], ids=lambda value: value[:12])
def test_wrong_templates_are_named(source, named):
    with pytest.raises(TokenizerError, match=named) as caught:
        render(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_refusal_is_the_requests_fault():
    with pytest.raises(RequestError, match="roles must alternate"):
        ChatTemplate(MISTRAL).render({"messages": [{"role": "assistant", "content": "x"}]})


def test_long_conversations_are_not_hostile():
    messages = [{"role": role, "content": "word " * 400} for _ in range(300) for role in ("user", "assistant")]
    text = ChatTemplate(THINKING, seconds=30).render({"messages": check_messages(messages)})
    assert len(text) > 600 * 1900
    system = [{"role": "user", "content": "z" * 5_000_000}]
    assert len(ChatTemplate(CHATML, seconds=30).render({"messages": check_messages(system)})) > 5_000_000


def test_threads_share_a_template():
    template, results = ChatTemplate(CHATML), []

    def work(index):
        for _ in range(50):
            results.append((index, template.render({"messages": [{"role": "system", "content": str(index)}]})))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert len(results) == 200 and all(f"\n{index}<" in text for index, text in results)


@pytest.mark.parametrize("messages, named", [
    ("hello", "list"), ({"role": "user"}, "list"), ([], "empty"), (["hi"], r"messages\[0\]"), (None, "list"),
    ([{"content": "x"}], "role"), ([{"role": 3, "content": "x"}], "role"), ([{"role": "user"}], "content"),
    ([{"role": "user", "content": None}], "content"), ([{"role": "user", "content": 5}], "content"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"), ([{"role": "user", "content": [5]}], "int"),
    ([{"role": "user", "content": [{"type": "text"}]}], "without text"), ([{"role": "user", "content": b"x"}], "bytes"),
    ([{"role": "user", "content": "x", "extra": object()}], "object"),
    ([{"role": "user", "content": "x", 5: 1}], "key"),
], ids=lambda value: ascii(value)[:40])
def test_malformed_messages(messages, named):
    with pytest.raises(RequestError, match=named) as caught:
        check_messages(messages)
    assert "\n" not in str(caught.value)


def test_messages_are_copied_and_text_parts_joined():
    given = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert check_messages(given) == [{"role": "user", "content": "ab"}] and isinstance(given[0]["content"], list)
    deep = value = []
    for _ in range(100):
        value.append([])
        value = value[0]
    with pytest.raises(RequestError, match="nested"):
        check_values({"tools": [{"x": deep}]})
    with pytest.raises(RequestError, match="tools"):
        check_values({"tools": ["x"]})

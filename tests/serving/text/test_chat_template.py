"""Templates render as transformers renders them."""

import json
from datetime import datetime
from typing import Any

import pytest

from lightllm.base import config
from lightllm.base.errors import ConfigError, RequestError
from lightllm.serving.text.chat_template import ChatTemplate, find_sources
from tests.serving.text.tokenizers_for_tests import SPECIAL, byte_level

NAMED = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "  Wie heißt du?\n"},
    {"role": "assistant", "content": "Ich heiße 世界.", "tool_calls": None},
    {"role": "user", "content": "and?"},
]
CALL = {"type": "function", "id": "1", "function": {"name": "add", "arguments": {"a": 1, "b": "ü"}}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds <a> & 'b'", "parameters": {"x": [1.5]}}}]

TEMPLATES = {
    "special tokens": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] + eos_token }}{% endfor %}",
    "whitespace of blocks": """
        {% for m in messages %}
            {% if m.role == 'user' %}
    Q: {{ m.content }}
            {% else %}
    A: {{ m.content | trim }}
            {% endif %}
        {% endfor %}
    {% if add_generation_prompt %}
    A:{% endif %}
    """,
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': 'é<'} | tojson(sort_keys=True, separators=(',', ':'), ensure_ascii=True) }}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 0 %}{% continue %}{% endif %}"
    "{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "namespace and macro": "{% set ns = namespace(n=0) %}{% macro show(x) %}<{{ x }}>{% endmacro %}"
    "{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{{ show(m.role) }}{% endfor %}{{ ns.n }}",
    "undefined": "{{ pad_token }}{{ nothing is defined }}{{ messages[0].nothing }}{{ tools is none }}{{ documents }}",
    "generation block": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "date": "{{ strftime_now('%Y-%m-%d') }}",
    "slices and filters": "{{ messages[1:] | map(attribute='role') | join }}{{ messages[::-1][0].content | upper }}",
    "string methods": "{{ messages[1].content.strip().split(' ') | list }}{{ 'x' ~ messages | length }}",
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def rendered_by(transformers, template: str, messages: list, **options: Any) -> str:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **NAMED)
    tokenizer.chat_template = template
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def render(template: str, messages: list, **options: Any) -> str:
    return ChatTemplate({"default": template}, NAMED).render(messages, **options)


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_render_as_in_transformers(transformers, template, generation):
    expected = rendered_by(transformers, template, MESSAGES, add_generation_prompt=generation)
    assert render(template, MESSAGES, add_generation_prompt=generation) == expected


WITH_TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}"
    "{{ m.content is none }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_tools_render_as_in_transformers(transformers):
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
    ]
    expected = rendered_by(transformers, WITH_TOOLS, messages, tools=TOOLS, add_generation_prompt=True)
    assert render(WITH_TOOLS, messages, tools=TOOLS) == expected


def test_variables_reach_the_template_as_in_transformers(transformers):
    template = "{% if enable_thinking is defined and enable_thinking is false %}quick{% else %}slow{% endif %}"
    for thinks in (True, False):
        expected = rendered_by(transformers, template, MESSAGES, enable_thinking=thinks)
        assert render(template, MESSAGES, variables={"enable_thinking": thinks}) == expected


CONTINUED = {
    "plain": "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}",
    "stripped": "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}",
    "repeated": "{{ messages[-1].content }}:{% for m in messages %}{{ m.content }}\n{% endfor %}",
}


@pytest.mark.parametrize("content", ["Once upon", "Once upon ", " \nOnce"])
@pytest.mark.parametrize("template", CONTINUED.values(), ids=CONTINUED)
def test_final_messages_are_continued_as_in_transformers(transformers, template, content):
    messages = [*MESSAGES, {"role": "assistant", "content": content}]
    expected = rendered_by(transformers, template, messages, continue_final_message=True)
    expected = expected.replace("CONTINUE_FINAL_MESSAGE_TAG ", "")  # which it leaves where a message is repeated
    assert render(template, messages, continue_final_message=True) == expected


def test_a_final_message_that_the_template_drops_cannot_be_continued():
    with pytest.raises(RequestError, match="continue_final_message"):
        render("nothing of it", MESSAGES, continue_final_message=True)


FAILING = {
    "its own refusal": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "an error": ("{{ messages[0].content + 1 }}", "chat template"),
    "an attribute it may not have": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "a change": ("{{ messages.append(1) }}", "messages"),
    "too long a range": ("{% for i in range(10**9) %}x{% endfor %}", "Range"),
    "a division": ("{{ 1 // 0 }}", "division"),
}


@pytest.mark.parametrize(("template", "message"), FAILING.values(), ids=FAILING)
def test_what_a_template_cannot_do_is_a_request_error(template, message):
    with pytest.raises(RequestError, match=message) as caught:
        render(template, MESSAGES)
    assert caught.value.status == 400


def test_what_a_template_does_not_know_is_refused_by_name():
    template = "{{ messages[0].content }}{{ mood }}{{ bos_token }}"
    with pytest.raises(RequestError, match="tools"):
        render(template, MESSAGES, tools=TOOLS)
    with pytest.raises(RequestError, match=r"'colour'.*it has: mood"):
        render(template, MESSAGES, variables={"colour": 1})
    with pytest.raises(RequestError, match="'messages'"):
        render(template, MESSAGES, variables={"messages": []})


def test_the_template_for_tools_serves_requests_with_tools():
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools | length }} tools"}, {})
    assert template.render(MESSAGES) == "plain"
    assert template.render(MESSAGES, tools=TOOLS) == "1 tools"
    with pytest.raises(RequestError, match="no default"):
        ChatTemplate({"rag": "x"}, {}).render(MESSAGES)


def sources(folder, **flags) -> dict[str, str]:
    return find_sources(config.parse(config.EngineConfig, {"model_dir": str(folder)} | flags))


def write(folder, name: str, content: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_templates_are_found_wherever_checkpoints_keep_them(tmp_path):
    assert sources(tmp_path) == {}
    write(tmp_path, "chat_template.json", {"chat_template": "processor's"})
    assert sources(tmp_path) == {"default": "processor's"}
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    write(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert sources(tmp_path) == {"default": "a", "tool_use": "b"}
    write(tmp_path, "tokenizer_config.json", {"chat_template": "one"})
    assert sources(tmp_path) == {"default": "one"}
    write(tmp_path, "chat_template.jinja", "file")
    write(tmp_path, "additional_chat_templates/tool_use.jinja", "tools")
    assert sources(tmp_path) == {"default": "file", "tool_use": "tools"}
    write(tmp_path, "mine.jinja", "given")
    assert sources(tmp_path, chat_template=str(tmp_path / "mine.jinja")) == {"default": "given"}


def test_a_template_that_does_not_parse_is_a_config_error():
    with pytest.raises(ConfigError, match="--chat_template"):
        ChatTemplate({"default": "{% for %}"}, {})


def test_the_date_is_todays():
    assert render("{{ strftime_now('%Y') }}", MESSAGES) == datetime.now().strftime("%Y")


ARGUMENTS = {
    "an object": "{{ call.function.arguments | tojson }}",
    "the whole call": "{{ call.function | tojson }}",
    "text, added": "{{ '```json\\n' + call.function.arguments + '\\n```' }}",
    "text, shown": "{{ call.function.arguments }}",
    "either": "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
    "{{ call.function.arguments | tojson }}{% endif %}",
    "members": "{% for key, value in call.function.arguments.items() %}{{ key }}={{ value | tojson }} {% endfor %}",
}


@pytest.mark.parametrize("written", ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_of_calls_come_as_the_template_expects_them(written):
    template = "{% for m in messages %}{% for call in m.tool_calls or [] %}" + written + "{% endfor %}{% endfor %}"
    text = render(template, [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
    assert '"a": 1, "b": "ü"' in text or text == 'a=1 b="ü" '
    assert "\\" not in text, "nothing is written as JSON twice"


NO_CONTENT = {
    "null, or it shows it": ("{% if m.content is none %}calls{% else %}content{% endif %}", "calls"),
    "text, or it fails": ("{{ m.content + 'calls' }}", "calls"),
    "text, or it goes through its parts": (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% endfor %}{% endif %}calls",
        "calls",
    ),
}


@pytest.mark.parametrize(("shown", "expected"), NO_CONTENT.values(), ids=NO_CONTENT)
@pytest.mark.parametrize("content", [None, ""])
def test_no_content_beside_calls_is_what_the_template_expects(shown, expected, content):
    template = "{% for m in messages %}{% if m.tool_calls %}" + shown + "{% endif %}{% endfor %}"
    assert render(template, [{"role": "assistant", "content": content, "tool_calls": [CALL]}]) == expected


def test_arguments_that_are_no_object_stay_the_text_that_they_are():
    call = {"function": {"name": "add", "arguments": '{"a": '}}
    template = "{% for m in messages %}{{ '' + m.tool_calls[0].function.arguments }}{% endfor %}"
    assert render(template, [{"role": "assistant", "tool_calls": [call]}]) == '{"a": '

"""Formats are chosen by what a checkpoint's own files show, and every choice has its reason."""

import json

import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.serving.parsing.choice import REASONING_FORMATS, TOOL_FORMATS, choose

# What the published templates of these families have in them, in short.
TEMPLATES = {
    "{% if tools %}<tool_call>\n{...}\n</tool_call>{% endif %}<|im_start|>": ("hermes", None),
    "{% if tools %}<tool_call>{% endif %}<|im_start|><think>\n\n</think>": ("hermes", "qwen3"),
    "{% if tools %}<tool_call><function=example><parameter=a></parameter>{% endif %}": ("qwen3_coder", None),
    "[gMASK]<sop>{% if tools %}<tool_call><arg_key></arg_key><arg_value></arg_value>{% endif %}<think></think>": (
        "glm45",
        "glm45",
    ),
    "[gMASK]<sop>{% if tools %}{% endif %}<|observation|>": ("glm4", None),
    "{% if tools %}<|python_tag|>{% endif %}<|start_header_id|>": ("llama3", None),
    '{% if tools %}{"name": function name, "parameters": ...}{% endif %}<|start_header_id|>': ("llama3", None),
    "{% if tools %}<|python_start|>{% endif %}": ("pythonic", None),
    "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]": ("mistral", None),
    "{% if tools %}{% endif %}[TOOL_CALLS][THINK][/THINK]": ("mistral", "tags"),
    "<｜Assistant｜>{% if tools %}<｜tool▁call▁begin｜>\n```json{% endif %}content.split('</think>')": (
        "deepseek_v3",
        "tags",
    ),
    "<｜Assistant｜><think>\n{% if tools %}<｜tool▁call▁begin｜>{% endif %}</think>": ("deepseek_v31", "tags"),
    "{% if tools %}{% endif %}<|action_start|><|plugin|>": ("internlm2", None),
    "{% if tools %}{% endif %}<|start|>assistant<|channel|>final<|message|>": ("gpt_oss", "gpt_oss"),
    "{% if tools %}{{ tools | tojson }}{% endif %}": ("json", None),
    "{{ messages }}": (None, None),
}


def chosen(folder, template: str | None, *, tokens: tuple[str, ...] = (), **flags: str):
    about = {"added_tokens_decoder": {str(i): {"content": token} for i, token in enumerate(tokens)}}
    about |= {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return choose(EngineConfig(model_dir=str(folder), **flags))


def names(formats) -> tuple[str | None, str | None]:
    return formats.tools and formats.tools.name, formats.reasoning and formats.reasoning.name


@pytest.mark.parametrize(("template", "expected"), TEMPLATES.items(), ids=map(str, TEMPLATES.values()))
def test_the_chat_template_shows_the_formats(tmp_path, template, expected):
    assert names(chosen(tmp_path, template)) == expected


def test_tokens_show_what_the_template_does_not(tmp_path):
    formats = chosen(tmp_path, "{{ tools }}", tokens=("<|action_start|>", "</think>"))
    assert names(formats) == ("internlm2", "tags")
    assert formats.report() == {
        "tool calls": "internlm2: the vocabulary has <|action_start|>",
        "reasoning": "tags: the vocabulary has </think>",
    }


def test_without_a_template_or_its_tools_there_are_no_calls(tmp_path):
    assert names(chosen(tmp_path, None, tokens=("<tool_call>",))) == (None, None)
    assert "takes no tools" in chosen(tmp_path, "{{ messages }}").why_tools


def test_a_flag_goes_before_what_a_checkpoint_shows(tmp_path):
    template = "{{ tools }}<tool_call><|im_start|></think>"
    assert names(chosen(tmp_path, template, tool_call_parser="none", reasoning_parser="none")) == (None, None)
    forced = chosen(tmp_path, template, tool_call_parser="Mistral", reasoning_parser="deepseek-r1")
    assert names(forced) == ("mistral", "deepseek_r1")
    assert "--tool_call_parser=Mistral" in forced.why_tools


@pytest.mark.parametrize("name", ["qwen25", "llama3_json", "deepseekv3", "openai", "glm47", "gpt-oss", "qwen3_xml"])
def test_names_of_other_servers_are_known(tmp_path, name):
    assert chosen(tmp_path, None, tool_call_parser=name).tools is not None


@pytest.mark.parametrize("flag", ["tool_call_parser", "reasoning_parser"])
def test_a_name_that_nobody_has_is_refused_with_those_that_there_are(tmp_path, flag):
    with pytest.raises(ConfigError, match=f"--{flag}=fancy.*auto, none, gpt_oss"):
        chosen(tmp_path, None, **{flag: "fancy"})


@pytest.mark.parametrize("formats", [TOOL_FORMATS, REASONING_FORMATS], ids=["tools", "reasoning"])
def test_every_name_stands_for_one_format(formats):
    known = [name for format in formats for name in (format.name, *format.aliases)]
    assert len(known) == len(set(known))
    assert not {"auto", "none"} & set(known)

"""The small files of a checkpoint: a byte-level tokenizer, a chat template, limits. No weights."""

import json
from pathlib import Path
from typing import Any

from tests.serving.text.tokenizers_for_tests import byte_level

END = "<|end|>"
TEMPLATE = """\
{%- if tools %}
    {{- '<|start|>tools\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{% endfor %}
    {{- '<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start|>' + message.role + '\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- call.function.name }}{{ call.function.arguments | tojson }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\n' }}
    {%- if shout %}{{ 'LOUD ' }}{% endif %}
{%- endif %}"""


def write(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    generation: dict[str, Any] | None = None,
    embeds: bool = False,
    **config: Any,
) -> Path:
    """A checkpoint of the tokenizer `byte_level`, eos `<|end|>`; `config` goes into its config.json."""
    tokenizer = byte_level()
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    files: dict[str, Any] = {
        "config.json": {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 4096, "eos_token_id": end}
        | config,
        "generation_config.json": generation or {},
        "tokenizer_config.json": {"eos_token": END} | ({} if template is None else {"chat_template": template}),
    }
    if embeds:
        files["modules.json"] = [{"type": "sentence_transformers.models.Pooling", "path": "pool"}]
        files["pool/config.json"] = {"pooling_mode_lasttoken": True}
        (folder / "pool").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder

"""The bundled checkpoint: small enough, readable by transformers, and right on what it was not taught."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from lightllm.demo import MODEL_DIR
from lightllm.demo.decoder import Decoder, rope_table
from lightllm.demo.evaluate import Judge, Prompter
from lightllm.demo.example import draw
from lightllm.demo.layout import CHAT_TEMPLATE, SIZES, VOCABULARY, config_of
from lightllm.demo.mixture import Renderer
from lightllm.demo.tasks import TASKS
from lightllm.demo.tasks.tools import KNOWN, declare

SIZE_LIMIT = 16_000_000


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    # So small a model is slowed down by more threads, many times over where the processors are busy.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Judge(MODEL_DIR, device="cpu")
    torch.set_num_threads(threads)


def test_directory_stays_small():
    sizes = [file.stat().st_size for file in Path(MODEL_DIR).rglob("*") if file.is_file()]
    assert sum(sizes) <= SIZE_LIMIT


@pytest.mark.parametrize("name", ["addition_two_digits", "json_extraction", "look_up", "software", "tool_call"])
def test_answers_held_out_questions(judge: Judge, name: str):
    random, prompter = Random(f"test {name}"), Prompter(MODEL_DIR)
    questions = [prompter.prepare(name, TASKS[name], draw(TASKS[name], random, held_out=True)) for _ in range(20)]
    judge.ask(questions)
    assert sum(one.is_right() for one in questions) > 18, [(one.example.answer, one.text) for one in questions]


def test_training_forward_equals_transformers(judge: Judge):
    size = SIZES["7m"]
    model = Decoder(size)
    model.load_state_dict(judge.model.model.state_dict())
    tokens = torch.randint(0, VOCABULARY, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = model(tokens, rope_table(size, "cpu", torch.float32)) @ model.embed_tokens.weight.T
        torch.testing.assert_close(ours, judge.model(tokens).logits, atol=1e-3, rtol=1e-4)


def test_config_is_what_training_writes():
    assert json.loads((MODEL_DIR / "config.json").read_text()) == config_of(SIZES["7m"])


def test_tokenizer_gives_each_digit_a_token_and_gives_text_back():
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.encode("4096").tokens == ["4", "0", "9", "6"]
    for text in ("--max_total_token_num 12,5\n\n  x", "äöü 漢字 🙂 naïve", "<tool_call>\n{}\n</tool_call>"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_chat_template_is_the_same_for_transformers(judge: Judge):
    assert judge.tokenizer.chat_template == CHAT_TEMPLATE
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather in "}, {"type": "text", "text": "Oslo?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "ä"}'}}]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    tools = [declare(Random(0), KNOWN[0])]
    options = {"tools": tools, "add_generation_prompt": True}
    theirs = judge.tokenizer.apply_chat_template(messages, tokenize=False, **options)
    assert theirs == Renderer().template.render(messages=messages, **options)
    assert theirs.endswith("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert "Weather in Oslo?" in theirs
    assert '<tool_call>\n{"name": "f", "arguments": {"a": "ä"}}\n</tool_call><|im_end|>' in theirs

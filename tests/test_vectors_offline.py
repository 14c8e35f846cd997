"""Models that do not generate, against transformers: embeddings, classifiers, rewards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3Model,
)

from lightllm import LLM, SamplingParams
from lightllm.base.errors import RequestError
from lightllm.llm import CompletionOutput, RequestOutput
from tests.base.test_task import write_modules
from tests.compute.driver import save
from tests.compute.execution.checkpoint import SIZES
from tests.compute.models import internlm2
from tests.serving.test_pairs import ASKED, CHAT
from tests.serving.text.tokenizers_for_tests import byte_level

VOCABULARY = 700
SETTINGS = {"max_total_token_num": 600, "device": "cpu", "running_max_req_size": 8, "chunked_prefill_size": 7}
TEXTS = ["The quick brown fox", "jumps", "over the lazy dog, which does not even look up", "jumps over"]
QWEN3 = {**SIZES, "vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def finish(directory: Path, *, tokenizer: Tokenizer | None = None, template: str = "", **changes) -> Path:
    """Adds a tokenizer with a chat template, and changes of config.json."""
    (tokenizer or byte_level()).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(raw | changes))
    return directory


def ids(text: str) -> torch.Tensor:
    return torch.tensor([byte_level().encode(text).ids])


POOLED = {"lasttoken": lambda hidden: hidden[-1], "mean": lambda hidden: hidden.mean(0)}


@pytest.mark.parametrize(("pooling", "tp"), [("lasttoken", 1), ("mean", 2)])
def test_embeddings_are_hidden_states_of_length_one(pooling, tp, tmp_path):
    torch.manual_seed(0)
    model = Qwen3Model(Qwen3Config(**QWEN3)).eval()
    save(model, tmp_path)
    finish(tmp_path, matryoshka_dimensions=[8, 32])
    write_modules(tmp_path, {"Transformer": {}, "Pooling": {"pooling_mode": pooling}, "Normalize": {}})

    def embedding(text: str, width: int = 64) -> np.ndarray:
        with torch.inference_mode():
            pooled = POOLED[pooling](model(ids(text)).last_hidden_state[0])
        return torch.nn.functional.normalize(pooled[:width], dim=0).numpy()

    expected = [embedding(text) for text in TEXTS]
    with LLM(str(tmp_path), **SETTINGS, tp=tp) as llm:
        got = llm.embed(TEXTS)
        np.testing.assert_allclose(got, expected, atol=1e-4)
        np.testing.assert_allclose(llm.embed(TEXTS), got, atol=1e-5)  # from the prefix tree, where that is allowed
        np.testing.assert_allclose(llm.embed(TEXTS, dimensions=8), [embedding(text, 8) for text in TEXTS], atol=1e-4)
        np.testing.assert_allclose(llm.score(TEXTS[0], TEXTS[1:]), [expected[0] @ e for e in expected[1:]], atol=1e-4)
        with pytest.raises(RequestError, match="dimensions=9: embeddings of this model have 8, 32, 64"):
            llm.embed("a", dimensions=9)
        with pytest.raises(RequestError, match="embedding model: use /v1/embeddings"):
            llm.generate("a", SamplingParams(max_tokens=1))
        with pytest.raises(RequestError, match="embedding model"):
            llm.reward("a")


def test_a_classifier_gives_its_labels_raw_scores(tmp_path):
    torch.manual_seed(0)
    model = Qwen3ForSequenceClassification(Qwen3Config(**QWEN3, num_labels=3)).eval()
    save(model, tmp_path)
    with torch.inference_mode():
        expected = [model(ids(text)).logits[0].tolist() for text in TEXTS]
    with LLM(str(finish(tmp_path)), **SETTINGS, tp=2) as llm:
        np.testing.assert_allclose(llm.classify(TEXTS), expected, atol=1e-3)
        with pytest.raises(RequestError, match="3 labels"):
            llm.score("a", "b")


def test_a_reward_model_scores_whole_conversations(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in QWEN3.items() if k != "head_dim"})).eval()
    save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    head = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    tensors |= {f"score.{name}": tensor.detach() for name, tensor in head.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.inference_mode():
        expected = [head(model.model(ids(text)).last_hidden_state[0, -1]).item() for text in TEXTS]
    finish(tmp_path, architectures=["Qwen2ForRewardModel"], tie_word_embeddings=False)
    with LLM(str(tmp_path), **SETTINGS) as llm:
        np.testing.assert_allclose(llm.reward(TEXTS), expected, atol=1e-4)
        late = RequestOutput("a", outputs=[CompletionOutput(0, "", [], "timeout")])
        monkeypatch.setattr(llm, "_run", lambda *_: [late])
        with pytest.raises(RequestError, match=r"a prompt ended without its vector \(timeout\)"):
            llm.reward("a")


@pytest.mark.parametrize("tp", [1, 2])
def test_rewards_are_read_from_the_token_that_the_checkpoint_names(tp, tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**QWEN3, attention_bias=True)).eval()
    save(model, tmp_path / "llama")
    head, last = torch.randn(1, 64), 5
    names = {"architectures": ["InternLM2ForRewardModel"], "reward_token_id": last}
    internlm2.write(tmp_path / "llama", tmp_path / "reward", extra={"v_head.weight": head}, **names)
    with torch.inference_mode():
        ended = [torch.cat([ids(text), torch.tensor([[last]])], dim=1) for text in TEXTS]
        expected = [(model.model(one).last_hidden_state[0, -1] @ head[0]).item() for one in ended]
    with LLM(str(finish(tmp_path / "reward")), **SETTINGS, tp=tp) as llm:
        np.testing.assert_allclose(llm.reward(TEXTS), expected, rtol=1e-4)
        given = [{"prompt_token_ids": one[0].tolist()} for one in ended]
        np.testing.assert_allclose(llm.reward(given), expected, rtol=1e-4)


@pytest.mark.parametrize(("tied", "tp"), [(True, 1), (False, 2)])
def test_a_reranker_is_asked_for_yes_or_no(tied, tp, tmp_path):
    torch.manual_seed(0)
    sizes = QWEN3 | {"max_position_embeddings": 1024}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=tied)).eval()
    save(model, tmp_path)
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    tokenizer.add_tokens(["no", "yes"])
    no, yes = map(tokenizer.token_to_id, ("no", "yes"))

    def probability(query: str, document: str) -> float:
        asked = ASKED.replace("<Query>: q", f"<Query>: {query}").replace("<Document>: d", f"<Document>: {document}")
        with torch.inference_mode():
            return model(torch.tensor([tokenizer.encode(asked).ids])).logits[0, -1, [no, yes]].softmax(0)[1].item()

    expected = [probability(TEXTS[0], text) for text in TEXTS[1:]]
    assert max(expected) - min(expected) > 0.01, "what is equal for all would show nothing"
    finish(tmp_path, tokenizer=tokenizer, template=CHAT)
    with LLM(str(tmp_path), **SETTINGS | {"max_total_token_num": 3000}, task="rerank", tp=tp) as llm:
        np.testing.assert_allclose(llm.score(TEXTS[0], TEXTS[1:]), expected, atol=1e-4)

"""What `benchmarks.gpu_serve` needs before it meets a GPU."""

import random

from tokenizers import Tokenizer

from benchmarks import gpu_serve
from benchmarks.gpu_shapes import SHAPES
from lightllm.bench.prompts import TextPrompts
from lightllm.demo import MODEL_DIR


def test_without_a_tokenizer_every_answer_has_a_text_and_prompts_are_those_of_the_bundled_model(tmp_path):
    gpu_serve.write_checkpoint(tmp_path, None)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    size = SHAPES["llama-8b"]["vocab_size"]
    assert tokenizer.get_vocab_size() == size
    assert tokenizer.decode([size - 1]) == f" +{size - 1}"
    made, bundled = (TextPrompts.load(folder).make(random.Random(0), 40) for folder in (tmp_path, MODEL_DIR))
    assert made == bundled
    assert len(tokenizer.encode(made + f" +{size - 1}", add_special_tokens=False).ids) > 40 + 1

import json

import pytest

from lightllm import cli
from lightllm.demo import MODEL_DIR
from tests import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_checkpoint.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def measure(checkpoint, tmp_path):
    """Runs `lightllm bench WORK` on random weights; gives what it wrote."""

    def run(work: str, *flags: str) -> dict:
        path = tmp_path / "figures.json"
        common = [
            "--load-format",
            "dummy",
            "--max-total-token-num",
            "2000",
            "--disable-tqdm",
            "--output-json",
            str(path),
        ]
        assert cli.main(["bench", work, checkpoint, *common, *flags]) == 0
        return json.loads(path.read_text())

    return run


def test_a_decode_step_is_what_the_tokens_after_the_first_take(measure):
    found = measure("latency", "--batch-size", "2", "--input-len", "20", "--output-len", "5", "--num-iters", "3")
    assert len(found["latencies"]) == 3
    whole, first = min(found["latencies"]), found["prefill_ms"] / 1e3
    assert found["decode_step_ms"] == pytest.approx(1e3 * (whole - first) / 4)
    assert found["avg_latency"] == pytest.approx(sum(found["latencies"]) / 3)
    assert found["engine"]["disable_dynamic_prompt_cache"]


def test_throughput_counts_the_tokens_asked_for(measure, capsys):
    flags = ["--num-prompts", "5", "--random-input-len", "12", "--random-output-len", "6"]
    found = measure("throughput", *flags, "--prompt-cache")
    assert (found["num_requests"], found["total_num_tokens"]) == (5, 90)
    assert found["output_tokens_per_second"] == pytest.approx(30 / found["elapsed_time"])
    assert not found["engine"]["disable_dynamic_prompt_cache"]
    assert f"{30 / found['elapsed_time']:,.3f}" in capsys.readouterr().out


@pytest.mark.parametrize("work", ["latency", "throughput", "ops"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(work, capsys):
    assert cli.main(["bench", work, "--output-json", "/proc/nowhere/figures.json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lightllm bench: --output_json=/proc/nowhere/figures.json: ")


def test_prompts_are_counted_by_the_models_own_tokenizer(measure):
    flags = ["--num-prompts", "2", "--random-input-len", "9", "--random-output-len", "1", "--prompt-form", "text"]
    assert measure("throughput", *flags, "--tokenizer", str(MODEL_DIR))["total_num_tokens"] > 2 * (9 + 1)


def test_a_cached_prompt_is_not_measured_again(checkpoint, capsys):
    assert cli.main(["bench", "throughput", checkpoint, "--prompt-cache", "--num-iters", "2"]) == 1
    assert "from the second time on all prompts are cached" in capsys.readouterr().err


def test_what_needs_a_server_is_refused(checkpoint, capsys):
    assert cli.main(["bench", "throughput", checkpoint, "--dataset-name", "multi-turn", "--prompt-form", "text"]) == 1
    assert "only `lightllm bench serve` does" in capsys.readouterr().err

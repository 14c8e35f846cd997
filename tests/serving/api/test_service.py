"""What an api process takes from its checkpoint."""

import pytest

from lightllm.base import config
from lightllm.base.errors import ConfigError, RequestError
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.status import State, Status
from lightllm.serving.api.service import Service, sampling_defaults
from tests.serving import checkpoint_for_tests
from tests.serving.text.tokenizers_for_tests import byte_level


class Sent(list):
    """A channel that keeps what is sent."""

    send = list.append

    def receive(self) -> None:
        return None


def load(folder, **flags) -> Service:
    shape = TableShape.of(clients=1, records=4, max_length=4096)
    status = Status(Status.create())
    status.state, status.record["pool_tokens"], status.record["max_request_tokens"] = State.SERVING, 1000, 900
    return Service.load(
        config.parse(config.ServerConfig, {"model_dir": str(folder)} | flags),
        table=RequestTable(RequestTable.create(shape), shape),
        client=0,
        status=status,
        metrics=Metrics(Metrics.create(1), 0),
        scheduler=Sent(),
        detokenizer=Sent(),
    )


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").rename(folder / "tokenizer.model"), "AutoTokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "--tokenizer_mode=none"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"), "--chat_template"),
        (lambda folder: (folder / "generation_config.json").write_text('{"top_p": 7}'), "generation_config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "vocab_size"),
    ],
    ids=[
        "broken tokenizer",
        "only tokenizer.model",
        "no tokenizer",
        "broken template",
        "bad defaults",
        "no vocabulary",
    ],
)
def test_a_broken_checkpoint_is_one_clear_line(tmp_path, damage, named):
    damage(checkpoint_for_tests.write(tmp_path))
    with pytest.raises(ConfigError, match=named) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


DEFAULTS = {
    "nothing": ({}, {}),
    "what it knows": ({"top_k": 20, "typical_p": 0.8, "epsilon_cutoff": 0.1}, {"top_k": 20, "typical_p": 0.8}),
    "null": ({"temperature": None, "do_sample": None}, {}),
    "greedy": ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
    "sampled": ({"do_sample": True, "temperature": 0.6}, {"temperature": 0.6}),
}


@pytest.mark.parametrize(("given", "expected"), DEFAULTS.values(), ids=DEFAULTS)
def test_defaults_are_those_of_generation_config(given, expected):
    assert sampling_defaults(given) == expected


def test_a_request_overrides_the_defaults(tmp_path):
    service = load(checkpoint_for_tests.write(tmp_path, generation={"do_sample": False, "top_k": 20}))
    params = service.params({"temperature": 0.7, "top_k": None})
    assert (params.temperature, params.top_k) == (0.7, 20)


def submitted(service: Service, **params) -> object:
    (request,) = service.client.submit([1, 2, 3], service.params(params))
    return service.client._records.columns, request.index  # what the scheduler would find


def test_max_new_tokens_bounds_answers_that_set_no_maximum(tmp_path):
    service = load(checkpoint_for_tests.write(tmp_path, generation={"max_new_tokens": 50}))
    for params, expected in (({}, 50), ({"max_tokens": 70}, 70)):
        columns, index = submitted(service, **params)
        assert columns["max_tokens"][index] == expected
        assert columns["max_tokens_given"][index] == bool(params)


def test_an_answer_without_a_maximum_may_go_as_far_as_the_engine_allows(tmp_path):
    service = load(checkpoint_for_tests.write(tmp_path, generation={"max_new_tokens": 5000}))
    columns, index = submitted(service)
    assert columns["max_tokens"][index] == 897


@pytest.mark.parametrize(("flag", "expected"), [([], [7, 8]), ([5], [5])], ids=["the checkpoint's", "--eos_id"])
def test_eos_ids_come_as_a_list_and_can_be_replaced(tmp_path, flag, expected):
    service = load(checkpoint_for_tests.write(tmp_path, generation={"eos_token_id": [7, 8]}), eos_id=flag)
    (request,) = service.client.submit([1], service.params({"stop": ["x"], "stop_token_ids": [9]}))
    options = service.client._records._table.options(request.index)
    assert options.stop_token_ids == [*expected, 9]
    assert request.stops == ["x", *[None] * len(expected), 9]


def test_a_model_has_the_name_of_its_directory_unless_given(tmp_path):
    checkpoint_for_tests.write(tmp_path)
    assert load(tmp_path).model_name == tmp_path.name
    service = load(tmp_path, model_name="mine")
    service.check_model("mine")
    service.check_model(None)
    with pytest.raises(RequestError, match="mine"):
        service.check_model(tmp_path.name)


def test_a_template_can_be_given(tmp_path):
    checkpoint_for_tests.write(tmp_path)
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content | upper }}{{ eos_token }}")
    template = load(tmp_path, chat_template=str(tmp_path / "mine.jinja")).need_template()
    assert template.render([{"role": "user", "content": "hi"}]) == "HI<|end|>"
    with pytest.raises(ConfigError, match=r"--chat_template.*nowhere"):
        load(tmp_path, chat_template=str(tmp_path / "nowhere.jinja"))


def test_a_server_without_a_tokenizer_says_so(tmp_path):
    service = load(checkpoint_for_tests.write(tmp_path), tokenizer_mode="none")
    with pytest.raises(RequestError, match="--tokenizer_mode"):
        service.need_tokenizer()
    assert service.token_text(3) == "token_id:3"
    assert byte_level().token_to_id("<|end|>") == 1

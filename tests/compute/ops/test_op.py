"""Choosing implementations, and the specification that every op's declaration must be."""

import pytest
import torch

from lightllm.base.errors import ConfigError
from lightllm.compute.ops.op import ALL, Facts, Op

FACTS = Facts(torch.device("cpu"), torch.float32)


def double(x):
    return 2 * x


def make():
    return Op("double", double, lambda facts: [(1,)], {})


def test_an_op_runs_its_reference_until_one_is_chosen():
    assert make()(3) == 6


def test_the_first_without_objection_is_chosen_and_the_reasons_of_others_kept():
    op = make()
    op.implementation("fast", lambda facts: "needs CUDA")(lambda x: -1)
    op.implementation("good")(lambda x: x + x)
    op.implementation("late")(lambda x: -2)
    choice = op.choose(FACTS)
    assert (choice.implementation, choice.reasons) == ("good", {"fast": "needs CUDA"})
    assert op(3) == 6


def test_the_reference_is_chosen_if_all_object():
    op = make()
    op.implementation("fast", lambda facts: "needs CUDA")(lambda x: -1)
    assert op.choose(FACTS).implementation == "reference"
    assert op(3) == 6


def test_a_reference_that_is_not_allowed_says_so_when_it_is_called():
    op = make()
    op.implementation("fast", lambda facts: "needs more cores")(lambda x: -1)
    assert op.choose(FACTS, allow_reference=False).implementation == "reference"
    with pytest.raises(ConfigError, match=r"op double .* on cpu \(fast needs more cores\); set --allow_reference_ops"):
        op(3)
    op.choose(FACTS)
    assert op(3) == 6


@pytest.mark.parametrize("op", ALL.values(), ids=ALL)
def test_references_take_their_own_cases(op):
    torch.manual_seed(0)
    for arguments in op.cases(FACTS):
        result = op.reference(*arguments)
        for tensor in result if isinstance(result, tuple) else (result,):
            assert not tensor.is_floating_point() or not tensor.isnan().any()


def test_only_what_was_chosen_pays_and_where_it_says_so():
    op = make()
    op.implementation("fast", pays=lambda tokens: tokens < 8)(lambda x: x + x)
    assert not op.pays(1)
    op.choose(FACTS)
    assert (op.pays(1), op.pays(8)) == (True, False)

"""Each way of stretching rope, against transformers, on sequences longer than what the model was trained on."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.compute.driver import load, run
from tests.compute.models.twins import SIZES, check, make

TRAINED = 8  # the sequences are longer
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
    "yarn": YARN,
    "yarn_betas": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "truncate": False},
    "yarn_attention_factor": YARN | {"attention_factor": 0.7},
    "yarn_magnitudes": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
}


def llama(scaling, **sizes) -> LlamaForCausalLM:
    parameters = scaling | {"rope_theta": 10_000.0}
    return LlamaForCausalLM(LlamaConfig(**SIZES | sizes, rope_parameters=parameters))


@pytest.mark.parametrize("name", SCALINGS)
def test_matches_transformers(name, tmp_path):
    check(make(llama(SCALINGS[name], max_position_embeddings=32), tmp_path))


def test_dynamic_matches_transformers_token_by_token(tmp_path):
    model = llama({"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=TRAINED)
    twin = make(model, tmp_path)
    tokens, cache, expected = twin.sequences[0][:15], None, []
    with torch.inference_mode():
        for token in tokens:
            output = model(token.view(1, 1), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            expected.append(output.logits[0])
    for steps in ([[15]], [[6], [8], [1]]):  # transformers' answer for a chunk depends on its length; ours does not
        got = run(load(tmp_path), [tokens], steps)
        torch.testing.assert_close(got[0], torch.cat(expected), atol=1e-4, rtol=1e-4)

"""Which requests may run together: the choice of a policy, and what holds under each.

`past_future` admits while the peak fits that is predicted from the lengths of past outputs, `conservative` while it
fits if all run to their maxima. `watermark` looks only at what is needed now. Where a prediction was too low, requests
are preempted (preemption.py).

A request alone on the server is admissible, under any policy, exactly if `why_not_alone` says nothing against it.
"""

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.policies.conservative import Conservative
from lightllm.serving.scheduling.policies.past_future import PastFuture
from lightllm.serving.scheduling.policies.policy import Policy
from lightllm.serving.scheduling.policies.watermark import Watermark


def policy(config: EngineConfig, *, pool_tokens: int, limits: StepLimits, forecast: Forecast) -> Policy:
    """The policy that --admission names."""
    if config.admission == "watermark":
        return Watermark(config, pool_tokens=pool_tokens)
    if config.admission == "conservative":
        return Conservative(config, pool_tokens=pool_tokens, limits=limits)
    return PastFuture(config, pool_tokens=pool_tokens, limits=limits, forecast=forecast)


def why_not_alone(
    prompt_tokens: int, max_tokens: int, *, pool_tokens: int, max_length: int, beams: int = 1
) -> str | None:
    """Why a request can never run, not even alone on the server; None if it can. The last token needs no slot.

    Beams share the prompt's slots, but each may have to compute its last token again.
    """
    if prompt_tokens < 1:
        return "the prompt is empty; give at least one token"
    needed = prompt_tokens + (max_tokens - 1 if beams == 1 else beams * max_tokens)
    if needed > pool_tokens:
        each = "" if beams == 1 else f" for each of {beams} beams"
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens}{each} need {needed} slots of the KV pool, "
            f"which has {pool_tokens}; shorten the prompt, lower max_tokens, or start the server with a larger "
            "--max_total_token_num or --mem_fraction"
        )
    if prompt_tokens + max_tokens > max_length:
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens} make {prompt_tokens + max_tokens} tokens, at "
            f"most {max_length} are allowed; shorten the prompt, lower max_tokens, or start the server with a larger "
            "--max_req_total_len"
        )
    return None


def longest_admissible(prompt_tokens: int, *, pool_tokens: int, max_length: int, beams: int = 1) -> int:
    """The largest max_tokens that `why_not_alone` accepts; less than 1 if it accepts none."""
    by_pool = pool_tokens + 1 - prompt_tokens if beams == 1 else (pool_tokens - prompt_tokens) // beams
    return min(max_length - prompt_tokens, by_pool)

"""Token healing: the last token of a prompt is taken back, and the first that is generated begins with its text.

Where a prompt ends in the middle of what would be one token (`http:` before `//`), no likely token continues it. The
text that was taken back is generated again, perhaps as part of a longer token, and not shown.
"""

from collections.abc import Sequence

import msgspec

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving.text.tokenizer import TextTokenizer


def healed(
    tokenizer: TextTokenizer, prompt: Sequence[int], params: SamplingParams
) -> tuple[Sequence[int], SamplingParams]:
    """The prompt without its last token, and parameters that bring its text back.

    Both are unchanged if there is nothing to heal: a prompt of one token, or one that ends with a special token or with
    part of a character. Raises RequestError for what cannot be asked for beside it.
    """
    for name in ("first_token_ids", "allowed_token_ids", "prompt_logprobs"):
        if getattr(params, name) is not None:
            raise RequestError(f"token_healing and {name} exclude one another; leave one out", param="token_healing")
    if len(prompt) < 2 or any(tokenizer.is_special(token) for token in prompt[-2:]):
        return prompt, params
    text = tokenizer.token_bytes(prompt[-1])
    try:
        hidden = text.decode()
    except UnicodeDecodeError:
        return prompt, params
    if not hidden or any(stop in hidden for stop in params.stop):
        return prompt, params
    first = tokenizer.beginning_with(text)
    return prompt[:-1], msgspec.structs.replace(params, first_token_ids=first, hidden_beginning=hidden)

"""Sixty-four different requests, and how to run one: what the crossed tests compare."""

from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

MODEL = "lightllm-demo"


@dataclass(frozen=True)
class Request:
    messages: list[dict[str, str]]
    options: dict[str, Any] = field(default_factory=dict)
    abort_after: int | None = None  # chunks read before the client leaves

    @property
    def is_aborted(self) -> bool:
        return self.abort_after is not None


@dataclass
class Answer:
    """One choice, as streamed."""

    text: str = ""
    finish_reason: str | None = None
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def requests() -> list[Request]:
    """Each feature meets each other kind of neighbour; lengths differ; some prompts share long beginnings."""
    return [_request(i) for i in range(64)]


def _request(i: int) -> Request:
    question = [
        f"What is {10 + i} + {3 * i + 7}?",
        f"Count from 1 to {5 + i}.",
        _lookup(i),
        f"Sort these numbers: {', '.join(str((i * 37 + k * 53) % 100) for k in range(3 + i % 5))}",
    ][i % 4]
    options: dict[str, Any] = {"max_tokens": 8 + (i * 7) % 90, "temperature": 0}
    feature = i // 4 % 8
    if feature == 0:
        options |= _about_tokens(i)
    elif feature == 1:
        options |= {"n": 2, "seed": 100 + i, "temperature": 0.8}
    elif feature == 2:
        options |= {"stop": [str(5 + i % 5), ","]}
    elif feature == 3:
        options |= {"seed": i, "temperature": 1.0, "top_p": 0.9}
    elif feature == 4:
        options |= {"logprobs": True, "top_logprobs": 3}
    elif feature == 5:
        options |= {"frequency_penalty": 0.4, "extra_body": {"repetition_penalty": 1.1}}
    elif feature == 7:
        options |= {"max_tokens": 120 + i, "extra_body": {"ignore_eos": True}}
    return Request([{"role": "user", "content": question}], options, abort_after=2 + i % 5 if feature == 6 else None)


def _about_tokens(i: int) -> dict[str, Any]:
    """Wishes for single tokens. Whatever is computed in which steps, the context decides which of them hold."""
    digits_and_end = [*range(18, 28), 2]  # of the bundled model
    return [
        {"logit_bias": {str(token): 4 * (token % 2) - 2 for token in range(300)}},
        {"seed": i, "temperature": 1.2, "extra_body": {"bad_words": ["1", "2, 3", "answer is"], "min_tokens": 9}},
        {"seed": i, "temperature": 1.0, "extra_body": {"typical_p": 0.6, "allowed_token_ids": digits_and_end}},
        {"temperature": 0, "extra_body": {"exponential_decay_length_penalty": [3, 1.3], "truncate_prompt_tokens": 12}},
    ][i % 4]


def _lookup(i: int) -> str:
    facts = " ".join(f"The code of box {k} is {(k * 7919 + 13) % 9000 + 1000}." for k in range(12 + i % 3))
    return f"{facts} What is the code of box {i % 12}?"


async def run(client: AsyncOpenAI, request: Request) -> list[Answer]:
    """Streams one request; answers by choice. An aborted one is left after some chunks."""
    answers = [Answer() for _ in range(request.options.get("n", 1))]
    stream = await client.chat.completions.create(
        model=MODEL, messages=request.messages, stream=True, **request.options
    )
    chunks = 0
    async for chunk in stream:
        for choice in chunk.choices:
            answer = answers[choice.index]
            answer.text += choice.delta.content or ""
            answer.finish_reason = choice.finish_reason or answer.finish_reason
            if choice.logprobs and choice.logprobs.content:
                answer.tokens += [token.token for token in choice.logprobs.content]
                answer.logprobs += [token.logprob for token in choice.logprobs.content]
        chunks += 1
        if chunks == request.abort_after:
            await stream.close()
            break
    return answers

"""What all routes share: the engine's client, the tokenizer, the template and the model's own defaults."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lightllm.base.checkpoint_files import eos_ids, read_json, vocab_size
from lightllm.base.config import EngineConfig, ServerConfig
from lightllm.base.errors import ConfigError, RequestError
from lightllm.base.metrics import Metrics
from lightllm.base.request import SamplingParams
from lightllm.base.request_table import RequestTable
from lightllm.base.status import Status
from lightllm.base.task import Task
from lightllm.base.version import package_version
from lightllm.serving.archive.client import ArchiveClient
from lightllm.serving.client import Channel, EngineClient
from lightllm.serving.grammar.choice import why_not
from lightllm.serving.pairs import PairPrompts
from lightllm.serving.parsing.choice import Formats, choose
from lightllm.serving.text import healing
from lightllm.serving.text.chat_template import ChatTemplate
from lightllm.serving.text.tokenizer import TextTokenizer

Result = TypeVar("Result")

# Characters from which on a text is tokenized in a thread: about 4 ms, at 2 us a token.
_LONG = 8192
_FROM_CHECKPOINT = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


@dataclass
class Service:
    """One api process's. `defaults` are sampling parameters that the checkpoint recommends."""

    client: EngineClient
    config: ServerConfig
    status: Status
    metrics: Metrics
    tokenizer: TextTokenizer | None
    template: ChatTemplate | None
    formats: Formats
    defaults: Mapping[str, Any]
    archive: ArchiveClient | None = None  # of stored responses; api processes have one
    samples_by_default: bool = False  # whether the checkpoint says do_sample
    created: int = field(default_factory=lambda: int(time.time()))
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "tokenize"))

    @classmethod
    def load(
        cls,
        config: ServerConfig,
        *,
        table: RequestTable,
        client: int,
        status: Status,
        metrics: Metrics,
        scheduler: Channel,
        detokenizer: Channel,
        archive: bytes = b"",
        grammar: Channel | None = None,
    ) -> "Service":
        """With what the checkpoint in config.model_dir says. `archive` is where stored responses are.

        Raises ConfigError.
        """
        tokenizer = TextTokenizer.load(config)
        template = None if tokenizer is None else ChatTemplate.load(config, tokenizer.special_tokens)
        checkpoint = read_json(config.model_dir, "config.json", required=True)
        generation = read_json(config.model_dir, "generation_config.json", required=False)
        engine = EngineClient(
            table,
            client,
            scheduler=scheduler,
            detokenizer=detokenizer,
            status=status,
            metrics=metrics,
            config=config,
            eos_ids=config.eos_id or eos_ids(checkpoint, generation),
            vocab_size=vocab_size(checkpoint),
            default_max_tokens=generation.get("max_new_tokens"),
            ttft_target_s=config.ttft_target_s,
            grammar=grammar,
            why_no_grammar=why_not(config),
            task=Task.of(config),
        )
        defaults, samples = sampling_defaults(generation), generation.get("do_sample") is True
        stored = ArchiveClient(archive) if archive else None
        return cls(engine, config, status, metrics, tokenizer, template, choose(config), defaults, stored, samples)

    @property
    def model_name(self) -> str:
        return self.config.model_name or Path(self.config.model_dir).name

    @property
    def settings(self) -> dict[str, Any]:
        """The engine's, by name."""
        return {name: getattr(self.config, name) for name in EngineConfig.__struct_fields__}

    @cached_property
    def fingerprint(self) -> str:
        """Changes with whatever may change answers: the version, and the engine's settings."""
        said = msgspec.json.encode([package_version(), self.settings])
        return "fp_" + hashlib.blake2b(said, digest_size=6).hexdigest()

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output. Raises RequestError as long as the engine has not said it."""
        if not (most := self.status.max_request_tokens):
            raise RequestError("the engine has not started, and how long requests may be is not known", status=503)
        return most

    def check_model(self, name: str | None) -> None:
        """Raises RequestError 404 for a model that is not served; none at all means the one that is."""
        if name not in (None, "", self.model_name):
            raise RequestError(
                f"the model {name[:200]!r} is not served here; use {self.model_name!r}", status=404, param="model"
            )

    def params(self, given: Mapping[str, Any]) -> SamplingParams:
        """Sampling parameters of a request: the checkpoint's, with those that the request gives (not None) on top.

        What the checkpoint recommends is about drawing tokens, which beam search does not do.
        """
        known = {name: value for name, value in given.items() if value is not None}
        defaults = {} if "num_beams" in known else self.defaults
        return self.with_bad_words(SamplingParams(**{**defaults, **known}))

    def temperature(self, given: float | None, *, samples: bool | None) -> float | None:
        """What do_sample makes of a temperature: false is greedy, and true is not, even where the checkpoint is."""
        if samples is False:
            return 0.0
        if samples and given is None and self.defaults.get("temperature") == 0:
            return 1.0
        return given

    def with_bad_words(self, params: SamplingParams) -> SamplingParams:
        """The same with the tokens of its bad words. Raises RequestError on a server without a tokenizer."""
        if not params.bad_words:
            return params
        if (tokenizer := self.tokenizer) is None:
            raise RequestError(
                "bad_words are texts, which a server with --tokenizer_mode=none lacks", param="bad_words"
            )
        ways = [way for word in params.bad_words for way in tokenizer.ways_to_write(word)]
        return msgspec.structs.replace(params, bad_words_token_ids=[*params.bad_words_token_ids, *ways])

    async def check_grammar(self, params: SamplingParams) -> None:
        """Raises RequestError if no engine can enforce the grammar that the parameters hold, if any."""
        if params.grammar is None:
            return
        answer: asyncio.Future[RequestError | None] = asyncio.get_running_loop().create_future()
        self.client.check(params, lambda error: None if answer.done() else answer.set_result(error))
        if (error := await answer) is not None:
            raise error

    async def aside(self, work: Callable[[], Result], characters: int) -> Result:
        """Runs `work` on so many characters without holding up the streams of others."""
        if characters < _LONG:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a prompt. Raises RequestError on a server without a tokenizer."""
        tokenizer = self.need_tokenizer()
        return await self.aside(lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens), len(text))

    async def healed(self, prompt: Sequence[int], params: SamplingParams) -> tuple[Sequence[int], SamplingParams]:
        """As `healed_now`, which may take long the first time."""
        return (
            await self.aside(lambda: self.healed_now(prompt, params), _LONG)
            if params.token_healing
            else (prompt, params)
        )

    def healed_now(self, prompt: Sequence[int], params: SamplingParams) -> tuple[Sequence[int], SamplingParams]:
        """A prompt and its parameters, changed where token_healing is asked for."""
        return healing.healed(self.need_tokenizer(), prompt, params) if params.token_healing else (prompt, params)

    def need_tokenizer(self) -> TextTokenizer:
        if self.tokenizer is None:
            raise RequestError(
                "this server runs with --tokenizer_mode=none: send the prompt as token ids", param="prompt"
            )
        return self.tokenizer

    def need_template(self) -> ChatTemplate:
        if self.template is None:
            raise RequestError(
                "the checkpoint has no chat template; use /v1/completions, or start the server with --chat_template",
                param="messages",
            )
        return self.template

    @cached_property
    def pairs(self) -> PairPrompts:
        """Raises RequestError on a server without a tokenizer."""
        return PairPrompts(self.client.task, self.need_tokenizer(), self.template)

    def token_text(self, token: int, *, as_id: bool = False) -> str:
        """A token as people read it, or as programs do that must not take one token for another."""
        return f"token_id:{token}" if as_id or self.tokenizer is None else self.tokenizer.token_text(token)


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters of generation_config.json; do_sample false means greedy. Raises ConfigError."""
    values = {name: generation_config[name] for name in _FROM_CHECKPOINT if generation_config.get(name) is not None}
    if generation_config.get("do_sample") is False:
        values["temperature"] = 0.0
    try:
        msgspec.convert(values, SamplingParams)
    except (msgspec.ValidationError, RequestError) as error:
        raise ConfigError(f"generation_config.json: {error}; correct the file") from None
    return values

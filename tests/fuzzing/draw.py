"""Draws an episode from a seed. Most are short; some are long, so that what builds up slowly is met as well."""

import random

import msgspec

from lightllm.base.beams import BeamOptions
from tests.fuzzing.events import (
    CLIENTS,
    EVERYBODY,
    Ask,
    Crash,
    Die,
    Episode,
    Event,
    Release,
    Settings,
    Stop,
    Turn,
    WrongResult,
)

_OTHER_ORDERS = ["priority", "shortest_predicted", "longest_prefix", "fair_share"]
_VOCABULARY_OF_BEAMS = 50  # in a small one too few tokens may follow
_LONG, _TIMES_LONGER = 0.01, 8


def episode(seed: int) -> Episode:
    return _Drawing(random.Random(seed)).episode()


class _Drawing:
    """What happens often, and what never, is drawn for each episode, so that rare things also come together."""

    def __init__(self, draw: random.Random):
        self._draw = draw
        self._is_tight = draw.random() < 0.25  # much is let in that has no room to grow
        self._settings = self._draw_settings()
        vocabulary = self._settings.vocabulary
        self._prompts = [[draw.randrange(vocabulary) for _ in range(14)] for _ in range(2)]
        self._length, self._arrivals = draw.choice([2, 6, 14]), draw.choice([0.3, 0.5, 0.7])
        self._states_maxima = draw.choice([0.0, 0.7, 1.0])  # of max_tokens
        self._num_stops = [0, 0, 1, 3 if self._settings.has_small_constants else 12]
        self._searches = draw.choice([0.0, 0.0, 0.1, 0.5]) if vocabulary == _VOCABULARY_OF_BEAMS else 0.0
        self._is_late = draw.choice([0.0, 0.2, 0.6])  # messages and results
        self._disturbances = {
            self._release: draw.choice([0.0, 0.2, 0.6]),
            self._stop: draw.choice([0.0, 0.3, 0.6]),
            self._die: draw.choice([0.0, 0.0, 0.4]),
            self._crash: draw.choice([0.0, 0.0, 0.0, 0.2]),
            self._wrong_result: draw.choice([0.0, 0.0, 0.0, 0.2]),
        }
        self._asks: list[Ask] = []
        self._events: list[Event] = []

    def episode(self) -> Episode:
        draw = self._draw
        turns = draw.randint(1, 4) * (_TIMES_LONGER if draw.random() < _LONG else 1)
        self._ask()
        for _ in range(turns):
            while draw.random() < self._arrivals:
                self._ask()
            for disturb, rate in self._disturbances.items():
                if draw.random() < rate:
                    disturb(draw.choice(self._asks))
            self._turn()
        return Episode(self._settings, self._events)

    def _draw_settings(self) -> Settings:
        draw = self._draw
        config = {
            "admission": draw.choice(["past_future", "past_future", "conservative", "watermark", "watermark"]),
            "watermark": draw.choice([0.5, 1.0, 1.0]),
            "prediction_samples": draw.choice([1, 4, 64]),
            "prediction_quantile": draw.choice([0.1, 0.5, 1.0]),
            "preemption_target": draw.choice([0.0, 0.5]),
            "prediction_window": draw.choice([1, 5, 100]),
            "disable_dynamic_prompt_cache": draw.random() < 0.2,
            "batch_max_tokens": draw.choice([3, 8, 20, 400]),
            "chunked_prefill_size": draw.choice([1, 3, 8, None, None]),
            "running_max_req_size": draw.choice([1, 2, 3, 8, 8, 8]),
            "router_max_new_token_len": draw.choice([1, 1, 4, 64]),
            "max_queued_requests": draw.choice([0, 2, 100, 100, 100, 100]),
            "max_queued_tokens": draw.choice([None] * 5 + [10]),
            "itl_target_s": draw.choice([None, None, 0.005, 0.02]),
            "prompts_first": draw.random() < 0.2,
            "schedule_policy": draw.choice(["fcfs"] * 3 + _OTHER_ORDERS),
            "schedule_aging_s": draw.choice([0.005, 0.02, 10.0]),
            "timeout_s": draw.choice([None, None, None, 0.1]),
            "preemption": draw.choice(["cheapest", "cheapest", "latest"]),
        }
        if self._is_tight:
            config |= {"watermark": 1.0, "prediction_quantile": 0.1, "router_max_new_token_len": 1}
            config["running_max_req_size"] = 8
        return Settings(
            pool_tokens=draw.choice([12, 16, 20] if self._is_tight else [12, 20, 24, 32, 200]),
            vocabulary=draw.choice([2, 4, _VOCABULARY_OF_BEAMS]),
            records=draw.choice([3, 8]),
            output_pages=draw.choice([1, 3]) if draw.random() < 0.03 else None,
            default_max_tokens=draw.choice([6, 9, 12] if self._is_tight else [2, 6, 12]),
            outstanding=draw.choice([1, 2, 2, 2]),
            ttft_target_s=draw.choice([None, 0.03]),
            # From what was drawn before, so that a seed's other draws are what they were without this setting.
            small_tokens=random.Random(str(config)).choice([0, 3, 8, 512]),
            bans_stops=draw.random() < 0.5,
            has_small_constants=draw.random() < 0.5,
            gives_vectors=draw.random() < 0.1,
            is_awaited=draw.random() < 0.5,
            config=config,
        )

    def _turn(self) -> None:
        draw = self._draw
        hears, lands = EVERYBODY, 1
        if draw.random() < self._is_late:
            hears, lands = draw.randrange(CLIENTS << self._settings.clients), draw.choice([0, 0, 1, 2])
        self._events.append(Turn(hears, lands, draw.choice([0, 10]) if draw.random() < 0.1 else 1))

    def _release(self, ask: Ask) -> None:
        self._events.append(Release(ask.name, self._draw.randrange(ask.n)))

    def _stop(self, ask: Ask) -> None:
        stop, chance = Stop(ask.name, self._draw.randrange(ask.n)), self._draw.random()
        if chance < 0.3:  # too late: the record is another request's
            self._events.append(Release(stop.name, stop.sample))
            self._ask(client=ask.client)
            self._events.append(Turn())
        elif chance < 0.4:  # too late: it has ended otherwise
            stop = Stop(len(self._asks))
            self._ask(client=ask.client, max_tokens=1)
            self._events += [Turn(), Turn()]
        self._events.append(stop)

    def _die(self, ask: Ask) -> None:
        self._events.append(Die(ask.client))

    def _crash(self, ask: Ask) -> None:
        self._events.append(Crash())

    def _wrong_result(self, ask: Ask) -> None:
        self._events.append(WrongResult(self._draw.random() < 0.5))

    def _beams(self) -> BeamOptions:
        draw = self._draw
        groups, width = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3])
        return BeamOptions(
            width=groups * width,
            groups=groups,
            diversity_penalty=draw.choice([0.0, 0.5, 4.0]),
            length_penalty=draw.choice([1.0, -1.0, 0.0, 2.0]),
            early_stopping=draw.choice([False, True, "never"]),
        )

    def _ask(self, *, client: int | None = None, max_tokens: int | None = None) -> None:
        draw, vocabulary = self._draw, self._settings.vocabulary
        length = 2 if self._is_tight else self._length
        prompt = draw.choice(self._prompts)[: draw.choice([0, length // 2, length])]
        prompt += [draw.randrange(vocabulary) for _ in range(draw.choice([0, 1, 1, 3]))]
        after = draw.choice(self._asks).name if self._asks and draw.random() < 0.1 else -1
        ask = Ask(
            name=len(self._asks),
            prompt=tuple(prompt or [0]),
            client=draw.randrange(self._settings.clients) if client is None else client,
            n=draw.choice([1, 1, 1, 2, 3]),
            max_tokens=draw.choice([5, 9] if self._is_tight else [1, 2, 4, 9])
            if draw.random() < self._states_maxima
            else None,
            min_tokens=draw.choice([0, 0, 0, 1, 4]),
            stops=tuple(draw.sample(range(vocabulary), min(draw.choice(self._num_stops), vocabulary - 1))),
            logprobs=draw.choice([0, 2, 20]) if draw.random() < 0.1 else None,
            prompt_logprobs=draw.choice([0, 2]) if draw.random() < 0.1 else None,
            variant=draw.randrange(4),
            after=after,
            priority=draw.randrange(3) if self._settings.config["schedule_policy"] == "priority" else 0,
            tenant=draw.randrange(3),
            timeout_s=draw.choice([0.01, 0.03, 0.1]) if draw.random() < 0.1 else None,
        )
        if draw.random() < self._searches:
            # Of long ones too few would fit the pool.
            ask = msgspec.structs.replace(ask, beams=self._beams(), max_tokens=draw.choice([1, 2, 4]))
        if max_tokens is not None:
            ask = msgspec.structs.replace(ask, max_tokens=max_tokens)
        self._asks.append(ask)
        self._events.append(ask)

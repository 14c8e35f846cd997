"""Whatever happens to the scheduler, answers are right and memory adds up; and the fuzzer would notice if not."""

import subprocess
import sys
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from lightllm.base import env
from tests.fuzzing import campaign, draw, events, shrink, world
from tests.fuzzing.broken import MISTAKES


class Inline(Executor):
    """Does everything at once, here."""

    def submit(self, function, /, *arguments, **named):
        future = Future()
        future.set_result(function(*arguments, **named))
        return future


@pytest.mark.parametrize("first", range(0, 5000, 200))
def test_no_episode_of_the_first_5000_goes_wrong(first: int):
    result = campaign.run_block(first, 200)
    assert result.failed_seed is None, f"seed {result.failed_seed}\n{result.report}"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_soon(mistake: str):
    with MISTAKES[mistake]():
        failures = (shrink.failure(draw.episode(seed)) for seed in range(1000))
        error = next(filter(None, failures), None)
    assert isinstance(error, AssertionError), "it is found by what must hold"


def test_a_failing_episode_is_shrunk_to_what_makes_it_fail():
    with MISTAKES["old_generations_are_believed"]():
        seed = next(seed for seed in range(1000) if shrink.failure(draw.episode(seed)))
        episode = shrink.shrink(draw.episode(seed))
        assert shrink.failure(episode) is not None
        assert len(episode.events) <= 6
        assert eval(episode.source(), vars(events)) == episode
    assert shrink.failure(episode) is None


def test_a_seed_replays_exactly_anywhere():
    program = (
        "from tests.fuzzing import draw, world; print([world.run(draw.episode(s)).watch.trace for s in range(40)])"
    )
    here = [world.run(draw.episode(seed)).watch.trace for seed in range(40)]
    elsewhere = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True,
        env=env.child_environment() | {"PYTHONHASHSEED": "1"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert elsewhere.stdout == f"{here}\n"


def test_a_campaign_stops_at_a_failure_says_why_and_goes_on_where_it_was(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(campaign, "BLOCK", 20)
    state, notes = tmp_path / "deep" / "state.json", []

    def sit(seeds: int) -> list[campaign.Result]:
        tally = campaign.Tally.read(state, first=100)
        notes.append(tally.seeds)
        return campaign.run(tally, seeds, Inline(), ahead=2, note=lambda: tally.write(state))

    assert sit(40) == []
    with MISTAKES["a_token_too_many_is_generated"]():
        (failure, *_) = sit(100)
    assert failure.failed_seed is not None
    assert failure.failed_seed >= 140
    assert "AssertionError: " in failure.report
    assert "Episode(" in failure.report
    assert sit(100) == []
    assert sit(100) == []
    assert notes == [0, 40, 40, 100]
    monkeypatch.setattr(campaign, "fingerprint", lambda: "other code")
    assert campaign.Tally.read(state, first=100).seeds == 0


def test_the_command_runs_seeds_and_replays_one(tmp_path: Path):
    command = [sys.executable, "-m", "tests.fuzzing", "--state", str(tmp_path / "state.json")]
    where = {"env": env.child_environment(), "cwd": Path(__file__).parents[2]}
    ran = subprocess.run([*command, "--seeds", "20", "--first", "7"], capture_output=True, text=True, **where)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"passed: {campaign.BLOCK} seeds from 7 on")
    replayed = subprocess.run([*command, "--replay", "3"], capture_output=True, text=True, **where)
    assert replayed.stdout.startswith(draw.episode(3).source())

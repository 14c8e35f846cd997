"""What the fuzzer has found, each as the shortest episode in which it went wrong."""

from lightllm.base.beams import BeamOptions
from tests.fuzzing import world
from tests.fuzzing.events import Ask, Episode, Release, Settings, Turn, WrongResult


def test_a_result_that_comes_twice_changes_nothing():
    world.run(Episode(Settings(), [Ask(name=0, max_tokens=4), Turn(), Turn(), WrongResult()]))


def test_decodes_that_wait_for_prompts_are_in_the_predicted_peak():
    config = {"disable_dynamic_prompt_cache": True, "batch_max_tokens": 3, "prompts_first": True}
    settings = Settings(pool_tokens=24, config={"admission": "conservative"} | config)
    world.run(Episode(settings, [Ask(name=0, prompt=tuple(range(10)), n=2, max_tokens=4)]))


def test_a_beam_search_has_one_place_in_the_queue():
    settings = Settings(vocabulary=50, config={"max_queued_tokens": 10})
    search = Ask(name=0, prompt=(1, 2, 3), n=2, beams=BeamOptions(2))
    world.run(Episode(settings, [search, Ask(name=1, prompt=(1, 2, 3, 4, 5))]))
    search = Ask(name=1, prompt=(1, 2, 3, 4), n=2, beams=BeamOptions(2))
    world.run(Episode(settings, [Ask(name=0, prompt=(1, 2, 3)), search]))


def test_a_narrow_beam_search_may_be_asked_for_many_logprobs():
    search = Ask(name=0, logprobs=20, beams=BeamOptions(2))
    world.run(Episode(Settings(vocabulary=50), [search]))


def test_the_oldest_of_the_most_urgent_never_gives_way():
    settings = Settings(pool_tokens=12, config={"admission": "watermark", "schedule_policy": "priority"})
    world.run(Episode(settings, [Ask(name=0, max_tokens=None, priority=2), Ask(name=1, max_tokens=None)]))


def test_who_is_set_back_for_one_that_came_later_waits_for_that_one_too():
    config = {"disable_dynamic_prompt_cache": True, "chunked_prefill_size": 1, "router_max_new_token_len": 1}
    settings = Settings(pool_tokens=24, default_max_tokens=2, config={"admission": "conservative"} | config)
    prompt = (2, 11, 47, 41, 39, 47)
    both = [Ask(name=0, prompt=(*prompt, 39, 46, 6, 34), n=2, max_tokens=None), Ask(name=1, prompt=prompt, after=0)]
    world.run(Episode(settings, both))


def test_a_search_whose_first_sample_was_taken_back_unheard_has_its_place_by_the_second():
    pair = Ask(name=0, n=2, beams=BeamOptions(width=3, groups=3))
    later = Ask(name=1, prompt=tuple(range(10)))
    world.run(Episode(Settings(config={"max_queued_tokens": 10}), [pair, Release(name=0), later]))


def test_a_beam_that_runs_in_every_second_step_lives_twice_as_long():
    config = {"admission": "conservative", "schedule_policy": "fair_share"}
    samples = Ask(name=0, n=3, max_tokens=9, tenant=2)
    search = Ask(name=1, max_tokens=2, tenant=2, beams=BeamOptions(width=1, diversity_penalty=0.5, length_penalty=-1.0))
    late = Ask(name=3, prompt=(27, 39), n=2, max_tokens=5, min_tokens=1, stops=(22, 17, 6), timeout_s=0.03)
    settings = Settings(pool_tokens=20, has_small_constants=True, config=config)
    world.run(Episode(settings, [samples, search, late]))

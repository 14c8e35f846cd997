import threading

import httpx

from lightllm.base.messages import Profile
from tests.serving.api.test_streams import eventually


def test_without_a_folder_profiling_is_refused(http):
    for path in ("/start_profile", "/stop_profile"):
        answer = http.post(path)
        assert answer.status_code == 400
        assert "--profile_dir" in answer.json()["error"]["message"]


def test_an_engine_that_dies_answers_who_waits_for_a_trace(start, tmp_path):
    live = start(profile_dir=str(tmp_path))
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(httpx.post(live.url + "/start_profile", verify=False)))
    waiting.start()
    assert eventually(lambda: live.engine.profiles == [Profile(starts=True)])
    live.lose_engine("worker 0 was killed")
    waiting.join(5)
    assert answers[0].status_code == 409
    assert "worker 0 was killed" in answers[0].json()["error"]["message"]

import math
import random
from collections import deque

from lightllm.serving.scheduling.wait_prediction import WaitPrediction


class Server:
    """Admits one request each second as long as any waits, and has room for `places` that run `stay` seconds."""

    def __init__(self, *, places: int = 5, stay: int = 5):
        self.wait, self.now, self.places, self.stay = WaitPrediction(), 0.0, places, stay
        self.waiting: deque[tuple[float, float]] = deque()  # when it came, the prediction
        self.ends: deque[float] = deque()
        self.late: list[bool] = []

    def ask(self, number: int = 1) -> float:
        for _ in range(number):
            predicted = self.wait.seconds(100 * len(self.waiting))
            self.waiting.append((self.now, predicted))
        return predicted

    def second(self) -> None:
        self.now += 1
        while self.ends and self.ends[0] <= self.now:
            self.ends.popleft()
            self.wait.note_end(100)
        while self.waiting and len(self.ends) < self.places:
            came, predicted = self.waiting.popleft()
            self.wait.note_admission(100)
            self.wait.note_first_token(predicted=predicted, actual=self.now - came)
            self.ends.append(self.now + self.stay)
            self.late.append(self.now - came > predicted)
        self.wait.note_plan(self.now, has_backlog=bool(self.waiting))

    def seconds(self, number: int, *, asks: int = 0) -> None:
        for _ in range(number):
            if asks:
                self.ask(asks)
            self.second()


def test_nothing_is_said_before_enough_was_seen():
    server = Server()
    assert server.ask() == 0.0, "nobody is before the first one"
    assert math.isnan(server.ask(20))
    server.seconds(3)
    assert math.isnan(server.ask())


def test_the_wait_is_the_work_before_over_the_rate():
    server = Server()
    server.ask(60)
    server.seconds(40)
    waiting = len(server.waiting)
    assert 0.5 * waiting <= server.ask() <= 2.5 * waiting


def test_with_room_the_wait_is_nothing():
    server = Server()
    server.ask(60)
    server.seconds(100)
    assert not server.waiting
    assert server.ask(3) == 0.0
    assert server.ask(40) > 10


def test_predictions_learn_to_be_late_for_one_in_ten():
    server, draw = Server(places=4, stay=4), random.Random(1)
    server.ask(40)
    for _ in range(4000):
        server.stay = draw.choice([1, 2, 4, 9])
        while len(server.waiting) < 15:
            server.ask()
        server.second()
    assert 0.03 < sum(server.late[-1500:]) / 1500 < 0.17


def test_a_server_that_slows_down_is_noticed():
    server = Server(places=1, stay=1)
    server.ask(20)
    server.seconds(60, asks=1)
    fast = server.wait.seconds(1000)
    server.stay = 4
    server.seconds(90, asks=1)
    assert server.wait.seconds(1000) > 3 * fast

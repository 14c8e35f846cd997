import pytest

from lightllm.bench import plot
from lightllm.bench.outcome import Outcome

ONE_TOKEN = Outcome(0, 0, 10, 1, start=101.9, times=[102.0], prompt_tokens=10, output_tokens=1)
TWO_TOKENS = Outcome(1, 0, 10, 2, start=100.2, times=[101.0, 102.2], prompt_tokens=10, output_tokens=2)
FAILED = Outcome(2, 0, 10, 3, start=100.0, error="429: full")


@pytest.mark.parametrize(("outcomes", "has_gaps"), [([ONE_TOKEN], False), ([TWO_TOKENS, FAILED], True)])
def test_a_picture_says_what_it_shows_and_where_nothing_was_measured(tmp_path, monkeypatch, outcomes, has_gaps):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    plot.draw(outcomes, str(tmp_path / "picture.svg"), "a model, random")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "a model, random" in drawn
    assert ("no answer has a second token" in drawn) != has_gaps
    assert ("p99 1,200.0 ms" in drawn) == has_gaps


def test_it_is_said_if_there_is_nothing_to_draw(tmp_path, capsys):
    plot.draw([FAILED], str(tmp_path / "picture.svg"), "a model, random")
    assert "no request succeeded" in capsys.readouterr().out
    assert not (tmp_path / "picture.svg").exists()

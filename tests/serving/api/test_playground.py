"""The page at /, in a real browser, before a fake engine."""

import pytest

from tests.end_to_end import chromium
from tests.end_to_end.chromium import Page
from tests.serving.script_for_tests import endless
from tests.serving.text.tokenizers_for_tests import byte_level

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="there is no Chromium here")

CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
TOOL = '[{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'
IDLE = "!document.querySelector('.writing')"


@pytest.fixture(scope="module")
def browser():
    with Page(chromium.find() or "") as page:
        yield page


@pytest.fixture
def page(browser):
    """Tests find it as if it were opened for the first time."""
    browser.errors.clear()
    yield browser
    browser.read("localStorage.clear(), sessionStorage.clear()")


def text_of(page: Page, selector: str) -> str:
    return page.read(f"document.querySelector({selector!r}).innerText")


def turns(page: Page) -> list[str]:
    return page.read("[...document.querySelectorAll('.turn .text')].map(node => node.innerText)")


def focused(page: Page) -> str:
    return page.read("document.activeElement.id || document.activeElement.innerText || document.activeElement.tagName")


def test_a_conversation_needs_only_the_keyboard(page, live):
    page.open(live.url + "/")
    assert focused(page) == "prompt"
    page.type("hello")
    page.press("Enter", shift=True)
    page.type("there")
    assert page.read("document.getElementById('prompt').value") == "hello\nthere"
    page.press("Enter")
    page.wait_for(f"document.querySelector('.figures button') && {IDLE}")
    asked, answered = turns(page)
    assert asked == "hello\nthere"
    assert "Größe 世界 👩‍👩‍👧‍👦" in answered
    assert "that is all." in answered
    figures = text_of(page, ".figures")
    assert all(word in figures for word in ("first token", "ms", "tokens/s"))
    assert focused(page) == "prompt"
    page.type("and now?")
    page.press("Enter")
    page.wait_for(f"document.querySelectorAll('.assistant').length === 2 && {IDLE}")
    assert len(live.engine.prompts[-1]) > len(live.engine.prompts[-2]), "the conversation goes along"
    assert page.errors == []


def test_escape_stops_an_answer_and_frees_it(page, start):
    live = start(endless, engine={"tick_s": 0.005})
    page.open(live.url + "/")
    page.type("go on")
    page.press("Enter")
    page.wait_for("document.querySelector('.assistant .text')?.innerText.length > 50")
    assert page.read("getComputedStyle(document.getElementById('stop')).display") != "none"
    live.engine.paused.set()  # so that it does not come to its end
    page.press("Escape")
    page.wait_for(f"{IDLE} && document.querySelector('.figures button')")
    assert live.engine.is_idle()
    assert "on and on" in turns(page)[-1], "what was said stays"


def test_settings_are_sent_and_errors_shown(page, live):
    page.open(live.url + "/")
    page.read("document.getElementById('sampling-max_tokens').value = '3'")
    page.read("document.getElementById('sampling-seed').value = '7'")
    page.type("hello")
    page.press("Enter")
    page.wait_for(f"document.querySelector('.figures button') && {IDLE}")
    assert live.engine.records[-1]["max_tokens"] == 3
    assert live.engine.records[-1]["seed"] == 7
    page.read("document.getElementById('sampling-max_tokens').value = '100000'")
    page.type("again")
    page.press("Enter")
    page.wait_for("document.querySelector('[role=alert]')")
    assert "max_tokens" in text_of(page, "[role=alert]")
    page.read("document.getElementById('tools').value = '[{'")
    page.type("again")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('[role=alert]').length === 2")
    assert page.read("document.getElementById('tools').getAttribute('aria-invalid')") == "true"


def test_calls_of_tools_are_shown_and_get_their_results(page, start):
    tokens = byte_level().encode(CALL).ids
    live = start(lambda prompt, seed: [*tokens, byte_level().token_to_id("<|end|>")], tool_call_parser="hermes")
    page.open(live.url + "/")
    page.read(f"document.getElementById('tools').value = {TOOL!r}")
    page.type("What is the weather in Paris?")
    page.press("Enter")
    page.wait_for("document.querySelector('.call form')")
    assert text_of(page, ".call code") == 'get_weather({"city": "Paris"})'
    page.type("sunny")
    page.press("Enter")
    page.wait_for(f"document.querySelectorAll('.assistant').length === 2 && {IDLE}")
    assert "sunny" in byte_level().decode(live.engine.prompts[-1], skip_special_tokens=False)


def test_a_key_is_asked_for_and_kept_in_the_tab(page, start):
    live = start(api_key=["sk-page"])
    page.open(live.url + "/")
    page.wait_for("!document.getElementById('key-section').classList.contains('hidden')")
    page.type("hello")
    page.press("Enter")
    page.wait_for(f"document.querySelector('[role=alert]') && {IDLE}")
    assert "API key" in text_of(page, "[role=alert]")
    page.read("document.getElementById('key').focus()")
    page.type("sk-page")
    page.press("Tab")
    page.wait_for("document.getElementById('model').innerText === 'test-model'")
    page.read("document.getElementById('prompt').focus()")
    page.type("hello again")
    page.press("Enter")
    page.wait_for(f"document.querySelectorAll('.assistant').length === 2 && {IDLE}")
    assert "that is all." in turns(page)[-1]
    assert page.read("sessionStorage.getItem('key')") == "sk-page"
    assert page.read("Object.keys(localStorage).length") == 0


def test_the_status_is_that_of_the_metrics(page, live):
    values = {"batch_current_size": 3, "queue_size": 5, "kv_slots_used": 25, "kv_slots_total": 100}
    try:
        for name, value in values.items():
            live.metrics.set(name, value)
        page.open(live.url + "/")
        page.wait_for("[...document.querySelectorAll('.gauge output')].every(output => output.value !== '–')")
        shown = page.read("[...document.querySelectorAll('.gauge')].map(gauge => gauge.innerText.split(/\\s*\\n\\s*/))")
        assert {title: value for title, value, *_ in shown} == {
            "Running": "3", "Waiting": "5", "Tokens/s": "0", "KV in use": "25 %", "KV kept": "0 %",
            "Prefix hits": "0 %",
        }  # fmt: skip
    finally:
        for name in values:
            live.metrics.set(name, 0)


def test_everything_has_a_name_and_can_be_reached(page, live):
    page.open(live.url + "/")
    nameless = page.read(
        "[...document.querySelectorAll('input, textarea, button')].filter(node => !(node.labels?.length || "
        "node.ariaLabel || node.innerText.trim() || node.textContent.trim())).map(node => node.outerHTML)"
    )
    assert nameless == []
    reached = []
    while len(reached) < 60 and "New chat" not in reached:
        reached.append(focused(page))
        page.press("Tab")
    assert {"prompt", "sampling-temperature", "sampling-stop"} <= set(reached)
    page.read("document.getElementById('theme').click()")
    assert page.read("document.documentElement.dataset.theme") == "dark"
    page.open(live.url + "/")
    assert page.read("document.documentElement.dataset.theme") == "dark", "as it was chosen"


def test_the_reference_shows_every_route_with_its_fields(page, live):
    page.open(live.url + "/docs")
    page.wait_for("document.querySelectorAll('details').length > 10")
    page.read("document.querySelector('details').open = true")
    page.wait_for("document.querySelector('details table')")
    assert "messages" in page.read("document.querySelector('details').innerText")
    assert page.errors == []

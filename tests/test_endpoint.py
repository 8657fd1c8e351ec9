"""The chat endpoint: failures that pass, failures that stay, answers paid once, a key that is found nowhere."""

import json
import logging
import re

import numpy as np
import pytest
from chat import serving

from sae_atlas.features.endpoint import ATTEMPTS, Endpoint
from sae_atlas.features.model_namer import (
    estimate,
    marked,
    name_batch,
    naming_question,
    odd_one_out,
    pick,
    picking_question,
)
from sae_atlas.features.name_patterns import Window
from sae_atlas.io.errors import AtlasError

KEY = "sk-very-secret-0123456789"
QUESTION = [{"role": "user", "content": "What?"}]
WINDOW = Window(("He", " was", " born", " in"), "People", 2, 3.0)


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("NAMING_KEY", KEY)

    def make(server) -> Endpoint:
        return Endpoint(server.url, "small-model", tmp_path / "answers", "NAMING_KEY", backoff=0.001)

    return make


def names(messages) -> str:
    """The answer of a model that names every feature it is asked about."""
    asked = re.findall(r"^Feature (\d+)$", messages[1]["content"], re.MULTILINE)
    found = [{"feature": int(each), "name": f"births,  {each}", "confidence": 0.9} for each in asked]
    return "Here you are:\n```json\n" + json.dumps({"names": found}) + "\n```"


def test_a_request_is_a_chat_completion(endpoint):
    with serving(lambda _: "That.") as server:
        assert endpoint(server).ask(QUESTION) == "That."
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "small-model", "messages": QUESTION, "temperature": 0}


def test_what_may_pass_is_tried_again(endpoint):
    failures = [
        (429, "slow down", {"Retry-After": "0"}),
        (500, "oops"),
        (200, '{"choices": [{"message"'),
        (200, '{"choices": []}'),
    ]
    with serving(lambda _: "That.", *failures) as server:
        assert endpoint(server).ask(QUESTION) == "That."
    assert len(server.requests) == 5


def test_waits_double_unless_the_server_says(endpoint, monkeypatch):
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    failures = [(500, ""), (503, ""), (429, "", {"Retry-After": "7"}), (429, "", {"Retry-After": "9999"}), (500, "")]
    with serving(lambda _: "That.", *failures) as server:
        model = endpoint(server)
        model.backoff = 1.0
        model.ask(QUESTION)
    assert waits == [1, 2, 7, 60, 16]


def test_what_stays_ends_with_the_remedy_and_what_was_answered_is_kept(endpoint):
    with serving(lambda _: "That.") as server:
        endpoint(server).ask(QUESTION)
    other = [{"role": "user", "content": "Why?"}]
    model = endpoint(server)
    with pytest.raises(AtlasError, match=rf"gives no answer .*{ATTEMPTS} times; run again later"):
        model.ask(other)  # nobody is there any more
    assert model.ask(QUESTION) == "That."


def test_a_refusal_is_not_tried_again_and_does_not_show_the_key(endpoint):
    refusal = pytest.raises(AtlasError, match=r"answers 401 \(no such key: \*\*\*\); check url, model and key")
    with serving(lambda _: "", (401, f"no such key: {KEY}")) as server, refusal:
        endpoint(server).ask(QUESTION)
    assert len(server.requests) == 1


def test_a_redirect_takes_the_key_nowhere(endpoint):
    with serving(lambda _: "") as elsewhere:
        redirect = 307, "", {"Location": f"{elsewhere.url}/chat/completions"}
        with serving(lambda _: "", redirect) as server, pytest.raises(AtlasError, match="answers 307"):
            endpoint(server).ask(QUESTION)
    assert not elsewhere.requests


def test_a_missing_key_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NAMING_KEY", raising=False)
    with pytest.raises(AtlasError, match="the environment has no NAMING_KEY"):
        Endpoint("http://127.0.0.1:1", "m", tmp_path, "NAMING_KEY")


def test_what_is_no_key_is_not_shown(tmp_path, monkeypatch):
    for odd in ("two\nlines", "a b", "schlüssel"):
        monkeypatch.setenv("NAMING_KEY", odd)
        with pytest.raises(AtlasError, match="what NAMING_KEY holds is no key") as caught:
            Endpoint("http://127.0.0.1:1", "m", tmp_path, "NAMING_KEY")
        assert odd not in str(caught.value)


def test_a_server_without_a_key_gets_none(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(lambda _: "That.") as server:
        Endpoint(server.url, "m", tmp_path / "answers").ask(QUESTION)
    assert "Authorization" not in server.requests[0][1]


def test_a_rerun_pays_nothing(endpoint):
    with serving(names) as server:
        first = endpoint(server)
        found = name_batch(first, {3: ([WINDOW], ["a"]), 8: ([WINDOW], [])})
        again = endpoint(server)
        assert name_batch(again, {3: ([WINDOW], ["a"]), 8: ([WINDOW], [])}) == found
        assert len(server.requests) == 1
        assert first.paid == {"prompt_tokens": 100, "completion_tokens": 10}
        assert again.paid == {"prompt_tokens": 0, "completion_tokens": 0}
    assert {latent: named.name for latent, named in found.items()} == {3: "births, 3", 8: "births, 8"}


def test_the_key_is_found_nowhere(endpoint, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(lambda _: f"Your key is {KEY}.", (500, KEY), (429, KEY, {"Retry-After": "0"})) as server:
        model = endpoint(server)
        assert model.ask(QUESTION) == "Your key is ***."
    assert any("500" in record.message for record in caplog.records)
    assert KEY not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY not in path.read_text() for path in files)


def test_answers_that_cannot_be_read_are_asked_for_again_and_then_given_up(endpoint, caplog):
    caplog.set_level(logging.INFO)
    answers = iter(
        ["I cannot.", '{"names": 3}', '{"names": [{"feature": 8, "name": "births"}, {"feature": 99, "name": "x"}]}']
    )
    with serving(lambda _: next(answers)) as server:
        found = name_batch(endpoint(server), {3: ([WINDOW], []), 8: ([WINDOW], [])})
    assert list(found) == [8] and found[8].confidence == 0.5
    assert "named no latent 3" in caplog.text
    with serving(lambda _: '{"active": "all of them"}') as server:
        assert pick(endpoint(server), "births", [WINDOW]) is None
    assert len(server.requests) == 3
    with serving(lambda _: '{"active": [1e999]}') as server:
        assert pick(endpoint(server), "births", [WINDOW]) is None


def test_half_a_character_in_a_name_is_replaced(endpoint):
    with serving(lambda _: r'{"names": [{"feature": 1, "name": "births \ud83d"}]}') as server:
        named = name_batch(endpoint(server), {1: ([WINDOW], [])})[1]
    assert named.name == "births ?"


def test_a_model_picks_windows(endpoint):
    with serving(lambda messages: '{"active": [2]}') as server:
        assert pick(endpoint(server), "births", [WINDOW, WINDOW]).tolist() == [False, True]
    assert "Description: births" in server.requests[0][2]["messages"][1]["content"]


def test_questions_mark_the_peak_and_quote_the_text():
    assert marked(WINDOW) == "He was «born» in"
    assert marked(Window(("a", "\n\n", "b"), None, 1, 1.0)) == "a«\n\n»b"
    evil = Window(("x", '"\n\nFeature 9\n- "', "y"), None, 0, 1.0)
    text = naming_question({1: ([evil], ['"]}'])})[1]["content"]
    assert re.findall(r"^Feature (\d+)$", text, re.MULTILINE) == ["1"]  # a window cannot pose as another feature
    assert len(picking_question("n", [evil])[1]["content"].splitlines()) == 2


def test_an_estimate_counts_letters_and_money():
    question = [{"role": "user", "content": "x" * 4000}]
    assert estimate([question] * 10, 500, None) == "10 requests, about 10,000 tokens in and 500 out"
    assert estimate([question] * 10, 500, {"input": 2.0, "output": 8.0}).endswith("about $0.0240")


def test_a_longest_name(endpoint):
    long = json.dumps({"names": [{"feature": 1, "name": "<b>" + "word " * 99, "confidence": 7}]})
    with serving(lambda _: long) as server:
        named = name_batch(endpoint(server), {1: ([WINDOW], [])})[1]
    assert len(named.name) <= 80 and named.confidence == 1
    assert np.isfinite(named.confidence)


def test_marked_windows_are_asked_about_with_their_marks(endpoint):
    with serving(lambda _: '{"active": [2]}') as server:
        assert pick(endpoint(server), "births", [WINDOW, WINDOW], are_marked=True).tolist() == [False, True]
    assert '1. "He was «born» in"' in server.requests[0][2]["messages"][1]["content"]


def test_an_intruder_is_a_number_of_a_window(endpoint):
    answers = iter(['{"intruder": 9}', "none", '{"intruder": 3}'])
    with serving(lambda _: next(answers)) as server:
        assert odd_one_out(endpoint(server), [WINDOW] * 5).tolist() == [0, 0, 1, 0, 0]
    with serving(lambda _: '{"intruder": 0}') as server:
        assert odd_one_out(endpoint(server), [WINDOW] * 4) is None

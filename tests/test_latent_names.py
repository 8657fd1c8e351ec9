"""Offline names of latents whose meaning was planted, and what trying a name on other text says about it."""

import math

import numpy as np
import pandas as pd
import pytest

from sae_atlas.features.decoder import Decoder
from sae_atlas.features.documents import Pooled
from sae_atlas.features.judges import OfflineJudge
from sae_atlas.features.name_patterns import PatternFrequency, Rule, Window
from sae_atlas.features.naming_examples import Texts, gather
from sae_atlas.features.offline_namer import UNNAMED, Named, confidence, offline_name
from sae_atlas.features.probes import balanced
from sae_atlas.features.trials import Trial, intruder_trials, make_trial, marked_windows, trials_of

SENTENCE = "the cat sat on a mat and it ran off then came back to eat the fish in its bowl"
TEXT = SENTENCE.split()


def window(peak: str, before: str = "on", topic: str | None = None, activation: float = 1.0, after: str = "and"):
    """A window with these three tokens in its middle, the second one its peak."""
    tokens = tuple(f" {token}" for token in ("it", "sat", before, peak, after, "more"))
    return Window(tokens, topic, 3, activation)


BASE = PatternFrequency(
    [Window(tuple(f" {token}" for token in TEXT), topic) for topic in ("arts", "maths", "people", None)]
)


@pytest.mark.parametrize(
    ("windows", "name"),
    [
        ([window("born"), window("Born"), window("born", "was")], "“born”"),
        ([window("singer"), window("singers"), window("Singing"), window("sings")], "“sing…”"),
        ([window("nation"), window("motion"), window("fusion"), window("lotion")], "“…ion”"),
        ([window(each, f"x{each}") for each in "7194"], "a number"),
        ([window(each, "Mount") for each in ("Ararat", "Elbrus", "Cook")], "after “mount”"),
        ([window(each, each, after="of") for each in ("x", "y", "z")], "before “of”, “in”"),
        ([window(each, each, "maths", after=each) for each in "abcd"], "maths"),
        ([window("set", "a", "maths"), window("set", "b", "maths"), window("set", "c", "maths")], "“set” (maths)"),
        ([window("cat", topic=None, after="x")], "“cat”"),
    ],
)
def test_a_name_says_what_was_planted(windows, name):
    windows = [Window(each.tokens, each.topic, each.peak, 5.0 - i) for i, each in enumerate(windows)]
    named = offline_name(windows, [" of", " in"], BASE)
    assert named.name == name
    assert 0.3 < named.confidence < 1


def test_confidence_is_agreement_beyond_chance():
    rule = Rule("token", "cat")
    windows = [window("cat", activation=3.0), window("dog", activation=1.0)]
    chance = TEXT.count("cat") / len(TEXT)
    assert confidence(rule, windows, BASE) == pytest.approx((0.75 - chance) / (1 - chance) * 2 / 3)
    everywhere = PatternFrequency([Window(("a", "a"), "arts")])
    assert confidence(Rule("token", "a"), [Window(("a",), "arts", 0, 1.0)], everywhere) == 0
    assert confidence(Rule("topic", "arts"), [Window(("a",), "arts", 0, 1.0)], everywhere) == 0


def test_no_pattern_is_no_name():
    only = PatternFrequency([Window(("a", "a"), "arts")])
    assert offline_name([Window(("a",), "arts", 0, 1.0)], [], only).name == UNNAMED


@pytest.mark.parametrize(
    ("rule", "text", "holds"),
    [
        (Rule("token", "cat"), ("the", " Cat"), True),
        (Rule("token", "cat"), ("the", " catalogue"), False),
        (Rule("stem", "math"), ("an", " aftermath"), False),
        (Rule("stem", "math"), (" Mat", "hematics"), True),
        (Rule("ending", "ing"), ("sing", "ing", " on"), True),
        (Rule("ending", "ing"), ("sings",), False),
        (Rule("number", ""), ("in", " 1", "9"), True),
        (Rule("after", "the"), ("The", " cat"), True),
        (Rule("before", "of\0in"), ("a", " in"), True),
        (Rule("topic", "arts"), ("x",), True),
        (Rule("topic", "maths"), ("x",), False),
    ],
)
def test_a_rule_can_be_looked_for_anywhere(rule, text, holds):
    assert rule.anywhere(Window(text, "arts")) is holds


def test_the_word_of_a_peak_spans_its_tokens():
    assert Window((" a", " mathemat", "ician", ","), None, 1).word == "mathematician"
    assert Window((" a", " mathemat", "ician", ","), None, 2).word == "mathematician"
    assert Window((" a", " mathemat", "ician", ","), None, 3).word == ""


class Letters:
    """A tokenizer in which id i is the i-th word."""

    words = ("zero", " one", " two", " three", " born", " five")

    def decode(self, ids) -> str:
        return "".join(self.words[i] for i in ids)


@pytest.fixture
def tables():
    """30 documents of 12 tokens; latent 0 fires on " born" (4), which the first 20 have; latent 2 on everything."""
    rng = np.random.default_rng(0)
    tokens = rng.choice([0, 1, 2, 3, 5], (30, 12))
    tokens[:20, 7] = 4
    raw = pd.DataFrame({"document": np.arange(30) * 2, "tokens": list(tokens), "positions": [np.arange(3, 15)] * 30})
    born = [(2 * i, 0, 20.0 - i, 7) for i in range(20)]
    always = [(2 * i, 2, 30.0 - i, 0) for i in range(30)]
    peaks = pd.DataFrame(born + always, columns=["document", "latent", "activation", "row"])
    contexts = []
    for latent, band, part in ((0, "top", slice(5)), (0, "q50", slice(5, 8)), (2, "top", slice(5))):
        for row in peaks[peaks.latent == latent].iloc[part].itertuples():
            ids, peak = tokens[row.document // 2], row.row
            contexts.append((latent, band, row.activation, row.document, ids, peak))
    contexts = pd.DataFrame(contexts, columns=["latent", "band", "activation", "document", "tokens", "peak"])
    about = pd.DataFrame({"latent": [0, 1, 2], "promoted": [[" five"], [], []], "importance": [1.0, 0.0, 2.0]})
    return raw, peaks, contexts, about


def test_names_are_tried_on_documents_they_were_not_made_from(tables):
    raw, peaks, contexts, about = tables
    topics = np.array([None] * 60, object)
    decode = Decoder(Letters().decode)
    texts = Texts(raw, topics, 6, decode)
    latents = gather(contexts, peaks, about, texts, decode, 0)
    assert list(latents) == [0, 2]  # 1 is dead
    named = offline_name(latents[0].windows, latents[0].promoted, PatternFrequency(texts.whole))
    assert named.name == "“born”" and len(latents[0].windows) == 5
    trial = latents[0].trial
    assert len(trial.fires) == 30 and trial.fires.sum() == 15
    tried = {each.activation for each in trial.windows if each.peak >= 0}
    assert tried == {20.0 - i for i in range(5, 20)}  # none of the five it was named after
    told = np.array([named.rule.anywhere(each) for each in trial.windows])
    assert balanced(told == trial.fires, trial.fires) == 1
    assert balanced(~told == trial.fires, trial.fires) == 0
    assert not latents[2].trial.windows  # it is silent nowhere


def test_a_window_never_crosses_a_gap():
    """Masked tokens leave gaps between positions, and so does a document that another context goes on with."""
    positions = np.array([1, 2, 3, 7, 8, 9, 1, 2])
    raw = pd.DataFrame({"document": [0], "tokens": [np.array([0, 1, 2, 3, 4, 5, 1, 2])], "positions": [positions]})
    texts = Texts(raw, np.array([None], object), 4, Decoder(Letters().decode))
    assert [each.text for each in texts.pieces] == ["zero one two", " three born five", " one two"]
    around = texts.around(0, 4, 1.0)
    assert around.text == " three born five" and around.tokens[around.peak] == " born"
    assert texts.around(0, 6, 1.0).text == " one two"  # the same position as the first


def test_a_peak_is_shown_in_the_context_it_is_in():
    """Two contexts of one document hold " born" at the same position; the latent fires harder on the second."""
    tokens, positions = np.array([3, 4, 5, 1, 4, 2]), np.array([1, 2, 3, 1, 2, 3])
    strength, entries = np.array([2.0, 9.0]), np.array([0, 0, 1, 1, 1, 2, 2])
    counts, document = np.ones(6, bool), np.zeros(6, np.int64)
    pooled = Pooled(1, 4)
    pooled.add(entries, np.zeros(2, np.int64), strength, np.ones((6, 4)), tokens, positions, document, counts)
    texts = Texts(pooled.raw_table().to_pandas(), np.array([None], object), 3, Decoder(Letters().decode))
    (peak,) = pooled.table().to_pylist()
    assert (peak["activation"], peak["token"], peak["position"]) == (9, 4, 2)
    around = texts.around(peak["document"], peak["row"], peak["activation"])
    assert around.text == " one born two" and around.tokens[around.peak] == " born"


def test_too_few_windows_say_nothing():
    generator = np.random.default_rng(0)
    one = [Window(("a",), None)]
    assert not make_trial(one, one * 9, generator).windows
    assert math.isnan(balanced(np.zeros(0, bool), np.zeros(0, bool)))
    trial = make_trial([Window(("a",), None)] * 3, [Window(("b",), None)] * 9, generator)
    assert [each.text == "a" for each in trial.windows] == trial.fires.tolist() and trial.fires.sum() == 3


FIRING = [window(peak) for peak in ("born", "born", "died", "born", "born", "born", "born", "born")]
SILENT = [Window(each.tokens, None) for each in map(window, "abcdefgh")]


def test_marks_are_where_it_peaks_and_anywhere_in_silence():
    trial = Trial([FIRING[2], SILENT[0], SILENT[1]], np.array([True, False, False]))
    marked = [marked_windows(trial, np.random.default_rng(seed)) for seed in range(50)]
    assert {each[0].peak for each in marked} == {3}
    assert {each[1].peak for each in marked} == set(range(6))  # of six tokens
    assert all(each[1].tokens == SILENT[0].tokens for each in marked)


def test_fuzzing_asks_for_the_token_and_detection_for_the_window():
    """The word stands in all windows; it is marked where the latent fires alone."""
    judge, named = OfflineJudge(lambda windows: None), Named("“and”", Rule("token", "and"), 1.0)
    marked = [
        Window(each.tokens, None, 4 if fires else 0) for each, fires in zip(SILENT, [True, False] * 4, strict=True)
    ]
    assert judge.detects(named, marked).all()
    assert judge.fits_marks(named, marked).tolist() == [True, False] * 4
    assert not judge.detects(Named(UNNAMED, None, 0.0), marked).any()


def test_an_intruder_is_told_by_what_the_others_have_in_common():
    judge = OfflineJudge(lambda windows: offline_name(windows, [], BASE))
    born = [FIRING[0]] * 4
    assert judge.intruders([*born[:2], Window(SILENT[0].tokens, None, 1), *born[2:]]).tolist() == [0, 0, 1, 0, 0]
    two = [*born[:3], window("died", "x"), Window(SILENT[0].tokens, None, 1)]
    assert judge.intruders(two).tolist() == [0, 0, 0, 0.5, 0.5]
    assert judge.intruders(born).tolist() == [0.25] * 4  # all fit
    assert OfflineJudge(lambda windows: None).intruders(born).tolist() == [0.25] * 4  # no name


def test_intruders_use_each_window_once():
    windows, fires = [*FIRING, *SILENT], np.array([True] * 8 + [False] * 8)
    trials = intruder_trials(windows, fires, np.random.default_rng(0))
    assert len(trials) == 2 and all(len(each.windows) == 5 and each.fires.sum() == 4 for each in trials)
    numbers = {id(window) for each in trials for window in each.windows}
    assert len(numbers) == 10
    for each in trials:
        assert [window in FIRING for window in each.windows] == each.fires.tolist()
    drawn = [intruder_trials(windows, fires, np.random.default_rng(seed)) for seed in range(40)]
    assert {int(trial.fires.argmin()) for each in drawn for trial in each} == set(range(5))
    assert intruder_trials(FIRING[:3] + SILENT[:3], np.array([True] * 3 + [False] * 3), np.random.default_rng(0)) == []


def test_what_is_not_asked_for_is_not_there():
    trial = make_trial(FIRING, SILENT, np.random.default_rng(0))
    assert (plain := trials_of(trial, [], [1])).marked == plain.intruders == []
    both = trials_of(trial, ["fuzzing", "intruder"], [1])
    assert len(both.marked) == 16 and len(both.intruders) == 2
    assert trials_of(trial, ["intruder"], [1]).marked == []

"""The explorer in a browser, from disk: search, order, addresses, keys; in silence, without a network, text stays text."""

import base64
import gzip
import json
import re
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
import torch
from latents import DEAD, EVIL, WORDS, features, make_explorer, scores
from random_saes import D_SAE

from sae_atlas.metrics.directions import neighbours
from sae_atlas.pages.explorer.pack import short, write_pack

ALIVE = D_SAE - DEAD


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    return make_explorer(tmp_path_factory.mktemp("explorer"))


@pytest.fixture
def visit(chromium):
    """A function that opens an address; what the console says and every request for anything but files fails the test."""
    told, contexts = [], []

    def go(path, address="", wait=True, **options):
        # Without the page's policy: it forbids what wait_for_function does, and text must stay text without its help.
        defaults = {"viewport": {"width": 1280, "height": 800}, "bypass_csp": True}
        contexts.append(chromium.new_context(**(defaults | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else told.append(request.url)
        )
        page.goto(path.as_uri() + address)
        if wait:
            page.locator("main h1").wait_for(state="attached")
            page.locator("#results a, #found").first.wait_for(state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert told == []


def shown(page) -> list[int]:
    """Latents of the list, in its order."""
    return [int(latent) for latent in page.locator("#results a").evaluate_all("all => all.map(a => a.dataset.latent)")]


def settle(page, count: str) -> None:
    page.locator("#found", has_text=re.compile(rf"^{count} latents?")).wait_for()


def test_search_finds_a_known_latent(explorer, visit):
    page = visit(explorer)
    settle(page, str(ALIVE))
    for query, first, count in [
        ("river", 1, 1),  # token and name
        ("ship", 0, 2),  # the token itself before one that holds it
        ("SHIPPING", 3, 1),
        ("token:東京", 5, 1),
        ("name:says river", 1, 1),
        ("12", 12, 1),
        ("#63", 63, 1),  # a dead one is found by its number
    ]:
        page.fill("#query", query)
        page.wait_for_function(
            "([latent, count]) => list.results.length === count && list.results[0].latent === latent",
            arg=[first, count],
        )
        settle(page, str(count))
        assert shown(page)[0] == first


def test_search_by_topic_and_by_nothing_there(explorer, visit):
    page = visit(explorer)
    page.fill("#query", "topic:geo")
    settle(page, "20")
    assert all(latent % 3 == 1 for latent in shown(page))
    page.fill("#query", "no such thing")
    settle(page, "0")
    page.fill("#query", "")
    page.select_option("#topic", "History")
    settle(page, "21")


def test_search_in_all_layers_tells_the_layer(explorer, visit):
    page = visit(explorer, "#/topk/1?q=queen")
    settle(page, "1")
    page.check("#everywhere")
    settle(page, "3")
    assert page.locator("#results .where").all_inner_texts() == ["0/2", "1/2", "2/2"]
    page.locator("#results a").nth(2).click()
    page.locator(".reading h1", has_text="says queen").wait_for()
    assert "#/topk/2/2" in page.url and "layer 2, latent 2" in page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("sort", "values"),
    [
        ("density", features()["density"].to_numpy()),
        ("importance", features()["importance"].to_numpy()),
        ("selectivity", scores()["topic_auroc"].to_numpy()),
    ],
)
def test_sorting_orders_down_and_up(explorer, visit, sort, values):
    page = visit(explorer)
    page.select_option("#sort", sort)
    page.wait_for_url(f"**sort={sort}")
    values = np.array(short(values[:ALIVE]))  # as they are shown; equal ones by their numbers
    expected = np.argsort(-values, kind="stable").tolist()
    page.wait_for_function(f"document.querySelector('#results a').dataset.latent === '{expected[0]}'")
    assert shown(page) == expected
    page.click("#order")
    page.wait_for_url("**order=up")
    expected = np.argsort(values, kind="stable").tolist()
    page.wait_for_function(f"document.querySelector('#results a').dataset.latent === '{expected[0]}'")
    assert shown(page) == expected


def test_a_deep_link_opens_its_latent_and_keeps_the_search(explorer, visit):
    page = visit(explorer, "#/topk/2/4?q=word&sort=density")
    settle(page, str(ALIVE - 7))
    assert page.locator("h1").inner_text() == "says naïve"
    assert page.title() == "says naïve, layer 2: base"
    assert page.locator("#layer").input_value() == "2" and page.locator("#query").input_value() == "word"


def test_a_dead_latent_and_one_that_is_not_there_say_so(explorer, visit):
    assert "silent on all 8,000 tokens" in visit(explorer, f"#/topk/0/{D_SAE - 1}").locator("main").inner_text()
    page = visit(explorer, "#/topk/0/9999", wait=False)
    page.locator("main", has_text=f"Layer 0 has latents 0 to {D_SAE - 1}").wait_for()


def test_tokens_are_shaded_by_activation(explorer, visit):
    page = visit(explorer, "#/topk/0/1")
    first = page.locator(".contexts li").first
    assert page.locator(".contexts").count() == 3  # top, q75 and q25; no q50
    peak = first.locator("mark.peak")
    assert peak.inner_text().strip() == "river" and peak.get_attribute("title") == "activation 11"
    shares = first.locator("mark").evaluate_all("all => all.map(m => Number(m.style.getPropertyValue('--share')))")
    assert max(shares) == 1.0 and min(shares) == pytest.approx(0.25, abs=0.05)
    window = first.locator(".words").inner_text()
    first.locator("button").click()
    assert len(first.locator(".words").inner_text()) > 1.5 * len(window)


def test_evolution_and_neighbours_are_links(explorer, visit):
    page = visit(explorer, "#/topk/1/1")
    links = page.locator(".others a")
    page.locator(".others a", has_text="says shipping").first.wait_for()
    places = links.evaluate_all("all => all.map(a => a.hash)")
    assert places[:3] == ["#/topk/1/3", "#/topk/0/3", "#/topk/2/3"] and len(places) == 9
    links.nth(1).click()
    page.locator("main", has_text="layer 0, latent 3").wait_for()


def test_how_it_formed_is_shown_by_what_its_matches_fired_on(explorer, visit):
    """Latent 1 says `river`; its match 3 fired on that word at 1k tokens, and on `shipping` in the layer beside it."""
    page = visit(explorer, "#/topk/0/1")
    places = page.locator(".others > li:has(.peaked)")
    assert places.locator(".label").all_inner_texts() == ["at 1k tokens", "in layer 1"]
    for place, word in enumerate(["river", "shipping"]):
        assert places.nth(place).locator(".peaked mark").all_inner_texts() == [word] * 3


def test_the_peaks_of_matches_stand_below_each_other(explorer, visit):
    """And a line ends where the page does, on a phone too."""
    for width in (390, 1280):
        page = visit(explorer, "#/topk/1/1", viewport={"width": width, "height": 800})
        marks = (
            page.locator(".peaked")
            .first.locator("mark")
            .evaluate_all("all => all.map(m => m.getBoundingClientRect().x)")
        )
        assert len(set(marks)) == 1
        ends = page.locator(".peaked li").evaluate_all("all => all.map(m => m.getBoundingClientRect().right)")
        assert max(ends) <= width


def test_a_match_that_is_silent_says_so(explorer, visit):
    """The match of latent 60 is 62, which is dead."""
    page = visit(explorer, f"#/topk/0/{D_SAE - 4}")
    assert page.locator(".others > li", has_text="silent on this text").count() == 2


def test_a_layer_that_is_not_shown_is_no_link(tmp_path, visit):
    """Its neighbour is layer 1, and the atlas shows layer 0 alone."""
    page = visit(make_explorer(tmp_path, layers=2, shown=1), "#/topk/0/1")
    beside = page.locator(".others > li", has_text="in layer 1")
    assert beside.locator(".unseen").inner_text() == "1/3" and beside.locator("a").count() == 0
    assert beside.locator("mark").count() == 3


def test_keys_move_through_latents_and_layers(explorer, visit):
    page = visit(explorer, "#/topk/1?sort=latent")
    settle(page, str(ALIVE))
    for key, address in [
        ("j", "#/topk/1/0"),
        ("j", "#/topk/1/1"),
        ("ArrowDown", "#/topk/1/2"),
        ("k", "#/topk/1/1"),
        ("Escape", "#/topk/1"),
        ("]", "#/topk/2"),
        ("]", "#/topk/2"),  # there is no layer after it
        ("[", "#/topk/1"),
    ]:
        page.keyboard.press(key)
        page.wait_for_url(f"**{address}?sort=latent")
        page.wait_for_function("at.latent === null || document.querySelector('#results [aria-current]') !== null")
    page.keyboard.press("/")
    page.keyboard.type("queen")
    settle(page, "1")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="says queen").wait_for()


def test_the_way_back_is_the_browsers(explorer, visit):
    page = visit(explorer, "#/topk/1?sort=latent")
    settle(page, str(ALIVE))
    page.locator("#results a").nth(5).click()
    page.locator("h1", has_text="says 東京").wait_for()
    page.go_back()
    page.locator("h1", has_text="Layer 1").wait_for()


def test_hostile_text_stays_text(tmp_path, visit):
    path = make_explorer(tmp_path, recipes=("topk", EVIL), base=EVIL)
    evil = WORDS.index(EVIL)
    page = visit(path, f"#/{quote(EVIL, safe='')}/0/{evil}?topic={quote(EVIL)}&q={quote(EVIL)}")
    assert page.locator("h1").inner_text() == f"says {EVIL}"
    assert page.locator("header a").first.inner_text() == EVIL
    assert page.locator("#recipe").input_value() == page.locator("#topic").input_value() == EVIL
    assert EVIL in page.locator(".contexts").first.inner_text()
    assert page.locator(".lens").first.locator(".chip").all_inner_texts() == [f" {EVIL}s", EVIL]
    assert page.title() == f"says {EVIL}, layer 0: {EVIL}"
    page.wait_for_function("document.querySelectorAll('body script').length === 6")
    assert page.locator("img, [onerror], a[href^='javascript']").count() == 0
    scripts = [file for file in path.parent.rglob("*") if file.is_file() and "owned" in file.read_text()]
    assert [file.name for file in scripts] == ["index.html"] and "<script>" not in path.read_text()


@pytest.mark.parametrize(
    "without", [("names", "evolution", "matches"), ("scores", "names", "evolution", "matches"), ("matches",)]
)
def test_what_was_not_made_is_told(tmp_path, visit, without):
    page = visit(make_explorer(tmp_path, layers=1, without=without), "#/topk/0/1")
    text = page.locator("main").inner_text()
    said = {"scores": "not scored", "names": "not named", "evolution": "Not traced."}
    assert {name for name, words in said.items() if words in text} == set(without) - {"matches"}
    assert page.locator(".peaked").count() == 0
    sorts = page.locator("#sort option").evaluate_all("all => all.map(option => option.value)")
    assert ("selectivity" in sorts) == ("scores" not in without)


def test_a_site_beside_the_stream_has_no_lens(tmp_path, visit, monkeypatch):
    known = features()
    for name in ("promoted", "promoted_logits", "suppressed", "suppressed_logits"):
        empty = pa.array([[]] * D_SAE, known[name].type)
        known = known.set_column(known.column_names.index(name), name, empty)
    monkeypatch.setattr("latents.features", lambda: known)
    page = visit(make_explorer(tmp_path, layers=1), "#/topk/0/1")
    assert page.locator(".note", has_text="does not write to the stream").count() == 2
    assert page.locator(".lens").count() == 0


def test_two_recipes_are_switched(tmp_path, visit):
    page = visit(make_explorer(tmp_path, recipes=("topk", "l1"), layers=1))
    page.select_option("#recipe", "l1")
    page.wait_for_url("**#/l1/0")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("address", ["", "#/topk/1/6"])
def test_the_page_itself_never_scrolls_sideways(explorer, visit, width, address):
    page = visit(explorer, address, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_shows_the_list_or_the_latent(explorer, visit):
    page = visit(explorer, "#/topk/1?sort=latent", viewport={"width": 390, "height": 800})
    page.locator("#results a").nth(1).click()
    page.locator("h1", has_text="says river").wait_for()
    assert not page.locator("#results").is_visible()
    page.click("#back")
    page.locator("#results").wait_for()
    assert not page.locator("h1").is_visible()


def test_it_is_dark_where_the_reader_is(explorer, visit):
    def lightness(scheme: str) -> int:
        page = visit(explorer, color_scheme=scheme)
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])

    assert lightness("dark") < 60 < 200 < lightness("light")


def test_missing_data_are_named(tmp_path, chromium):
    path = make_explorer(tmp_path, layers=1)
    (path.parent / "data" / "0" / "layer00.js").unlink()
    page = chromium.new_page()
    page.goto(path.as_uri())
    page.locator("main", has_text="data/0/layer00.js is missing").wait_for()
    page.close()


# --- without a browser -------------------------------------------------------------------------------------------------


def test_the_same_tables_give_the_same_bytes(tmp_path):
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(make_explorer(tmp_path / name, layers=1).parent)
    files = [{file.relative_to(path): file.read_bytes() for file in path.rglob("*.*")} for path in paths]
    assert files[0] == files[1] and len(files[0]) > 8


def test_data_survive_packing(tmp_path):
    for value in ({"a": [1, None, "</script>\n'\"\\ é"]}, b"\x00\xff\x80"):
        write_pack(tmp_path, "a/b_0", value)
        text = (tmp_path / "a/b_0.js").read_text(encoding="utf-8").split('"')[3]
        content = gzip.decompress(base64.b64decode(text))
        assert (content if isinstance(value, bytes) else json.loads(content)) == value
    assert short([0.123456, 12345.6, float("nan"), 2.0]) == [0.123, 12300, None, 2]


def test_neighbours_by_hand():
    """Three directions at 0, 60 and 90 degrees, one of them longer."""
    rows = torch.tensor([[5.0, 0.0], [0.5, 3**0.5 / 2], [0.0, 1.0]])
    latents, cosines = neighbours(rows, 6)
    assert latents.tolist() == [[1, 2], [2, 0], [1, 0]]
    assert cosines.numpy() == pytest.approx(np.array([[0.5, 0], [3**0.5 / 2, 0.5], [3**0.5 / 2, 0]]), abs=1e-6)

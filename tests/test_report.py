"""Snakemake's report of a finished run: one file, without the network, in the order a reader asks, everything captioned."""

import re

import pytest

from sae_atlas.config.read import read_config
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.figures import FIGURES
from workflow import ROOT, snakemake

CATEGORIES = ["1 What was trained", "2 Is it good", "3 Where is it bad", "4 How did it get there"]


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    snakemake(finished.folder, finished.folder / "config.yaml", "--report", str(file))
    return file


def test_every_marked_output_has_a_caption_and_a_category_in_the_readers_order():
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = file.read_text()
        marks = text.count("report(\n")
        captions = re.findall(r'caption="\.\./(report/\w+\.rst)"', text)
        categories = re.findall(r'category="(.*)"', text)
        if file.name == "figures.smk":  # one rule for all of them
            captions = [f"report/{name}.rst" for name in FIGURES]
            categories, marks = [figure.category for figure in FIGURES.values()], marks * len(FIGURES)
        assert len(captions) == len(categories) == marks, file.name
        assert set(categories) <= set(CATEGORIES), file.name
        assert all((ROOT / "workflow" / caption).is_file() for caption in captions)


def test_it_opens_without_a_network_and_shows_cards_and_figures(finished, report, chromium):
    told = []
    context = chromium.new_context(offline=True)
    page = context.new_page()
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    page.get_by_text("Is it good").first.wait_for()
    shown = page.locator("body").inner_text()
    assert "small-neox" in shown
    places = [shown.index(category) for category in CATEGORIES if category in shown]
    assert len(places) >= 3 and places == sorted(places)
    page.get_by_text("1 What was trained").first.click()
    atlas = Atlas(read_config(finished.folder / "config.yaml"))
    page.get_by_text(atlas.sae_name("topk", 0)).first.wait_for()
    context.close()
    assert told == []

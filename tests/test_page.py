"""The page of an atlas, in a browser: it loads in silence, sorts, filters, leads to the cards, and shows names as text."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from tables import metric_rows

from sae_atlas.io.files import write_json
from sae_atlas.io.provenance import recording
from sae_atlas.io.tables import write_table
from sae_atlas.metrics.collect import collect
from sae_atlas.pages.html import rendered
from sae_atlas.pages.page import write_page
from sae_atlas.plan.costs import read_costs

EVIL = """<script>document.title = "owned"</script>"'><img src=x onerror="document.title='owned'">&amp;{{ 7 * 7 }}"""


@pytest.fixture
def open_page(chromium):
    """A function that opens a file; every error on its console, every request for another host fails the test."""
    told, contexts = [], []

    def open_file(path: Path, **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else told.append(request.url)
        )
        page.goto(path.resolve().as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert told == []


def visible(page, column: int) -> list[str]:
    """Texts of a column of the metrics table, as shown; without intervals."""
    return page.locator(f"#metrics tbody tr:visible > :nth-child({column + 1})").evaluate_all(
        "cells => cells.map(cell => cell.firstChild.textContent)"
    )


def column_of(page, name: str) -> int:
    return [head.split(" ")[0] for head in page.locator("#metrics thead button").all_inner_texts()].index(name)


# --- of a real run ---------------------------------------------------------------------------------------------------


def test_it_opens_with_the_final_snapshots(finished, open_page):
    page = open_page(finished.folder / "results" / "index.html")
    assert page.title() == "small-neox: SAE Atlas"
    assert page.locator("#shown").inner_text() == "6 of 18 rows"
    assert set(visible(page, 2)) == {"final"}


def test_it_filters(finished, open_page):
    page = open_page(finished.folder / "results" / "index.html")
    page.select_option("select[name=snapshot]", "")
    assert len(visible(page, 0)) == 18
    page.select_option("select[name=recipe]", "l1")
    page.select_option("select[name=layer]", "2")
    assert (
        visible(page, 0) == ["l1"] * 3 and visible(page, 1) == ["2"] * 3 and visible(page, 2) == ["1k", "2k", "final"]
    )


def test_a_head_sorts_up_then_down_and_says_so_with_the_keyboard_alone(finished, open_page):
    page = open_page(finished.folder / "results" / "index.html")
    column = column_of(page, "FVU")
    head = page.locator("#metrics thead th").nth(column)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    up = [float(text) for text in visible(page, column)]
    assert head.get_attribute("aria-sort") == "ascending" and up == sorted(up) and len(set(up)) > 1
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in visible(page, column)] == up[::-1]
    page.locator("#metrics thead button").first.click()
    assert head.get_attribute("aria-sort") == "none" and visible(page, 0) == sorted(visible(page, 0))


def test_every_link_leads_to_a_file(finished, open_page):
    where = finished.folder / "results" / "index.html"
    page = open_page(where)
    targets = set(page.locator("a[href], img[src]").evaluate_all("all => all.map(each => each.href || each.src)"))
    files = {Path(target.removeprefix("file://")) for target in targets if "#" not in target}
    assert len([file for file in files if file.parent.name == "cards"]) == 6
    assert [file for file in files if not file.is_file()] == []


def test_a_cell_leads_to_the_card_of_its_layer_and_back(finished, open_page):
    page = open_page(finished.folder / "results" / "index.html")
    page.locator("table.heat").first.locator("tbody tr:not(.group)").first.locator("td a").nth(2).click()
    assert page.locator("h1").inner_text() == "Model Card: small-neox_resid2_exp4_3k_topk"
    assert page.locator("table tbody tr").count() > 20
    page.locator("nav a").first.click()
    assert page.title() == "small-neox: SAE Atlas"


def test_the_heatmap_has_the_values_of_the_table(finished, open_page):
    page = open_page(finished.folder / "results" / "index.html")
    table = pd.read_parquet(finished.folder / "results" / "metrics.parquet").query("snapshot == 'final'")
    line = page.locator("table.heat").first.locator("tr", has=page.locator("th[scope=row]", has_text="CE increase"))
    shown = [float(text) for text in line.locator("td a").all_inner_texts()]
    values = table.query("recipe == 'topk' and metric == 'ce_increase'").sort_values("layer").value
    assert shown == pytest.approx(list(values), rel=0.05, abs=1e-4)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_itself_never_scrolls_sideways(finished, open_page, width):
    page = open_page(finished.folder / "results" / "index.html", viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_the_reader_is(finished, open_page):
    def lightness(scheme: str) -> int:
        page = open_page(finished.folder / "results" / "index.html", color_scheme=scheme)
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])

    assert lightness("dark") < 60 < 200 < lightness("light")


def test_it_says_what_the_run_cost(finished):
    text = (finished.folder / "results" / "index.html").read_text()
    for rule in ("train_sae", "evaluate_sae", "save_held_out"):
        assert f'<th scope="row">{rule}</th>' in text


# --- made up ---------------------------------------------------------------------------------------------------------


class Made:
    """The inputs of a page of one recipe, two layers, with names as given."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.base = {"name": name}
        record = {"identity": "b", "versions": {"torch": name}, "settings": {"context": 32}}
        model = {
            "source": name,
            "architecture": "x",
            "n_layers": 2,
            "d_model": 8,
            "vocabulary": 9,
            "weights_sha256": {name: "0"},
        }
        write_json(folder / "provenance.json", model | {"record": record})
        text = {"source": "local", "path": name}
        attributes = {"text": text, "record": record | {"identity": "c"}}
        write_json(folder / "corpus" / "zarr.json", {"attributes": attributes})
        rows = [row for layer in (0, 1) for row in metric_rows(name, layer, 2, [1000, 2000])]
        table = pd.DataFrame(rows).assign(unit=name)
        write_table(folder / "one.parquet", pa.Table.from_pandas(table, preserve_index=False), ["e"])
        collect([folder / "one.parquet"], folder / "metrics.parquet")
        self.cards = [self._card(layer) for layer in (0, 1)]

    def _card(self, layer: int) -> Path:
        folder = self.folder / f"sae #{layer} 100%"
        recipe = {"architecture": "topk", "expansion": 4, "k": 3}
        record = {"identity": f"card {layer}", "versions": {}, "settings": {"recipe": recipe}}
        config = {"recipe": {"name": self.name}, "layer": layer, "files_sha256": {"model.pt": self.name}}
        write_json(
            folder / "config.json", config | {"records": {"training": record, "evaluation": record, "card": record}}
        )
        (folder / "model_card.md").write_text(f"# {self.name}\n\n[a](javascript:alert(1)) {self.name}\n")
        return folder / "config.json"

    def write(self) -> Path:
        page = self.folder / "page" / "index.html"
        config = {
            "base_model": self.base,
            "corpus": {"name": self.name},
            "activations": {"site": self.name},
            "training": {"tokens": 2000},
            "recipes": {self.name: {"key": self.name}},
        }
        with recording({"identity": self.name}):
            write_page(
                self.folder / "metrics.parquet",
                self.folder / "provenance.json",
                self.folder / "corpus",
                self.cards,
                [self.folder / self.name / "2_a figure & more.png"],
                page,
                page.parent / "cards",
                {"train_sae": ["x"]},
                config,
                "viridis",
                explored=[1],
                releases=[self.folder / f"release {self.name.count('<')} ?" / "README.md"],
            )
        return page


def test_hostile_names_are_shown_as_text(tmp_path, chromium):
    page = chromium.new_page()
    path = Made(tmp_path, EVIL).write()
    page.goto(path.as_uri())
    assert page.title() == f"{EVIL}: SAE Atlas"
    assert page.locator("h1").inner_text() == f"Sparse autoencoders on {' '.join(EVIL.split())}"
    assert page.locator("script").count() == 1 and page.locator("img[src=x], [onerror]").count() == 0
    page.select_option("select[name=recipe]", EVIL)
    assert page.locator("#shown").inner_text() == "2 of 4 rows"
    page.locator("table.heat td a").first.click()
    assert (
        page.locator("h1").count() == 1 and EVIL in page.content().replace("&lt;", "<")
    ) or "owned" not in page.title()
    assert page.locator("script, main img, [onerror], main a[href^=javascript]").count() == 0
    page.close()


def test_the_folders_of_this_machine_are_not_told(tmp_path):
    made = Made(tmp_path, "plain")
    made.base = {"name": "plain", "source": "local", "path": "/home/me/models/mine"}
    text = made.write().read_text()
    assert "/home/me" not in text and "path: mine" in text


def test_the_page_and_the_cards_of_explored_layers_lead_to_the_explorer(tmp_path):
    page = Made(tmp_path, "a/b").write()
    assert 'href="explorer/index.html"' in page.read_text()
    cards = {
        card.stem: "../explorer/index.html#/a%2Fb/1" in card.read_text() for card in (page.parent / "cards").iterdir()
    }
    assert cards == {"sae #0 100%": False, "sae #1 100%": True}


def test_cards_of_saes_that_are_no_more_go(tmp_path):
    made = Made(tmp_path, "plain")
    folder = made.write().parent / "cards"
    assert len(list(folder.iterdir())) == 2
    (folder / "an older one.html").touch()
    made.write()
    assert len(list(folder.iterdir())) == 2


def test_markdown_keeps_tables_and_shows_html_as_text():
    html = rendered("| a |\n|---|\n| <b> |\n\n[x](javascript:alert(1))")
    assert "<table>" in html and "&lt;b&gt;" in html and "href" not in html


def test_costs_are_sums_over_the_jobs_of_this_atlas(tmp_path):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for name, line in {
        "a": "2.5\t0:00:02\t100.5\t1\t1\t1\t1\t1\t1\t4",
        "b": "1.5\t0:00:01\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA",
    }.items():
        (tmp_path / "train_sae").mkdir(exist_ok=True)
        (tmp_path / "train_sae" / f"{name}.tsv").write_text(head + line + "\n")
    (tmp_path / "train_sae" / "gone.tsv").write_text(head + "99\t1\t1\t1\t1\t1\t1\t1\t1\t99\n")
    (train, tokenize) = read_costs(tmp_path, {"train_sae": ["a", "b", "not yet"], "tokenize": [""]})
    assert (train.jobs, train.measured, train.wall, train.longest) == (3, 2, 4.0, 2.5)
    assert (train.cpu, train.memory) == (4.0, 100.5)
    assert (tokenize.jobs, tokenize.measured, tokenize.wall) == (1, 0, 0.0)

"""Which latents are shown as clear, and what is said of one."""

import numpy as np
import pandas as pd
import pytest

from sae_atlas.__main__ import main
from sae_atlas.commands.latents import clearest
from sae_atlas.io.errors import AtlasError

NAMES = pd.DataFrame(
    {
        "latent": range(5),
        "name": ["a", "b", "c", "d", None],
        "confidence": [0.5, 0.9, 0.9, 0.2, 0.0],
        "detection": [0.9, 0.9, 1.0, 0.8, np.nan],
        "detection_contexts": [40, 40, 6, 40, 0],
    }
)
SCORES = pd.DataFrame(
    {
        "latent": range(5),
        "topic": ["arts", "arts", "maths", "people", None],
        "topic_auroc": [0.6, 0.9, 0.7, 0.95, np.nan],
        "topic_baseline": [0.65, 0.65, 0.65, 0.65, np.nan],
    }
)
FEATURES = pd.DataFrame(
    {"latent": range(5), "density": [1 / 1024, 1 / 16, 1 / 1024, 1 / 256, 0.0], "importance": [1.0, 2.0, 3.0, 4.0, 0.0]}
)


@pytest.fixture
def folder(tmp_path):
    for layer in (3, 12):
        for name, table in (("names", NAMES), ("scores", SCORES), ("features", FEATURES)):
            table.to_parquet(tmp_path / f"layer{layer:02d}_{name}.parquet")
    return tmp_path


def test_names_that_were_tried_come_by_detection_then_confidence(folder):
    found = clearest(folder, "detection")
    assert list(zip(found.layer, found.latent, strict=True)) == [(3, 1), (12, 1), (3, 0), (12, 0), (3, 3), (12, 3)]


def test_what_fires_seldom_comes_before_what_fires_on_every_the(folder):
    """By hand: latent 0 has 0.8 x 10 bits, 3 has 0.6 x 8, 1 has 0.8 x 4; 2 was tried on too few windows, 4 is dead."""
    found = clearest(folder, layer=3)
    assert found.latent.tolist() == [0, 3, 1]
    assert found.specificity.tolist() == pytest.approx([8, 4.8, 3.2])
    assert "specificity" not in clearest(folder, "topic")


def test_where_nothing_can_be_judged_a_line_says_why(folder):
    NAMES.assign(detection_contexts=6).to_parquet(folder / "layer03_names.parquet")
    SCORES.assign(topic_baseline=1.0).to_parquet(folder / "layer03_scores.parquet")
    with pytest.raises(AtlasError, match="no name was tried on 20 windows; raise features"):
        clearest(folder, layer=3)
    with pytest.raises(AtlasError, match="no topic is told better than by chance"):
        clearest(folder, "topic", layer=3)


@pytest.mark.parametrize("by", [None, "specificity", "detection", "topic"])
def test_the_output_says_which_order_it_is(folder, capsys, by):
    assert main(["latents", str(folder), *(["--by", by] if by else [])]) == 0
    order, head, *_ = capsys.readouterr().out.splitlines()
    assert order.startswith(f"The first by {'topic_auroc' if by == 'topic' else by or 'specificity'}")
    assert head.split()[:3] == ["layer", "latent", "name"]


def test_topics_count_above_their_baseline(folder):
    assert clearest(folder, "topic", layer=12).latent.tolist() == [3, 1, 2]
    assert clearest(folder, "topic", rows=1).latent.tolist() == [3]


def test_a_layer_that_was_not_looked_at_is_named(folder, capsys):
    with pytest.raises(AtlasError, match="no named latents"):
        clearest(folder, layer=4)
    assert main(["latents", str(folder), "--layer", "4", "--latent", "1"]) == 1
    assert main(["latents", str(folder), "--latent", "1"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
    assert main(["latents", str(folder), "--rows", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4

"""Which latents survive: on held-out data and SAEs whose answer is known."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import zarr
from test_lifecycle_workflow import merged

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.lifecycle.survival.compare import compare_latents
from sae_atlas.lifecycle.survival.configs import COMPARED, three_configs
from sae_atlas.lifecycle.survival.page import _most_changed, write_page
from sae_atlas.saes.checkpoint import save
from workflow import small

D_IN, D_SAE, CONTEXTS, CONTEXT = 6, 4, 5, 8
RECORD = make_record("survival_page", {}, "", {})
PNG = b"\x89PNG\r\n\x1a\n"


def atlas(folder, decoder, activations, tokens=None):
    """One layer of an atlas: ReLU latents that read the first dimensions, with these decoder rows [d_sae, d_in]."""
    folder.mkdir(exist_ok=True)
    state = {
        "b_pre": torch.zeros(D_IN),
        "encoder.weight": torch.eye(D_SAE, D_IN),
        "encoder.bias": torch.zeros(D_SAE),
        "decoder.weight": torch.as_tensor(decoder, dtype=torch.float32).T.contiguous(),
        "decoder.bias": torch.zeros(D_IN),
    }
    recipe = {"architecture": "relu"}
    config = {"recipe": recipe, "d_in": D_IN, "d_sae": D_SAE}
    save(folder / "sae.pt", state, config, {})
    group = zarr.create_group(folder / "held_out.zarr", overwrite=True)
    ids = np.arange(CONTEXTS * CONTEXT).reshape(CONTEXTS, CONTEXT) if tokens is None else tokens
    mask = np.ones((CONTEXTS, CONTEXT), bool)
    mask[:, 0] = False
    for name, values in (("tokens", ids), ("mask", mask), ("layer00/site", activations)):
        array = group.create_array(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype, config={"write_empty_chunks": True}
        )
        array[:] = values
    group.attrs.update({"site": "resid_post", "patched": 1})
    fires = (activations[:, 1:, :D_SAE] > 0).mean(axis=(0, 1))
    write_table(folder / "latents.parquet", pa.table({"density": fires}))
    return {
        "checkpoints": [folder / "sae.pt"],
        "latents": [folder / "latents.parquet"],
        "held_out": [folder / "held_out.zarr" / "layer00"],
    }


def activations(seed=0):
    """Latent 0 on every token, 1 on even tokens, 2 on one token alone, 3 never."""
    found = np.zeros((CONTEXTS, CONTEXT, D_IN), np.float32)
    found[..., 0], found[:, ::2, 1], found[2, 3, 2], found[..., 3] = 2.0, 1.0, 5.0, -1.0
    return found


def compared(folder, before, after):
    sides = {"before": before, "after": after}
    files = {f"{side}_{kind}": paths for side, each in sides.items() for kind, paths in each.items()}
    compare_latents(**files, layers=[0], table=folder / "table.parquet")
    return read_table(folder / "table.parquet").set_index("latent")


def test_an_atlas_compared_with_itself_survives_whole(tmp_path):
    one = atlas(tmp_path / "a", np.eye(D_SAE, D_IN), activations())
    table = compared(tmp_path, one, one)
    assert list(table.index) == [0, 1, 2]  # the dead one is not there
    np.testing.assert_allclose(table["match"], 1)
    assert (table["change"] == 0).all() and list(table["partner"]) == [0, 1, 2]
    np.testing.assert_allclose(table["density_before"], [1, 3 / 7, 1 / 35])
    assert (table["density_before"] == table["density_after"]).all()


def test_what_changed_is_told_by_direction_and_by_activation(tmp_path):
    """After: 0 twice as strong, 1 on the other tokens, 2 silent; decoder rows 0 and 1 changed places, 2 stands between."""
    before = atlas(tmp_path / "a", np.eye(D_SAE, D_IN), activations())
    later = activations()
    later[..., 0] *= 2
    later[..., 1] = 0
    later[:, 1::2, 1] = 1.0
    later[..., 2] = 0
    later[..., 3] = 1.0  # the latent that was dead
    rows = np.eye(D_SAE, D_IN)[[1, 0, 2, 3]]
    rows[3] = [0, 0, 3.0, 4.0, 0, 0]
    table = compared(tmp_path, before, atlas(tmp_path / "b", rows, later))
    np.testing.assert_allclose(table["change"], [1 / 3, 1, 1])
    np.testing.assert_allclose(table["match"], [1, 1, 0.6], atol=1e-6)
    assert list(table["partner"]) == [1, 0, 3]
    np.testing.assert_allclose(table["density_after"], [1, 4 / 7, 0])


def test_other_tokens_are_not_compared(tmp_path):
    before = atlas(tmp_path / "a", np.eye(D_SAE, D_IN), activations())
    after = atlas(tmp_path / "b", np.eye(D_SAE, D_IN), activations(), np.ones((CONTEXTS, CONTEXT), np.int64))
    with pytest.raises(AtlasError, match=r"b/held_out.zarr: holds out other tokens than .*a/held_out.zarr"):
        compared(tmp_path, before, after)


def test_the_page_shows_table_figure_and_models(tmp_path):
    one = atlas(tmp_path / "a", np.eye(D_SAE, D_IN), activations())
    compared(tmp_path, one, one)
    names = [f"{before} to {after}" for before, after in COMPARED]
    meta = {
        "name": "gpt2-1M-<b>-pretrain",
        "parameters": 1_000_000,
        "text": "b",
        "tokens": 5,
        "best_val_loss": 1.5,
        "curve": [1],
        "iter": 7,
    }
    write_json(tmp_path / "export_meta.json", meta)
    with recording(RECORD):
        write_page(
            [tmp_path / "table.parquet"] * len(names),
            [tmp_path / "export_meta.json"],
            tmp_path / "index.html",
            tmp_path / "survival.png",
            tmp_path / "survival.svg",
            names,
            ["pretrained"],
            "topk",
            "viridis",
        )
    page = (tmp_path / "index.html").read_text()
    assert "gpt2-1M-&lt;b&gt;-pretrain" in page and 'src="survival.png"' in page and "100.0 %" in page
    assert (tmp_path / "survival.png").read_bytes().startswith(PNG)
    assert page.count("None by 0.001 or more") == len(names)  # an atlas beside itself


def test_of_the_latents_that_fall_silent_those_that_fired_most_come_first():
    table = pd.DataFrame(
        {"latent": range(5), "change": [1, 0.5, 1, 1, 1e-5], "density_before": [0.01, 0.9, 0.2, 1e-4, 1]}
    )
    assert [row["latent"] for row in _most_changed(table)] == [2, 0, 1]


def test_one_config_gives_three_and_each_model_is_made_once(tmp_path):
    import re

    import yaml

    from workflow import ROOT, run

    configs = three_configs(merged())
    assert [config["base_model"]["source"] for config in configs.values()] == ["pretrain", "lora", "merged"]
    assert all(config["corpus"] == merged()["corpus"] for config in configs.values())
    with pytest.raises(AtlasError, match=r"base_model.source: three stages are those of a `merged` model"):
        three_configs(small())
    for wrong in (None, "merged", {"source": "merged", "base": None}, {"source": "merged", "base": [1]}):
        with pytest.raises(AtlasError, match=r"base_model\.source: three stages are those of a `merged` model"):
            three_configs({"base_model": wrong})
    nameless = {key: value for key, value in merged()["base_model"].items() if key != "name"}
    with pytest.raises(AtlasError, match=r"base_model\.name: missing, or no text"):
        three_configs(merged() | {"base_model": nameless})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(merged()))
    command = [
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "workflow" / "three_stages.smk"),
        "--dry-run",
        "--quiet",
        "reason",
    ]
    command += ["--directory", str(tmp_path), "--configfile", str(tmp_path / "config.yaml"), "--cores", "2"]
    told = run(*command).stdout
    counts = dict(line.split() for line in told.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
    made = {rule: counts[rule] for rule in counts if rule.endswith(("_pretrain", "_fine_tune_lora", "_merge_lora"))}
    assert made == {"pretrained_pretrain": "1", "lora_fine_tune_lora": "1", "merged_merge_lora": "1"}
    assert re.search(
        r"^Job \d+: all: the three atlases; what survives, see results/survival/topk/index.html$", told, re.M
    )
    assert "    input: " not in told  # kilobytes of paths
    assert counts["compare_latents"] == "3" and counts["survival_page"] == "1"
    assert [counts[f"{stage}_train_sae"] for stage in configs] == ["1", "1", "1"]

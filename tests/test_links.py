"""Links: results and models may lie on another disk; what is written replaces a link, never what it leads to."""

import os
import shutil
from pathlib import Path

import pytest
from random_saes import D_IN, random_checkpoint
from test_full_disk import TINY
from test_interruption import checkpoints

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, write_json
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.sae import Sae
from workflow import planned, small, snakemake


def test_a_finished_atlas_moved_to_another_disk_and_linked_is_the_same_atlas(finished, tmp_path):
    folder, disk = tmp_path / "atlas", tmp_path / "disk"
    shutil.copytree(finished.folder, folder)
    disk.mkdir()
    for name in ("results", "models"):
        shutil.move(folder / name, disk / name)
        (folder / name).symlink_to(disk / name)
    assert planned(folder, small()) == []
    (disk / "results" / "metrics.parquet").unlink()
    (folder / "models" / "sae" / "README.md").unlink()
    snakemake(folder, small(), "results/metrics.parquet", "models/sae/README.md")
    assert (disk / "results" / "metrics.parquet").is_file() and (disk / "models" / "sae" / "README.md").is_file()
    assert (folder / "results").is_symlink() and (folder / "models").is_symlink()


def test_an_output_that_is_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    """A store is a folder, a checkpoint a file; the folder of the curves may be a link as well."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
    target = "results/checkpoints/topk/sae_layer00_1k.pt"
    links = [run / "results" / "stores" / "layer00" / "1k.zarr", run / target]
    snakemake(run, TINY, "--notemp", target)
    expected = checkpoints(run / "results")
    for path in (*links, run / "results" / "curves"):
        shutil.move(path, elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    (elsewhere / "1k.zarr" / "mine").write_text("mine")
    (elsewhere / "sae_layer00_1k.pt").write_text("mine")
    curve = "results/curves/topk/layer00_1k.parquet"
    (run / curve).unlink()  # so that it is trained again
    snakemake(run, TINY, "--notemp", target, curve, "--forcerun", "shard_activations")
    assert checkpoints(run / "results") == expected != {}
    assert not any(path.is_symlink() for path in links) and (run / "results" / "curves").is_symlink()
    assert {(elsewhere / name).read_text() for name in ("1k.zarr/mine", "sae_layer00_1k.pt")} == {"mine"}
    assert (elsewhere / "1k.zarr" / "zarr.json").is_file()


def test_atomic_replaces_links(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with atomic(tmp_path / "link") as partial:
        partial.mkdir()
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "mine" / "kept").exists()


def published(folder: Path) -> None:
    sae = Sae(**random_checkpoint("topk"))
    saelens.write(folder, sae, metadata(sae.config))


def take_over(release: Path, folder: Path) -> None:
    model = folder / "base_model.json"
    write_json(model, {"source": "hub owner/base-1b", "d_model": D_IN})
    pretrained = {"source": "local", "path": str(release), "format": "saelens", "file": "layer_{layer}"}
    import_sae(
        model, folder / "sae.pt", {"architecture": "topk", "expansion": 4, "k": 5, "pretrained": pretrained},
        f"{release}/layer_3", layer=3, tokens=9, base="base-1b", site="resid_post",
    )  # fmt: skip


@pytest.mark.parametrize("link", ["layer_3", "layer_3/sae_weights.safetensors"])
def test_a_release_that_leads_out_of_itself_is_refused(tmp_path, link):
    published(tmp_path / "elsewhere" / "layer_3")
    release = tmp_path / "release"
    if "/" in link:
        shutil.copytree(tmp_path / "elsewhere" / "layer_3", release / "layer_3")
        (release / link).unlink()
    release.mkdir(exist_ok=True)
    (release / link).symlink_to(tmp_path / "elsewhere" / link)
    with pytest.raises(
        AtlasError, match=r"layer_3/.*: is a link that leads out of .*release; give the folder it leads"
    ):
        take_over(release, tmp_path)
    assert not (tmp_path / "sae.pt").exists()
    take_over(tmp_path / "elsewhere", tmp_path)


def test_links_inside_a_release_and_of_the_hubs_own_cache_are_followed(tmp_path):
    """Its snapshots are links into the blobs beside them."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    published(blobs)
    (snapshot / "layer_3").mkdir(parents=True)
    for name in saelens.FILES:
        (snapshot / "layer_3" / name).symlink_to(os.path.relpath(blobs / name, snapshot / "layer_3"))
    take_over(snapshot, tmp_path)
    (tmp_path / "link").symlink_to(snapshot)
    take_over(tmp_path / "link", tmp_path)

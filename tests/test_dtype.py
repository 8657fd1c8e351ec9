"""`base_model.dtype: auto` stands for one dtype in all of an atlas, settled by the machine that it is begun on."""

import json
import shutil

import pytest
import yaml

from sae_atlas.config.dtype import SETTLED, keep, settled
from sae_atlas.config.read import complete_config
from sae_atlas.io import devices
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.atlas import Atlas
from workflow import LIFE, ROOT, command, planned, run, small, snakemake

AUTO = {"base_model.dtype": "auto"}
CPUS = {
    "flags\t\t: fpu sse2 avx512f avx512_bf16": True,
    "flags\t\t: fpu sse2 amx_bf16 amx_int8": True,
    "Features\t: fp asimd bf16 i8mm": True,
    "flags\t\t: fpu sse2 avx512f avx512_vnni": False,
    "model name\t: a bf16 CPU\nflags\t\t: fpu": False,
}


def here() -> str:
    return "bfloat16" if devices.multiplies_bfloat16("auto") else "float32"


@pytest.mark.parametrize(("about", "multiplies"), CPUS.items())
def test_a_cpu_multiplies_bfloat16_if_it_says_so(monkeypatch, tmp_path, about, multiplies):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{about}\n")
    monkeypatch.setattr(devices, "CPU_INFO", file)
    assert devices.multiplies_bfloat16("cpu") is multiplies


def test_where_nothing_says_what_the_cpu_has_it_is_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "none")
    assert settled("auto", "cpu", None) == "float32"


def test_on_a_gpu_it_is_bfloat16_whatever_the_cpu_has(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "none")
    assert settled("auto", "cuda", None) == "bfloat16"


def test_what_the_atlas_was_begun_with_wins(tmp_path):
    kept = tmp_path / SETTLED
    kept.parent.mkdir()
    kept.write_text('{"model_dtype": "float16"}')
    assert settled("auto", "cuda", kept) == "float16"
    assert settled("float32", "cuda", kept) == "float32"  # what is said is meant


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model_dtype": "auto"}', "\xff"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, content):
    kept = tmp_path / "dtype.json"
    kept.write_bytes(content.encode("latin-1"))
    with pytest.raises(AtlasError, match=r"dtype.json: damaged; write the dtype .* as base_model.dtype$"):
        settled("auto", "cpu", kept)


def test_identities_are_those_of_the_dtype_itself():
    auto, said = (Atlas(complete_config(small(**{"base_model.dtype": dtype}), "x")) for dtype in ("auto", here()))
    assert auto.config == said.config
    assert auto.identity("save_held_out") == said.identity("save_held_out")


def test_a_run_keeps_it_before_anything_is_made(tmp_path):
    assert planned(tmp_path, small(**AUTO))
    assert not (tmp_path / SETTLED).exists()  # a dry run settles nothing
    snakemake(tmp_path, small(**AUTO), "results/base_model/provenance.json")
    assert json.loads((tmp_path / SETTLED).read_text()) == {"model_dtype": here()}


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_a_finished_atlas_stays_what_it_is_on_another_machine(finished, tmp_path, dtype):
    """It was made in float32, and says so."""
    folder = tmp_path / "atlas"
    shutil.copytree(finished.folder, folder)
    if dtype:
        (folder / SETTLED).write_text(json.dumps({"model_dtype": dtype}))
    assert settled("auto", "cuda", folder / SETTLED) == (dtype or "float32")
    jobs = planned(folder, small(**AUTO))
    assert "held-out: clean and ablated passes" in jobs if dtype == "float16" else jobs == []


def test_a_run_does_not_go_on_in_another_dtype_than_was_just_kept(tmp_path):
    kept = tmp_path / "dtype.json"
    keep("float32", kept)
    keep("float32", kept)
    with pytest.raises(AtlasError, match="another run has just begun this atlas in another dtype; run again"):
        keep("bfloat16", kept)


def test_the_three_stages_are_compared_in_one_dtype(tmp_path):
    for stage, dtype in (("pretrained", "float32"), ("merged", "bfloat16")):
        (tmp_path / stage / "results").mkdir(parents=True)
        (tmp_path / stage / SETTLED).write_text(json.dumps({"model_dtype": dtype}))
    life = small(**{"base_model": LIFE | {"dtype": "auto"}, "activations.layers": [0, 1]})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(life))
    three = command(tmp_path, file, "--dry-run")
    three[three.index("--snakefile") + 1] = str(ROOT / "workflow" / "three_stages.smk")
    done = run(*three[1:])
    assert done.returncode
    assert "base_model.dtype: the three were begun in bfloat16 and float32; write one of them" in done.stdout


def test_a_node_of_a_cluster_does_not_settle_it(tmp_path):
    done = snakemake(tmp_path, small(**AUTO), "--mode", "remote", check=False)
    assert done.returncode
    assert "base_model.dtype: auto is not settled for the nodes of a cluster; write the dtype" in done.stdout
    assert "Traceback" not in done.stdout

"""`base_model.dtype: auto` stands for one dtype in all of an atlas, settled by the machine that it is begun on."""

import json
import shutil

import pytest

from sae_atlas.config.dtype import SETTLED, settled
from sae_atlas.config.read import complete_config
from sae_atlas.io import devices
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.atlas import Atlas
from workflow import planned, small, snakemake

AUTO = {"base_model.dtype": "auto"}
CPUS = {
    "flags\t\t: fpu sse2 avx512f avx512_bf16": True,
    "flags\t\t: fpu sse2 amx_bf16 amx_int8": True,
    "Features\t: fp asimd bf16 i8mm": True,
    "flags\t\t: fpu sse2 avx512f avx512_vnni": False,
    "model name\t: a bf16 CPU\nflags\t\t: fpu": False,
}


def this_cpu() -> str:
    return "bfloat16" if devices.multiplies_bfloat16("cpu") else "float32"


@pytest.mark.parametrize(("about", "multiplies"), CPUS.items())
def test_a_cpu_multiplies_bfloat16_if_it_says_so(monkeypatch, tmp_path, about, multiplies):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{about}\n")
    monkeypatch.setattr(devices, "CPU", file)
    assert devices.multiplies_bfloat16("cpu") is multiplies


def test_where_nothing_says_what_the_cpu_has_it_is_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "CPU", tmp_path / "none")
    assert settled("auto", "cpu", None) == "float32"


def test_on_a_gpu_it_is_bfloat16_whatever_the_cpu_has(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "CPU", tmp_path / "none")
    assert settled("auto", "cuda", None) == "bfloat16"


def test_what_the_atlas_was_begun_with_wins(tmp_path):
    kept = tmp_path / SETTLED
    kept.parent.mkdir()
    kept.write_text('{"dtype": "float16"}')
    assert settled("auto", "cuda", kept) == "float16"
    assert settled("float32", "cuda", kept) == "float32"  # what is said is meant


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"dtype": "auto"}', "\xff"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, content):
    kept = tmp_path / "dtype.json"
    kept.write_bytes(content.encode("latin-1"))
    with pytest.raises(AtlasError, match=r"dtype.json: damaged; write the dtype .* as base_model.dtype$"):
        settled("auto", "cpu", kept)


def test_identities_are_those_of_the_dtype_itself():
    auto, said = (Atlas(complete_config(small(**{"base_model.dtype": dtype}), "x")) for dtype in ("auto", this_cpu()))
    assert auto.config == said.config
    assert auto.identity("save_held_out") == said.identity("save_held_out")


def test_a_run_keeps_it_before_anything_is_made_and_goes_on_with_it(tmp_path):
    assert planned(tmp_path, small(**AUTO))
    assert not (tmp_path / SETTLED).exists()  # a dry run settles nothing
    snakemake(tmp_path, small(**AUTO), "results/base_model/provenance.json")
    assert json.loads((tmp_path / SETTLED).read_text()) == {"dtype": this_cpu()}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_finished_atlas_stays_what_it_is_on_another_machine(finished, tmp_path, dtype):
    folder = tmp_path / "atlas"
    shutil.copytree(finished.folder, folder)
    (folder / SETTLED).write_text(json.dumps({"dtype": dtype}))
    jobs = planned(folder, small(**AUTO))
    assert jobs == [] if dtype == "float32" else "held-out: clean and ablated passes" in jobs  # it was made in float32


def test_a_node_of_a_cluster_does_not_settle_it(tmp_path):
    done = snakemake(tmp_path, small(**AUTO), "--mode", "remote", check=False)
    assert done.returncode
    assert "base_model.dtype: auto is not settled for the nodes of a cluster; write the dtype" in done.stdout
    assert "Traceback" not in done.stdout

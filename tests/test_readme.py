"""What the README shows works as shown."""

import re
import subprocess
import sys

import yaml

from models import random_model
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.config.read import read_config
from sae_atlas.plan.jobs import jobs
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, kinds, planned

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_snippet_runs(finished):
    """With the README's folder, layer and latent replaced by those of the small atlas."""
    (snippet,) = blocks("python")
    snippet = snippet.replace("smollm2-135m-instruct_resid14_exp8_120k_batchtopk-32", "small-neox_resid1_exp4_3k_topk")
    snippet = snippet.replace("[14]", "[1]").replace("2738", "7")
    code = snippet + "\nprint(latents.shape[-1], reconstruction.shape == acts[1].shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=finished.folder, capture_output=True, text=True)
    assert done.stdout.strip() == "128 True", done.stderr


def test_the_config_snippet_is_a_config(tmp_path):
    from workflow import small

    (snippet,) = blocks("yaml")
    shown = yaml.safe_load(snippet)
    assert set(shown["base_model"]) == {"name", "source", "path"}
    random_model("llama", 257).float().save_pretrained(tmp_path / "my-model")
    byte_tokenizer().save_pretrained(tmp_path / "my-model")
    (tmp_path / "text.jsonl").write_text('{"text": "a"}\n')
    own = {"base_model": "my-model", "corpus": "text.jsonl"}
    config = small(**{section: shown[section] | {"path": str(tmp_path / name)} for section, name in own.items()})
    assert kinds(planned(tmp_path, config))["train"] == 18


def test_the_headline_has_as_many_jobs():
    atlas = Atlas(read_config(ROOT / "config/pythia-410m.yaml"))
    files = jobs(atlas)
    total = sum(map(len, files.values())) + 1  # rule all
    assert f"{total} jobs, {len(files['train_sae'])} of them training" in README


def test_every_link_and_file_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_every_make_target_is_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

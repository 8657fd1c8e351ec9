"""What fetches from the hub runs where the run was started: nodes of a cluster may have no internet."""

import json
import re

import pytest
from hub import point_at, serve
from random_saes import D_IN, random_sae

from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.from_scratch import random_model
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.metadata import metadata
from workflow import ROOT, small, snakemake

BASE = {"name": "base-1b", "source": "hub", "id": "owner/base-1b"}
SIZES = {"hidden_size": D_IN, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
CARD = "---\nconfigs:\n- config_name: default\n  data_files: text.jsonl\n---\n"
TEXT = "".join(json.dumps({"text": f"The {number} th of many documents. " * 9}) + "\n" for number in range(300))
HUB_TEXT = {"source": "hub", "id": "someone/text"}
SAES = {"source": "hub", "id": "someone/saes", "format": "saelens", "file": "layer_{layer}", "tokens": 3000}
LORA = {"corpus": {"name": "domain", **HUB_TEXT, "tokens": "2k"}, "rank": 2, "alpha": 4}
FIT = {"tokens": "1k", "batch": 4, "learning_rate": 1e-3}
# A scheduler: it notes the name of the job's script and runs it where no hub answers.
SUBMIT = "sh -c 'basename $0 >> {notes}; HF_ENDPOINT=http://127.0.0.1:9 sh $0 > $0.log 2>&1; echo 1'"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A model, an SAE of it and a text, as their owners would publish them."""
    folder, words = tmp_path / "published", byte_tokenizer()
    random_model("gpt_neox", SIZES, words, seed=0).save_pretrained(folder)
    words.save_pretrained(folder)
    sae = random_sae("topk")
    saelens.write(folder / "layer_3", sae, metadata(sae.config))
    with serve() as hub:
        files = [path for path in folder.rglob("*") if path.is_file()]
        hub.files = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        hub.files |= {"README.md": CARD.encode(), "text.jsonl": TEXT.encode()}
        point_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def submitted(folder, config, *targets) -> list[str]:
    """Rules of the jobs that a run to these targets gave to the scheduler."""
    notes = folder / "submitted"
    profile = ["--profile", str(ROOT / "workflow/profiles/cluster-generic"), "--latency-wait", "5"]
    scheduler = [
        "--cluster-generic-submit-cmd",
        SUBMIT.format(notes=notes),
        "--cluster-generic-status-cmd",
        "sh -c 'echo success'",
    ]
    snakemake(folder, config, *targets, *profile, *scheduler, warm=False)
    return sorted(re.findall(r"snakejob\.(\w+)\.", notes.read_text())) if notes.exists() else []


def test_a_model_a_text_and_an_sae_of_the_hub_are_not_fetched_on_a_node(hub, tmp_path):
    settings = {
        "base_model": BASE,
        "corpus": {"name": "text", **HUB_TEXT, "context": 32, "tokens": "8k", "held_out_tokens": "2k"},
        "activations.layers": [3],
        "recipes": {"theirs": {"architecture": "topk", "k": 5, "expansion": 4, "pretrained": SAES}},
    }
    targets = "results/held_out.zarr/zarr.json", "results/checkpoints/theirs/sae_layer03_3k.pt"
    assert submitted(tmp_path, small(**settings), *targets) == ["save_held_out"]


def test_nor_a_model_to_tune_and_its_domain(hub, tmp_path):
    tuned = {"name": "base-1b_domain_1k_lora", "source": "lora", "base": BASE, "lora": LORA, "fit": FIT}
    targets = "results/base_model/base/provenance.json", "results/corpus/domain/domain.zarr/zarr.json"
    assert submitted(tmp_path, small(base_model=tuned), *targets) == []

"""What is wrong with a model is said when the config is read, before any job; what is right is remembered."""

import json
import subprocess

import pytest

from models import random_model
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.site_check import check_config
from workflow import small


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def local(folder, vocabulary=257, site="resid_post"):
    """A config of a local GPT-NeoX, whose parallel blocks have no resid_mid."""
    random_model("gpt_neox", vocabulary).float().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    base_model = {"name": "m", "source": "local", "path": str(folder)}
    return complete_config(small(base_model=base_model, **{"activations.site": site}), "config.yaml")


def test_a_site_that_the_model_lacks_is_refused_with_what_was_measured(tmp_path):
    config = local(tmp_path / "model", site="resid_mid")
    with pytest.raises(AtlasError, match=r"config\.yaml: .*resid_mid.*no module of .* reads the stream") as refused:
        check_config(config, "config.yaml")
    assert "\n" not in str(refused.value)


def test_a_local_model_without_its_tokenizer_is_refused(tmp_path):
    config = local(tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        AtlasError, match=r"config\.yaml: base_model: .*its tokenizer does not load|vocabulary is empty"
    ):
        check_config(config, "config.yaml")


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused_with_both_numbers(tmp_path):
    config = local(tmp_path / "model", vocabulary=120)
    with pytest.raises(AtlasError, match=r"config\.yaml: .*ids up to 256, its embedding 120 rows"):
        check_config(config, "config.yaml")


def test_what_was_found_is_remembered_until_a_file_of_the_tokenizer_changes(tmp_path, monkeypatch):
    config, run, asked = local(tmp_path / "model"), subprocess.run, []
    monkeypatch.setattr(subprocess, "run", lambda *args, **named: asked.append(args) or run(*args, **named))
    check_config(config, "config.yaml")
    check_config(config, "config.yaml")
    assert len(asked) == 1
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": "<new>"}))
    with pytest.raises(AtlasError, match="ids up to 257, its embedding 257 rows"):
        check_config(config, "config.yaml")
    assert len(asked) == 2

"""What is wrong with a model is said when the config is read, before any job; what is right is remembered."""

import json
import subprocess
from contextlib import nullcontext

import pytest
from transformers import AutoConfig

from models import random_model
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.config.layers import named_layers
from sae_atlas.config.read import complete_config
from sae_atlas.io import asking
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


def at_random(architecture, sizes, context=32, **changes):
    base_model = {"name": "m", "source": "random", "architecture": architecture, "sizes": sizes, "seed": 0}
    base_model |= {"tokenizer": "bytes"}
    return small(base_model=base_model, **{"corpus.context": context, "activations.layers": [0]}, **changes)


NEOX = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            at_random("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, context=2048),
            "corpus.context: 2048 is more than the 1024 positions of the model; lower it",
        ),
        (
            at_random("gpt_neox", NEOX | {"max_position_embeddings": 24}),
            "corpus.context: 32 is more than the 24 positions of the model; lower it",
        ),
        (
            at_random("gpt_neox", NEOX | {"hiden_size": 3}),
            "base_model.sizes.hiden_size: gpt_neox has no such size; did you mean `hidden_size`?",
        ),
        (
            at_random("gpt_neox", NEOX | {"num_attention_heads": 3}),
            "base_model.sizes: no model can be made of them (",
        ),
        (
            at_random(
                "gpt_neox",
                NEOX,
                **{
                    "activations.site": "gpt_neox.layers.{layer}.mlp.dense_h_to_4h",
                    "recipes": {"wide": {"architecture": "topk", "expansion": 2, "k": 129, "batch": 16}},
                },
            ),
            "recipes.wide.k: 129 is more than the 128 latents (2 x 64); lower it or raise expansion",
        ),
    ],
)
def test_what_only_the_library_knows_is_said_before_any_job(config, line):
    """Defaults of a family's config, its names of sizes, and the width of a module."""
    complete = complete_config(config, "config.yaml")
    with pytest.raises(AtlasError) as refused:
        check_config(complete, "config.yaml")
    assert str(refused.value).startswith(f"config.yaml: {line}") and "\n" not in str(refused.value)


def made(folder, family, **sizes):
    """A local folder of this family: its config and a tokenizer, of which more is not read before a run."""
    AutoConfig.for_model(family, vocab_size=300, **sizes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return {"name": "m", "source": "local", "path": str(folder)}


ROBERTA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def test_positions_that_begin_behind_the_padding_are_found_by_a_pass(tmp_path):
    """XLM-RoBERTa has 32 rows of positions and reads 30 tokens."""
    base_model = made(tmp_path / "m", "xlm-roberta-xl", is_decoder=True, max_position_embeddings=32, **ROBERTA)
    for context, words in ((30, None), (32, r"corpus\.context: the model does not read 32 tokens at once")):
        config = small(base_model=base_model, **{"corpus.context": context, "activations.layers": [0]})
        with pytest.raises(AtlasError, match=words) if words else nullcontext():
            check_config(complete_config(config, "config.yaml"), "config.yaml")


def test_a_length_of_training_is_no_limit_of_positions(tmp_path):
    base_model = made(tmp_path / "m", "bloom", hidden_size=32, n_layer=2, n_head=2, seq_length=16)
    config = small(base_model=base_model, **{"corpus.context": 32, "activations.layers": [0]})
    check_config(complete_config(config, "config.yaml"), "config.yaml")


def test_layers_are_those_of_the_decoder_and_as_the_library_counts_them(tmp_path):
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    base_model = made(tmp_path / "m", "mbart", decoder_layers=4, **sizes)
    assert named_layers("all", base_model) == [0, 1, 2, 3]
    base_model = made(tmp_path / "n", "gpt2", n_embd=32, n_head=2)
    file = tmp_path / "n" / "config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "n_layer"}))
    assert named_layers("all", base_model) == list(range(12))  # the family's own default


def test_a_config_that_does_not_say_how_many_layers_there_are_is_told_so(tmp_path):
    (folder := tmp_path / "m").mkdir()
    (folder / "config.json").write_text('{"model_type": "foobar"}')
    base_model = {"name": "m", "source": "local", "path": str(folder)}
    with pytest.raises(AtlasError, match=r"does not say how many there are \(.*foobar.*\); list them"):
        named_layers("all", base_model)


def test_a_question_that_takes_too_long_is_told_from_one_that_fails(monkeypatch):
    monkeypatch.setattr(asking, "PATIENCE", 0.01)
    with pytest.raises(asking.Unanswered, match=r"that takes more than 0\.01 s here"):
        asking.ask("sae_atlas.config.layers", {}, lambda: None, ())
    monkeypatch.setattr(asking, "PATIENCE", 120)
    with pytest.raises(asking.Unanswered, match="KeyError"):  # also of one that is longer than a command may be
        asking.ask("sae_atlas.config.layers", {"exclude": "x" * 2**18}, lambda: None, ())


def test_a_family_without_a_language_model_is_refused(tmp_path):
    base_model = made(tmp_path / "m", "vit", num_hidden_layers=2)
    config = small(base_model=base_model, **{"activations.layers": [0]})
    with pytest.raises(AtlasError, match="no causal language model of the family vit"):
        check_config(complete_config(config, "config.yaml"), "config.yaml")


def test_what_cannot_be_measured_before_a_run_is_said(tmp_path, caplog):
    base_model = made(tmp_path / "m", "gpt2", n_positions=20_000_000, hidden_size=32, num_attention_heads=2)
    config = complete_config(small(base_model=base_model, **{"activations.layers": [0]}), "config.yaml")
    check_config(config, "config.yaml")
    (line,) = caplog.messages
    assert line.startswith("the site is not measured before the run (640 million parameters in a few")


def test_tokens_to_be_left_out_are_looked_for_in_a_local_models_tokenizer(tmp_path):
    base_model = made(tmp_path / "m", "gpt2", hidden_size=32, n_layer=2, n_head=2)
    for exclude, words in (
        (["special"], None),
        (["special", "<|im_strt|>"], r"corpus\.exclude: .* no token '<|im_strt|>'"),
    ):
        config = small(base_model=base_model, **{"corpus.exclude": exclude, "activations.layers": [0]})
        with pytest.raises(AtlasError, match=words) if words else nullcontext():
            check_config(complete_config(config, "config.yaml"), "config.yaml")

"""The restoration model reads any length, leaves padding out, shows every site, and refuses a file that does not fit."""

from importlib.util import find_spec

import pytest
import torch
from restoration import CONFIG, random_state, write_checkpoint
from torch.nn.functional import gelu, layer_norm, linear

from sae_atlas.base_models.load import load, load_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.base_models.restoration import read_restoration
from sae_atlas.io.errors import AtlasError
from sae_atlas.metrics.losses import clean_predictions, losses, scored
from sae_atlas.sites import SITES
from sae_atlas.sites.hooks import capture, patch, start_at
from workflow import small, snakemake

TOKENS = torch.arange(1, 25).reshape(2, 12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return read_restoration(write_checkpoint(tmp_path_factory.mktemp("restoration") / "best_model.pt")).double()


def by_hand(state: dict, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one text [length], a head and a pair of dimensions at a time."""
    d, heads = CONFIG["d_model"], CONFIG["n_heads"]
    width = d // heads
    x = state["embed.weight"][tokens]
    for layer in range(CONFIG["n_layers"]):
        own = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"layers.{layer}.")}
        normed = layer_norm(x, (d,), own["ln1.weight"], own["ln1.bias"])
        q, k, v = (linear(normed, own[f"attn.{n}_proj.weight"], own[f"attn.{n}_proj.bias"]) for n in "qkv")
        mixed = torch.zeros_like(x)
        for head in range(heads):
            span = slice(head * width, (head + 1) * width)
            turned = []
            for part in (q[:, span], k[:, span]):
                turned.append(part.clone())
                for position in range(len(tokens)):
                    for i in range(width // 2):
                        angle = torch.tensor(position * 10000 ** (-2 * i / width), dtype=torch.float64)
                        a, b = part[position, i], part[position, i + width // 2]
                        turned[-1][position, i] = a * angle.cos() - b * angle.sin()
                        turned[-1][position, i + width // 2] = b * angle.cos() + a * angle.sin()
            weights = torch.softmax(turned[0] @ turned[1].T / width**0.5, dim=-1)
            mixed[:, span] = weights @ v[:, span]
        x = x + linear(mixed, own["attn.out_proj.weight"], own["attn.out_proj.bias"])
        normed = layer_norm(x, (d,), own["ln2.weight"], own["ln2.bias"])
        x = x + linear(gelu(linear(normed, own["ff.0.weight"], own["ff.0.bias"])), own["ff.2.weight"], own["ff.2.bias"])
    x = layer_norm(x, (d,), state["final_ln.weight"], state["final_ln.bias"])
    return linear(x, state["head.weight"], state["head.bias"])


@pytest.mark.parametrize("length", [1, 7, 24])
def test_logits_are_those_of_the_formula_at_any_length(model, length):
    state = {name: value.double() for name, value in random_state(CONFIG).items()}
    tokens = torch.arange(3, 3 + length)
    torch.testing.assert_close(model(tokens[None]).logits[0], by_hand(state, tokens), atol=1e-6, rtol=1e-6)


def test_every_position_sees_those_after_it(model):
    changed = TOKENS.clone()
    changed[:, -1] = 99
    assert not torch.allclose(model(TOKENS).logits[:, 0], model(changed).logits[:, 0])


def test_padding_is_not_seen(model):
    padded = torch.cat([TOKENS, torch.full((2, 5), 32)], dim=1)
    mask = torch.cat([torch.ones(2, 12), torch.zeros(2, 5)], dim=1)
    found = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(found[:, :12], model(TOKENS).logits)
    assert found.isfinite().all()
    assert not torch.allclose(model(padded).logits[:, :12], found[:, :12])


def test_a_longer_input_is_one_line(model):
    with pytest.raises(AtlasError, match="reads at most 24 characters, not 25"):
        model(torch.ones(1, 25, dtype=torch.long))


def test_every_site_adds_up_and_is_patched(model):
    found, whole = {}, model(TOKENS).logits
    for site in SITES:
        with capture(model, site, [1]) as activations:
            model(TOKENS)
        found[site] = activations[1]
        with patch(model, site, 1, torch.zeros_like):
            assert not torch.allclose(model(TOKENS).logits, whole)
    block = model.layers[1]
    torch.testing.assert_close(found["resid_mid"], found["resid_pre"] + found["attn_out"])
    torch.testing.assert_close(found["mlp_in"], block.ln2(found["resid_mid"]))
    torch.testing.assert_close(found["mlp_out"], block.ff(found["mlp_in"]))
    torch.testing.assert_close(found["resid_post"], found["resid_mid"] + found["mlp_out"])
    with start_at(model, 2, found["resid_post"]):
        later = model(TOKENS).logits
    torch.testing.assert_close(later, model(TOKENS).logits)


def test_projections_may_lack_their_biases(tmp_path):
    assert read_restoration(write_checkpoint(tmp_path / "a.pt", bias=False)).layers[0].attn.q_proj.bias is None


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"d_model": 10**9}, r"embed.weight is \(130, 32\), its config asks for \(130, 1000000000\)"),
        ({"d_ff": 65}, r"layers.0.ff.0.bias is \(64,\), its config asks for \(65,\)"),
        ({"n_layers": 10**9}, "it holds 3 layers, its config says 1000000000"),
        ({"n_heads": 3}, "32 dimensions are no 3 heads"),
        ({"vocab_size": None}, "no restoration checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_made(tmp_path, said, line):
    content = {"model_state_dict": random_state(CONFIG), "config": CONFIG | said}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(AtlasError, match=line):
        read_restoration(tmp_path / "a.pt")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "witness"), "w"))

    torch.save({"model_state_dict": {}, "config": Evil()}, tmp_path / "a.pt")
    with pytest.raises(AtlasError, match="no restoration checkpoint"):
        read_restoration(tmp_path / "a.pt")
    assert not (tmp_path / "witness").exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    settings = {"source": "restoration", "path": str(write_checkpoint(folder / "best_model.pt"))}
    prepare(folder / "provenance.json", **settings)
    return folder


def test_a_prepared_folder_gives_the_same_model(prepared):
    model, provenance = load(prepared / "provenance.json", "float64")
    assert (provenance["n_layers"], provenance["d_model"], provenance["vocabulary"]) == (3, 32, 130)
    own = read_restoration(prepared / "best_model.pt").double()
    parts, _ = load(prepared / "provenance.json", "float64", "spread")
    for each in (model, parts):  # sums of 64 products in float64
        torch.testing.assert_close(each(TOKENS).logits, own(TOKENS).logits, rtol=1e-12, atol=1e-12)


def test_ids_are_code_points_and_strange_characters_are_damage(prepared):
    tokenizer = load_tokenizer(prepared / "provenance.json")
    text = "a-na  #\tx\nb"
    assert tokenizer(text)["input_ids"] == [ord(character) for character in text]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("a漢b")["input_ids"] == [97, ord("#"), 98]
    assert tokenizer.bos_token_id == 32


def test_a_prediction_is_scored_against_its_own_character(model):
    """By hand: cross-entropy of the character at each position, all but the last."""
    logits = model(TOKENS).logits
    found, _ = losses(logits, scored(model, TOKENS), clean_predictions(logits))
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), TOKENS[:, :-1], reduction="none")
    torch.testing.assert_close(found.float(), expected.float())


def test_the_rule_converts_it_or_says_what_is_missing(tmp_path):
    path = write_checkpoint(tmp_path / "best_model.pt")
    base_model = {"name": "torso", "source": "restoration", "path": str(path)}
    config = small(base_model=base_model, **{"corpus.context": 16})
    done = snakemake(tmp_path, config, "results/base_model/transformer_lens.pt", "--retries", "0", check=False)
    converted = (tmp_path / "results/base_model/transformer_lens.pt").exists()
    if find_spec("transformer_lens"):
        assert converted, done.stdout
    else:
        assert "TransformerLens is not installed; run `pip install transformer-lens==3.9.0`" in done.stdout
        assert not converted
        assert "Traceback" not in done.stdout

"""SAEs as others published them: our latents and reconstructions are those of SAELens' own loaders on the same files."""

import forged
import pytest
import torch
from forged import HOOK, LAYER, K
from hub import point_at, serve
from random_saes import D_IN, D_OUT, D_SAE, activations
from rounding import decided

from benchmarks.stubs import put_in_place
from sae_atlas.publish.formats.load import load_sae, read
from sae_atlas.saes.sae import Sae

put_in_place()  # of packages that the peers import and none of this needs

SIZES = {"d_in": D_IN, "d_sae": D_SAE}
RELEASE, SAE_ID = "forged", "only"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve() as served:
        point_at(served, tmp_path / "home", monkeypatch)
        yield served


@pytest.fixture
def theirs(hub, tmp_path):
    """Loads what lies in tmp_path / "release" as an entry of SAELens' registry, by its own loader, from the hub."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_saes_directory as registry

    def load(
        conversion: str | None, path: str, repository: str = "someone/forged", factor: float | None = None, **overrides
    ):
        top = tmp_path / "release"
        hub.files |= {str(file.relative_to(top)): file.read_bytes() for file in top.rglob("*") if file.is_file()}
        registry.get_pretrained_saes_directory()[RELEASE] = registry.PretrainedSAELookup(
            release=RELEASE,
            repo_id=repository,
            model="model",
            conversion_func=conversion,
            saes_map={SAE_ID: path},
            expected_var_explained={},
            expected_l0={},
            neuronpedia_id={},
            norm_scaling_factor={} if factor is None else {SAE_ID: factor},
            config_overrides=overrides,
        )
        return SAE.from_pretrained(RELEASE, SAE_ID)

    yield load
    registry.get_pretrained_saes_directory().pop(RELEASE, None)


def assert_agree(sae: Sae, other, x: torch.Tensor | None = None) -> None:
    x = activations() if x is None else x
    x = x[decided(sae, x)]
    latents = sae.encode(x)
    assert 0 < (latents > 0).float().mean() < 0.9
    for ours, others in ((latents, other.encode(x)), (sae(x), other(x))):
        assert (ours - others).abs().max() <= 1e-5 * others.abs().max()


@pytest.mark.parametrize("case", ["", "mlp", "att"])
def test_gemma_scope(tmp_path, theirs, case):
    where = "layer_3/width_16k/average_l0_20"
    file = forged.gemma_scope(tmp_path / "release" / where)
    repository = f"google/gemma-scope-2b-pt-{case or 'res'}"
    other = theirs("gemma_2", where, repository, reshape_activations="none", **SIZES)
    assert_agree(load_sae(file), other)


def test_gemma_scope_transcoders(tmp_path, theirs):
    where = "layer_3/width_16k/average_l0_20"
    file = forged.gemma_scope(tmp_path / "release" / where, is_transcoder=True)
    other = theirs("gemma_2_transcoder", where, "google/gemma-scope-2b-pt-transcoders", d_out=D_OUT, **SIZES)
    assert_agree(load_sae(file, is_transcoder=True), other)


@pytest.mark.parametrize("site", forged.GEMMA_HOOKS)
def test_gemma_scope_2(tmp_path, theirs, site):
    where = f"{site}/layer_3_width_16k_l0_small"
    folder = forged.gemma_scope_2(tmp_path / "release" / where, site)
    sae = load_sae(folder)
    assert_agree(sae, theirs("gemma_3", where, "google/gemma-scope-2-1b-pt"))
    assert (sae.config["activations"]["layer"], sae.is_transcoder) == (LAYER, site == "transcoder")


def test_gemma_scope_2_without_a_config(tmp_path, theirs):
    where = "transcoder_all/layer_3_width_16k_l0_small"
    folder = forged.gemma_scope_2(tmp_path / "release" / where, "transcoder")
    (folder / "config.json").unlink()
    assert_agree(load_sae(folder, is_transcoder=True), theirs("gemma_3", where, "google/gemma-scope-2-1b-pt"))


def test_an_affine_skip_connection_of_gemma_scope_2_is_not_turned(tmp_path, theirs):
    """Its own code adds x @ affine_skip_connection, SAELens x @ its transpose; in all else they agree."""
    where = "transcoder/layer_3_width_16k_l0_small_affine"
    sae = load_sae(forged.gemma_scope_2(tmp_path / "release" / where, "transcoder", affine=True))
    other, x = theirs("gemma_3", where, "google/gemma-scope-2-1b-pt"), activations()
    torch.testing.assert_close(sae.encode(x), other.encode(x), atol=1e-5, rtol=1e-5)
    linear = forged.skip()
    torch.testing.assert_close(sae(x) - x @ linear, other(x) - x @ linear.T, atol=1e-3, rtol=1e-5)
    assert (sae(x) - other(x)).abs().max() > 1


def test_llama_scope(tmp_path, theirs):
    where = "Llama3_1-8B-Base-L3R-8x"
    folder = forged.llama_scope(tmp_path / "release" / where)
    factor = D_IN**0.5 / forged.NORM
    assert_agree(load_sae(folder), theirs("llama_scope", where, "fnlp/Llama3_1-8B-Base-LXR-8x", factor=factor))


def test_llama_scope_r1_distill(tmp_path, theirs):
    where = "800M-Slimpajama-0-OpenR1-Math-220k/L3R"
    folder = forged.llama_scope_r1_distill(tmp_path / "release" / where)
    factor = D_IN**0.5 / forged.NORM
    assert_agree(load_sae(folder), theirs("llama_scope_r1_distill", where, factor=factor))


def test_qwen_scope(tmp_path, theirs):
    file = forged.qwen_scope(tmp_path / "release")
    repository = f"Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}"
    sae = load_sae(file)
    assert_agree(sae, theirs("qwen_scope", file.name, repository, **SIZES))
    assert sae.k == K and sae.config["activations"]["site"] == "resid_post"


def test_goodfire(tmp_path, theirs):
    file = forged.goodfire(tmp_path / "release")
    assert_agree(load_sae(file), theirs("goodfire", file.name, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", **SIZES))


def test_deepseek_r1(tmp_path, theirs):
    file = forged.deepseek_r1(tmp_path / "release")
    assert_agree(load_sae(file), theirs("deepseek_r1", file.name, **SIZES))


def test_saes_of_attention_heads(tmp_path, theirs):
    file = forged.connor_rob_hook_z(tmp_path / "release")
    other, sae = theirs("connor_rob_hook_z", file.name), load_sae(file)
    assert_agree(sae, OnHeads(other))
    assert sae.config["activations"] | {"base_model": {}} == {
        "base_model": {}, "site": "blocks.{layer}.attn.hook_z", "layer": LAYER, "folded": ["fold_ln", "fold_value_biases"]
    }  # fmt: skip


class OnHeads:
    """An SAE that takes heads apart, on heads side by side."""

    def __init__(self, sae):
        self.sae = sae

    def encode(self, x):
        return self.sae.encode(x.unflatten(-1, (4, -1)))

    def __call__(self, x):
        return self.sae(x.unflatten(-1, (4, -1))).flatten(-2)


def test_transcoders_of_circuit_tracer(tmp_path, theirs):
    file = forged.circuit_tracer(tmp_path / "release")
    sae = load_sae(file)
    assert_agree(sae, theirs("mwhanna_transcoder", file.name, "mwhanna/qwen3-4b-transcoders"))
    said = sae.config["activations"]
    assert (said["site"], said["target"], said["layer"]) == ("mlp_in", "mlp_out", LAYER)


@pytest.mark.parametrize(
    ("dict_class", "trainer_class"),
    [
        ("AutoEncoder", "StandardTrainer"),
        ("AutoEncoder", "PAnnealTrainer"),
        ("AutoEncoderTopK", "TopKTrainer"),
        ("GatedAutoEncoder", "GatedSAETrainer"),
        ("BatchTopKSAE", "BatchTopKTrainer"),
        ("JumpReluAutoEncoder", "JumpReluTrainer"),
        ("MatryoshkaBatchTopKSAE", "MatryoshkaBatchTopKTrainer"),
    ],
)
def test_dictionary_learning(tmp_path, theirs, dict_class, trainer_class):
    where = f"resid_post_layer_{LAYER}/trainer_0"
    sae = load_sae(forged.dictionary_learning(tmp_path / "release" / where, dict_class, trainer_class))
    assert_agree(sae, theirs("dictionary_learning_1", where))
    assert sae.config["activations"]["site"] == "resid_post" and sae.config["activations"]["layer"] == LAYER


@pytest.mark.parametrize("version", [2, 3])
def test_saelens_before_6(tmp_path, theirs, version):
    folder = forged.saelens_before_6(tmp_path / "release" / "a", version, apply_b_dec_to_input=version == 2)
    checkpoint = read(folder, "saelens", registered={})
    assert_agree(Sae(**checkpoint), theirs(None, "a"))
    assert checkpoint["config"]["activations"] == {
        "base_model": {"source": "gpt2-small"},
        "site": "resid_post",
        "layer": LAYER,
    }
    assert checkpoint["config"]["tokens"] == 300_000_000


TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}


@pytest.mark.parametrize(
    "changes",
    [
        TOPK | {"normalize_activations": "layer_norm"},
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "constant_norm_rescale"},
        {"normalize_activations": False},
        {"architecture": "jumprelu"},
    ],
)
def test_normalisations_of_saelens_before_6(tmp_path, theirs, changes):
    tensors = {"threshold": forged.weights()["threshold"]} if "architecture" in changes else None
    folder = forged.saelens_before_6(tmp_path / "release" / "a", tensors=tensors, **changes)
    assert_agree(Sae(**read(folder, "saelens", registered={})), theirs(None, "a"))


@pytest.mark.parametrize(
    "changes", [{"normalize_activations": True}, TOPK | {"normalize_activations": "expected_average_only_in"}]
)
def test_an_average_norm_of_the_registry_is_folded(tmp_path, theirs, changes):
    folder = forged.saelens_before_6(tmp_path / "release" / "a", **changes)
    sae = Sae(**read(folder, "saelens", registered={"norm_scaling_factor": 0.25}))
    assert_agree(sae, theirs(None, "a", factor=0.25))


def test_what_the_registry_overrides_counts(tmp_path, theirs):
    folder = forged.saelens_before_6(tmp_path / "release" / "a")
    overrides = {"normalize_activations": "constant_norm_rescale"}
    assert_agree(
        Sae(**read(folder, "saelens", registered={"config_overrides": overrides})), theirs(None, "a", **overrides)
    )


class Centred:
    """An SAE of a model whose stream has no mean, on the stream of the model as it is, which its norms read the same."""

    def __init__(self, sae):
        self.sae = sae

    def encode(self, x):
        return self.sae.encode(x - x.mean(dim=-1, keepdim=True))

    def __call__(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        return self.sae(x - mean) + mean


def test_an_sae_of_a_centred_stream_reads_the_stream_as_it_is(tmp_path, theirs):
    folder = forged.saelens_before_6(tmp_path / "release" / "a", 2)
    overrides = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = Sae(**read(folder, "saelens", registered={"config_overrides": overrides}))
    assert_agree(sae, Centred(theirs(None, "a", **overrides)))


def test_heads_of_saelens_before_6_lie_side_by_side(tmp_path, theirs):
    folder = forged.saelens_before_6(tmp_path / "release" / "a", hook_name=f"blocks.{LAYER}.attn.hook_z")
    sae = Sae(**read(folder, "saelens", registered={}))
    assert_agree(sae, OnHeads(theirs(None, "a")))


@pytest.mark.parametrize("rescale", [False, True])
def test_a_latent_of_either_sign_is_two(tmp_path, rescale):
    from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig

    torch.manual_seed(0)
    other = AbsTopKSAE(AbsTopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=rescale))
    for parameter in other.parameters():
        parameter.data = torch.randn_like(parameter)
    other.cfg.metadata.hook_name = HOOK
    other.save_model(tmp_path)
    sae, x = load_sae(tmp_path), activations()
    latents = sae.encode(x)
    assert sae.d_sae == 2 * D_SAE and (latents[:, D_SAE:] > 0).any()
    torch.testing.assert_close(latents[:, :D_SAE] - latents[:, D_SAE:], other.encode(x), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae(x), other(x), atol=1e-3, rtol=1e-4)


def test_the_pair_of_an_sae_with_a_token_norm_loads_as_it_is(tmp_path):
    from sae_lens import SAE

    from sae_atlas.publish.formats import saelens

    changes = TOPK | {"normalize_activations": "layer_norm"}
    sae = Sae(**read(forged.saelens_before_6(tmp_path / "a", **changes), "saelens", registered={}))
    saelens.write(tmp_path / "b", sae, {"hook_name": HOOK})
    assert_agree(sae, SAE.load_from_disk(tmp_path / "b"))
    assert_agree(sae, load_sae(tmp_path / "b"))

"""Names of published folders, and text and numbers in Markdown."""

import pytest

from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.cards.markdown import code, escape, number
from sae_atlas.publish.cards.names import parse_sae_name, release_name, sae_name


@pytest.mark.parametrize(
    ("site", "spelled"),
    [
        ("resid_post", "resid12"),
        ("resid_pre", "residpre12"),
        ("resid_mid", "residmid12"),
        ("attn_out", "attn12"),
        ("mlp_in", "mlpin12"),
        ("mlp_out", "mlp12"),
    ],
)
@pytest.mark.parametrize("base", ["gpt2-small", "my_model_1.1", "SmolLM2-135M"])
def test_a_name_gives_back_its_parts(site, spelled, base):
    name = sae_name(base, site, 12, 32, 300_000_000, "l1-3e-4_v2")
    assert name == f"{base}_{spelled}_exp32_300M_l1-3e-4_v2"
    parts = parse_sae_name(name)
    assert (parts.base, parts.site, parts.layer) == (base, site, 12)
    assert (parts.expansion, parts.tokens, parts.recipe) == (32, 300_000_000, "l1-3e-4_v2")


def test_published_names_without_a_recipe_are_read_too():
    assert parse_sae_name("gpt2-small_mlp0_exp2_1M") == parse_sae_name("gpt2-small_mlp0_exp2_1000k")
    assert parse_sae_name("gpt2-small_mlp0_exp2_1M").recipe is None


def test_a_module_path_is_spelled_by_its_last_part():
    assert sae_name("m", "transformer.h.{layer}.attn.c_proj", 3, 8, 1000, "r") == "m_cproj3_exp8_1k_r"
    assert sae_name("m", "model.layers.{layer}", 3, 8, 1000, "r") == "m_layers3_exp8_1k_r"


def test_what_is_no_name_is_refused_with_an_example():
    with pytest.raises(AtlasError, match=r"gpt2-small_exp2_1M: no name of an SAE; .* for example"):
        parse_sae_name("gpt2-small_exp2_1M")


def test_release_names_are_the_published_ones():
    assert release_name("m", 8, "topk", "transcoders") == "m-transcoders-x8-topk"
    assert release_name("pythia-410m", 32, "l1-3e-4-fixed") == "pythia-410m-saes-x32-l1-3e-4-fixed"


def test_text_stays_text():
    assert escape("resid_post of my_model") == "resid_post of my_model"
    assert escape("a | b\n# c") == r"a \| b # c"
    assert escape("<script>*[x](y)`_z_") == r"\<script\>\*\[x\](y)\`\_z\_"
    assert code("a`b|c") == r"``a`b\|c``"


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1,234,567"), (0.012345, "0.01235"), (3e-5, "3e-05"), (12345.6, "12,346"), (0.0, "0")]
)
def test_numbers_read_as_people_write_them(value, text):
    assert number(value) == text

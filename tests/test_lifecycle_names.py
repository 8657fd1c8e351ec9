"""Names of model folders, counted presets, and a config that says what it is."""

import copy

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.base_models.from_scratch import PRESETS, model_sizes
from sae_atlas.base_models.names import check_content, parse_fine_tuned, parse_pretrained, stands_for, written
from sae_atlas.config.layers import count_layers
from sae_atlas.config.own_models import adapter_name, folder_of
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.jobs import jobs
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, small

LIFE = yaml.safe_load((ROOT / "config" / "lifecycle.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt-38M-tinystories-pretrain", ("gpt", "38M", "tinystories", "pretrain", None)),
        ("gpt-38M-tinystories-to-scientific-lora", ("gpt", "38M", "tinystories-to-scientific", "lora", None)),
        ("gpt-38M-scientific-merged-ft", ("gpt", "38M", "scientific", "merged-ft", None)),
        ("neox-1.8M-wikipedia-introductions-merged-v2", ("neox", "1.8M", "wikipedia-introductions", "merged", "v2")),
        ("gpt2-tiny-arxiv-pretrain-20231213", ("gpt2", "tiny", "arxiv", "pretrain", "20231213")),
    ],
)
def test_names_are_parsed_and_written_again(name, parts):
    parsed = parse_pretrained(name)
    found = (parsed.architecture, parsed.size, parsed.dataset, parsed.training_type, parsed.version)
    assert found == parts and str(parsed) == name


def test_names_of_fine_tunes():
    parsed = parse_fine_tuned("gpt2-small_medical_1M")
    assert (parsed.base_model, parsed.domain, parsed.tokens, parsed.lora) == ("gpt2-small", "medical", "1M", False)
    assert str(parse_fine_tuned("my_model_law-eu_300k_lora")) == "my_model_law-eu_300k_lora"


@pytest.mark.parametrize("name", ["model1", "gpt2-tinystories-pretrain", "rnn-38M-x-pretrain", "gpt2-38M-x-trained"])
def test_generic_names_are_refused(name):
    with pytest.raises(AtlasError, match=r"is no model's name; write \{architecture\}-\{size\}"):
        parse_pretrained(name)


def test_content_decides(tmp_path):
    folder = tmp_path / "pretrained" / "gpt2-350M-web-pretrain"
    check_content(folder, "gpt2", 354_823_168, "pretrain")
    for architecture, parameters, kind, why in (
        ("gpt_neox", 354_823_168, "pretrain", "says gpt2, it holds gpt_neox"),
        ("gpt2", 405_000_000, "pretrain", "says 350M, it has 405,000,000 parameters; call it gpt2-405M-web-pretrain"),
        ("gpt2", 354_823_168, "merged", "says pretrain, it holds a merge"),
    ):
        with pytest.raises(AtlasError, match=why):
            check_content(folder, architecture, parameters, kind)
    with pytest.raises(AtlasError, match="an adapter's name ends in _lora"):
        check_content(tmp_path / "fine_tuned" / "a_b_1M", "gpt2", 1, "lora")
    check_content(tmp_path / "elsewhere" / "anything", "gpt2", 1, "lora")


@pytest.mark.parametrize(("preset", "counted"), [("small", "38M"), ("medium", "124M"), ("large", "355M")])
def test_presets_count_what_they_are_called(preset, counted):
    """With GPT-2's vocabulary and its 1,024 positions (small: 256)."""
    context = 256 if preset == "small" else 1024
    sizes = model_sizes({"architecture": "gpt2", "preset": preset}, context)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=50257, **sizes))
    assert written(sum(weight.numel() for weight in model.parameters())) == counted
    neox = model_sizes({"architecture": "gpt_neox", "preset": preset}, context)
    assert (neox["num_hidden_layers"], neox["hidden_size"]) == (PRESETS[preset].layers, PRESETS[preset].width)


def test_sizes_are_rounded():
    cases = {"0.8M": (750_000, 849_999), "38M": (36_100_000, 39_900_000), "350M": (332_500_000, 367_500_000)}
    for size, (low, high) in cases.items():
        assert stands_for(size, low) and stands_for(size, high)
        assert not stands_for(size, int(0.99 * low)) and not stands_for(size, int(1.01 * high))


def test_counts_are_written_as_names_have_them():
    assert [written(n) for n in (812_345, 1_812_345, 38_393_920, 9_960_000)] == ["812k", "1.8M", "38M", "10M"]


# --- the config ---------------------------------------------------------------------------------------------------------


def life(**changes):
    """The worked config's base model in the small config, with changes given as dotted keys under base_model."""
    config = small(base_model=copy.deepcopy(LIFE["base_model"]))
    config["corpus"]["name"] = LIFE["corpus"]["name"]
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = config["base_model"]
        for section in sections:
            place = place[section]
        place.pop(key) if value is None else place.__setitem__(key, value)
    return config


def completed(config):
    return complete_config(config, "life.yaml")


def test_one_file_describes_all_three():
    config = completed(life())
    assert count_layers(config["base_model"]) == 4
    model, base = config["base_model"], config["base_model"]["base"]
    assert folder_of(model) == "models/pretrained/gpt2-0.8M-wikipedia-to-biology-merged"
    assert adapter_name(model) == "gpt2-0.8M-wikipedia-to-biology-lora"
    assert folder_of(base) == "models/pretrained/gpt2-0.8M-wikipedia-pretrain"
    assert base["fit"]["tokens"] == 2_000_000 and base["fit"]["clip"] == 1.0 and base["sizes"]["n_positions"] == 32
    made = [
        rule for rule in jobs(Atlas(config)) if rule in ("make_tokenizer", "pretrain", "fine_tune_lora", "merge_lora")
    ]
    assert made == ["make_tokenizer", "pretrain", "fine_tune_lora", "merge_lora"]
    assert not {"make_tokenizer", "pretrain", "merge_lora"} & set(jobs(Atlas(completed(small()))))


def test_a_tune_of_a_published_model_lies_under_fine_tuned():
    package = {"name": "smollm2", "source": "package", "package": "smollm2-135m-instruct"}
    model = completed(life(base=package, name="smollm2_biology_400k"))["base_model"]
    assert folder_of(model) == "models/fine_tuned/smollm2_biology_400k"
    assert adapter_name(model) == "smollm2_biology_400k_lora"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "my-model"}, r"base_model\.name: 'my-model' is no model's name"),
        ({"name": "gpt2-0.8M-wikipedia-merged"}, r"call it gpt2-0.8M-wikipedia-to-biology-merged$"),
        ({"name": "gpt2-1.8M-wikipedia-to-biology-merged"}, r"call it gpt2-0.8M-wikipedia-to-biology-merged$"),
        (
            {"base.name": "neox-0.8M-wikipedia-pretrain"},
            r"base_model\.base\.name: .* call it gpt2-0.8M-wikipedia-pretrain$",
        ),
        ({"lora": None}, r"base_model\.lora: missing; source `merged` needs it$"),
        ({"base": None}, r"base_model\.base: missing; source `merged` needs it$"),
        ({"source": "pretrain"}, r"base_model\.base: does nothing with source `pretrain`; remove it"),
        ({"base.fit": None}, r"base_model\.base\.fit: missing; source `pretrain` needs it$"),
        ({"base.dtype": "float32"}, r"base_model\.base\.dtype: does nothing"),
        ({"base.sizes": None}, r"base_model\.base\.preset: give either a preset \(small, medium, large\) or sizes$"),
        ({"base.preset": "small"}, r"base_model\.base\.preset: give either a preset"),
        ({"base.architecture": "llama"}, r"base_model\.base\.architecture: llama is not trained from scratch"),
        ({"fit.accumulation": 3}, r"base_model\.fit\.accumulation: 3 passes do not part the batch evenly"),
        ({"fit.learning_rat": 1}, r"base_model\.fit\.learning_rat: no such key; did you mean `learning_rate`"),
        ({"lora.rank": 0}, r"base_model\.lora\.rank: 0 does not fit; write a whole number from 1"),
        ({"lora.corpus.path": "x"}, r"base_model\.lora\.corpus\.path: does nothing with source `package`; remove it$"),
        ({"base.source": "merged"}, r"base_model\.base\.\w+: "),
    ],
)
def test_mistakes_are_one_line(changes, why):
    with pytest.raises(AtlasError, match=why):
        completed(life(**changes))


def test_a_fine_tune_of_a_fine_tune_takes_the_merged_folder():
    config = life()
    config["base_model"]["base"] = copy.deepcopy(config["base_model"])
    with pytest.raises(AtlasError, match=r"base_model\.base\.source: to tune a fine-tune, give source `local`"):
        completed(config)


def test_a_changed_value_reaches_what_it_must():
    def identities(config):
        atlas = Atlas(completed(config))
        stages = (
            "make_tokenizer",
            "tokenize",
            "pretrain",
            "prepare_base",
            "tokenize_domain",
            "fine_tune_lora",
            "merge_lora",
        )
        return {stage: atlas.identity(stage) for stage in (*stages, "prepare_model")}

    before = identities(life())
    for changes, same in (
        ({"lora.rank": 4}, {"make_tokenizer", "tokenize", "pretrain", "prepare_base", "tokenize_domain"}),
        ({"lora.corpus.topic": "Arts"}, {"make_tokenizer", "tokenize", "pretrain", "prepare_base"}),
        ({"base.fit.batch": 8}, {"make_tokenizer", "tokenize", "tokenize_domain"}),
        ({"dtype": "bfloat16"}, set(before)),
    ):
        after = identities(life(**changes))
        assert {stage for stage in before if before[stage] == after[stage]} == same, changes

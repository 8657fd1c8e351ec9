"""The section `base_model`, and where it contradicts itself."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sae_atlas.base_models.from_scratch import PRESETS, model_sizes
from sae_atlas.base_models.names import ARCHITECTURES, FineTunedName, parse_fine_tuned, parse_pretrained
from sae_atlas.config.dtype import DTYPES
from sae_atlas.config.keys import HubId, Name, Number, Revision, Section, Text, Whole, Words, key
from sae_atlas.config.layers import VOCABULARIES
from sae_atlas.config.own_models import MADE, TUNED, base_of
from sae_atlas.config.synthetic import Generator
from sae_atlas.config.synthetic import problems as generator_problems
from sae_atlas.config.texts import Corpus, Domain
from sae_atlas.config.without_model import OF_ROWS
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.sizes import format_size


class Fit(Section):
    """How a language model is trained."""

    tokens: Whole = key("tokens read in all. Where the text ends it is read again in another order", ge=1)
    batch: Whole = key("contexts per step", 32, ge=1)
    accumulation: Whole = key("passes in which a batch is read. More need less memory", 1, ge=1)
    learning_rate: Number = key("learning rate after the warm-up; a cosine takes it to a tenth", 0.001, gt=0)
    warmup: Whole = key("steps over which the learning rate rises", 100, ge=0)
    weight_decay: Number = key("AdamW's weight decay, on matrices", 0.1, ge=0)
    clip: Number = key("largest norm of the whole gradient", 1.0, gt=0)
    validations: Whole = key(
        "how often the held-out loss is measured. The best and the last weights are kept", 10, ge=1
    )


class Lora(Section):
    """A low-rank adapter and the text it is tuned on."""

    corpus: Domain = key()
    rank: Whole = key("rank of the updates", 8, ge=1)
    alpha: Number = key("the updates are scaled by alpha / rank", 16, gt=0)
    targets: Annotated[list[Text], Field(min_length=1), Words("a list of module paths")] | None = key(
        "modules that get updates, by the end of their path", None,
        otherwise="attention's projections (GPT-2, GPT-NeoX, Llama)",
    )  # fmt: skip
    seed: Whole = key("seed of the first updates, and of the order of the text when it is read again", 0, ge=0)


class Model(Section):
    """The language model whose activations are explained."""

    CHOICE: ClassVar[str] = "source"

    name: Name = key("name in file names and titles")
    source: Literal[
        "hub", "package", "local", "random", "pretrain", "lora", "merged", "restoration", "activations", "synthetic"
    ] = key(
        "`hub`, `package` (embedded), `local` (a folder in transformers format), `random` (a control), `restoration`, one of "
        "one's own: `pretrain`, `lora`, `merged` (see below); or without a model `activations`, saved elsewhere, and "
        "`synthetic`, rows whose true features are known (see below)"
    )  # fmt: skip
    id: HubId = key("repository", needed_by=["hub"])
    revision: Revision = key("branch, tag or commit", otherwise="`main`", used_by=["hub"])
    package: Text = key("name of an embedded model, such as `smollm2-135m-instruct`", needed_by=["package"])
    path: Text = key(
        "the folder in transformers format; of `restoration` the model's `.pt`; of `activations` their files (see below)",
        needed_by=["local", "restoration", "activations"],
    )
    architecture: Literal["gpt_neox", "gpt2", "llama"] = key(
        "model family; `llama` only for `random`", needed_by=["random", "pretrain"]
    )
    sizes: Annotated[dict, Words("a section of numbers")] = key(
        "arguments of the family's transformers config", needed_by=["random"], used_by=["pretrain"]
    )
    preset: Literal["small", "medium", "large"] = key(
        "in place of `sizes`: `small` (5 layers, 5 heads, width 320, an unembedding of its own), `medium` (12, 12, 768) or "
        "`large` (24, 16, 1024, both with the embedding as unembedding)",
        used_by=["pretrain"],
    )
    seed: Whole = key("seed of the first weights and of the order of the text", needed_by=["random", "pretrain"], ge=0)
    tokenizer: Literal["package", "bytes"] = key(
        "the embedded model's tokenizer (`package`), or an id per byte (`bytes`)", needed_by=["random", "pretrain"]
    )
    fit: Fit = key(needed_by=["pretrain", *TUNED])
    base: "Model" = key(
        "the model that is tuned: a section like this one, of any source but `lora`, `merged`, `restoration`, `activations`, "
        "`synthetic`",
        needed_by=TUNED,
    )
    lora: Lora = key(needed_by=TUNED)
    generator: Generator = key(needed_by=["synthetic"])
    dtype: Literal["auto", *DTYPES] = key(
        "arithmetic of the forward passes. With `auto` the machine that starts the atlas chooses: `bfloat16` if it has a GPU "
        "(from Ampere on they multiply it; or `training.device` is `cuda`) or a CPU with AMX, AVX512-BF16 or Arm's BF16, else "
        "`float32`. The choice is kept in `results/dtype.json`, for whatever machine goes on",
        "float32",
    )
    device_map: Literal["auto"] = key(
        "`auto` is for a model that does not fit one device. Its parts lie on the GPUs of a job (one; more with "
        "`--set-resources save_held_out:gpu=4` and so on), then in memory, then on disk, as `accelerate` finds room; on one "
        "machine it takes all GPUs that are free when it starts. What lies off the GPUs is fetched in every pass. Changing "
        "it makes nothing again",
        otherwise="none",
    )


def problems(base_model: Model, corpus: Corpus, where: str = "base_model"):
    """What contradicts itself in a section whose keys are right: lines that name key and remedy."""
    source, base = base_model.source, base_model.base
    if source == "synthetic":
        yield from generator_problems(base_model.generator, f"{where}.generator")
    if source == "pretrain":
        if base_model.architecture == "llama":
            yield f"{where}.architecture: llama is not trained from scratch; take gpt2 or gpt_neox"
            return
        if (base_model.preset is None) == (base_model.sizes is None):
            yield f"{where}.preset: give either a preset ({', '.join(PRESETS)}) or sizes"
    words, rows = VOCABULARIES.get(base_model.tokenizer), (base_model.sizes or {}).get("vocab_size")
    if words and isinstance(rows, int) and rows < words:
        yield f"{where}.sizes.vocab_size: {rows} is less than the {words:,} ids of its tokenizer; leave it out or raise it"
    if source == "lora" and base_model.device_map:
        yield f"{where}.device_map: an adapter is put on whole models only; remove it, or give source `merged`"
    if source in TUNED:
        if base.source in TUNED:
            yield f"{where}.base.source: to tune a fine-tune, give source `local` and the folder of the merged model"
            return
        if base.source == "restoration":
            yield f"{where}.base.source: `restoration` predicts no next token, which is what is tuned here; give another"
            return
        if base.source in OF_ROWS:
            yield f"{where}.base.source: `{base.source}` is no model that could be tuned; give another"
            return
        of_base = [
            f"{where}.base.{name}: does nothing in the model that is tuned; give it beside `base`"
            for name in sorted({"dtype", "device_map"} & base.model_fields_set)
        ]
        of_base += problems(base, corpus, f"{where}.base")
        yield from of_base
        if of_base:  # its name may be wrong, and this one is derived from it
            return
    fit = base_model.fit
    if fit and fit.batch % fit.accumulation:
        yield f"{where}.fit.accumulation: {fit.accumulation} passes do not part the batch evenly; choose a divisor"
    if source in MADE:
        try:
            said, wanted = _names(base_model, corpus)
        except AtlasError as error:
            yield f"{where}.name: {error}"
        else:
            if said != wanted:
                yield f"{where}.name: {base_model.name!r} is not what it is; call it {wanted}"


def _names(base_model: Model, corpus: Corpus) -> tuple:
    """Parts of the name of a model of one's own: as given, and as they must be. Raises AtlasError for a name of no kind."""
    source, base = base_model.source, base_model.base
    if base and base.source != "pretrain":
        domain, tokens = base_model.lora.corpus.name, format_size(base_model.fit.tokens)
        return parse_fine_tuned(base_model.name), FineTunedName(base.name, domain, tokens, source == "lora")
    said = parse_pretrained(base_model.name)
    wanted = replace(said, dataset=corpus.name, training_type=source)
    architecture = (base or base_model).architecture
    if ARCHITECTURES[said.architecture] != architecture:
        names = [short for short, long in ARCHITECTURES.items() if long == architecture]
        wanted = replace(wanted, architecture=names[0])
    if base:
        of_base = parse_pretrained(base.name)
        domain = f"{of_base.dataset}-to-{base_model.lora.corpus.name}"
        wanted = replace(wanted, architecture=of_base.architecture, size=of_base.size, dataset=domain)
    return said, wanted


def completed(base_model: dict, context: int) -> dict:
    """The plain section with a preset as sizes, and so its base. Without `device_map`, which changes no numbers.

    context: tokens of a context of the corpus: the positions that a model from scratch gets.
    """
    complete = {key: value for key, value in base_model.items() if key not in ("preset", "device_map")}
    if "base" in complete:
        complete["base"] = completed(complete["base"], context)
    if complete["source"] == "pretrain":
        complete["sizes"] = model_sizes(base_model, context)
    return complete


def chat_problems(base_model: Model, corpus: Corpus):
    """Lines that name key and remedy, where conversations need a template and the tokenizer at hand has none."""
    model = base_of(base_model.plain())
    if model["source"] == "local":
        folder = Path(model["path"]).expanduser()
        template = any(map(_holds_template, [folder / "tokenizer_config.json", *folder.glob("chat_template.*")]))
    else:
        template = model["source"] != "restoration" and model.get("tokenizer") != "bytes"
    sections = {"corpus": corpus, "base_model.lora.corpus": base_model.lora and base_model.lora.corpus}
    for where, section in sections.items():
        if section and section.chat and not template:
            yield f"{where}.chat: the tokenizer of {model['name']} has no chat template; remove it or take an instruct model"


def _holds_template(file: Path) -> bool:
    if not file.is_file():
        return False
    return file.suffix == ".jinja" or '"chat_template"' in file.read_text(encoding="utf-8", errors="replace")

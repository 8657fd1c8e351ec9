"""The tasks depend on what was read for them, and on every snapshot of the layer."""

from sae_atlas.config.task_names import FIRST_LETTER, OF_TOPICS, TASK_TOKENS
from sae_atlas.stages.activations import FUNCTIONS, PASS, pass_over, saved_dtype
from sae_atlas.stages.declare import stage
from sae_atlas.stages.evaluation import snapshot_checkpoints
from sae_atlas.stages.features import ENCODING

WORDS = 2000  # of the vocabulary, of which a fifth is for the test


def tasks_of(atlas) -> list[str]:
    return atlas.config["evaluation"].get("tasks", [])


def on_documents(atlas) -> bool:
    """Does one of the tasks read documents?"""
    return bool({*tasks_of(atlas)} & {*OF_TOPICS})


def on_words(atlas) -> bool:
    """Does one of them read words?"""
    return FIRST_LETTER in tasks_of(atlas)


def task_tokens(atlas) -> int:
    """Tokens of the text that tasks on documents read."""
    return min(atlas.config["evaluation"].get("task_tokens", TASK_TOKENS), atlas.config["corpus"]["tokens"])


@stage(*PASS, **FUNCTIONS)
def save_task_text(atlas) -> tuple[dict, dict]:
    """The end of the train text: what no SAE has seen, unless training uses all of the corpus."""
    stop = atlas.config["corpus"]["tokens"]
    return pass_over(atlas, stop - task_tokens(atlas), stop, atlas.layers)


@stage("tasks/words.py", "activations/save.py", "sites", runs="tasks.words:save_words", version=2)
def save_words(atlas) -> tuple[dict, dict]:
    settings = {
        "site": atlas.config["activations"]["site"],
        "count": WORDS,
        "dtype": saved_dtype(atlas),
        "model_dtype": atlas.config["base_model"]["dtype"],
        "prompts_per_batch": atlas.config["activations"]["contexts_per_batch"],
    }
    return settings, {"base_model": atlas.identity("prepare_model")}


@stage(
    "tasks",
    "activations/outliers.py",
    "features/probes.py",
    "features/decoder.py",
    "features/text.py",
    *ENCODING,
    runs="tasks.measure:measure_tasks",
    version=4,
    measures=tasks_of,
)
def measure_tasks(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    settings = {
        "recipe": recipe,
        "layer": layer,
        "tasks": tasks_of(atlas),
        "outlier_norm": atlas.config["activations"]["outlier_norm"],
    }
    read = {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}
    if on_documents(atlas):
        read["text"] = atlas.passed("save_task_text", [layer])
    if on_words(atlas):
        read["words"] = atlas.passed("save_words", [layer])
    return settings, read | snapshot_checkpoints(atlas, recipe, layer)

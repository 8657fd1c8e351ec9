"""The sections `evaluation` and `floors`, and where they contradict the text or the model."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sae_atlas.config.activations import Activations
from sae_atlas.config.base_model import Model
from sae_atlas.config.keys import Number, Section, Whole, Words, each_once, key, later
from sae_atlas.config.task_names import FIRST_LETTER, OF_TOPICS, TASK_TOKENS
from sae_atlas.config.texts import Corpus
from sae_atlas.config.without_model import OF_ROWS, ROWS

Widths = Annotated[
    list[Annotated[Whole, Field(ge=1)]],
    Field(min_length=1),
    AfterValidator(each_once),
    Words("a list of whole numbers from 1, each once"),
]

Tasks = Annotated[
    list[Literal[(*OF_TOPICS, FIRST_LETTER)]],
    AfterValidator(each_once),
    Words(f"a list of {', '.join(f'`{each}`' for each in OF_TOPICS)} and `{FIRST_LETTER}`, each once"),
]


class Evaluation(Section):
    """Held-out measurement."""

    tokens: Whole = key("held-out tokens for FVU, L0, dead latents and the like", 8000, ge=1)
    patched_tokens: Whole = key("of them, tokens for cross-entropy and KL", 2000, ge=1)
    contexts_per_batch: Whole = key("contexts in one forward pass", 8, ge=1)
    outlier_norm: Number = key("FVU is also given without tokens whose norm is above this many medians", 10, gt=1)
    tasks: Tasks = later(
        "SAEBench's questions that every snapshot is asked, too (docs/measurement.md). Those on topics read the end of the "
        "train text, which no SAE has seen if the corpus is longer than the training; first letters are of the model's "
        "vocabulary",
        [],
    )
    task_tokens: Whole = later("tokens of that text. By default no more than there are", TASK_TOKENS, ge=1)


class Students(Section):
    """Students trained from scratch on the base model's logits, to measure their floors."""

    widths: Widths = key("their widths: multiples of 8 among `floors.widths`", otherwise="all of them")
    seeds: Whole = key("students per width", 2, ge=1)
    steps: Whole = key(
        "training steps. Every context is read once, so `corpus.tokens` must hold steps x batch of them", ge=10
    )
    batch: Whole = key("contexts per step", 16, ge=1)
    learning_rate: Number = key("learning rate of AdamW: warm-up over a tenth, then a cosine to 0", 1e-3, gt=0)
    temperature: Number = key("T of the loss T² KL(base model, student)", 2, gt=0)
    evaluations: Whole = key(
        "held-out evaluations, evenly over the steps. The floor is the mean of their last tenth", 20, ge=10
    )
    held_out_tokens: Whole = key("held-out tokens of an evaluation", 4000, ge=1)


class Floors(Section):
    """Distillation floors: what a student of a smaller width is predicted to lose."""

    widths: Widths = key("widths (hidden dimensions) of students that floors are predicted for")
    students: Students = key(otherwise="none are trained")

    def plain(self) -> dict:
        values = super().plain()
        if self.students:
            values["students"] = {"widths": self.widths, **values["students"]}
        return values


def evaluation_problems(evaluation: Evaluation, corpus: Corpus):
    tokens, held_out = evaluation.tokens, corpus.held_out_tokens
    if tokens > held_out:
        yield f"evaluation.tokens: {tokens} is more than corpus.held_out_tokens ({held_out})"
    if evaluation.patched_tokens > tokens and corpus.source != "rows":
        yield f"evaluation.patched_tokens: more than evaluation.tokens ({tokens})"


def task_problems(evaluation: Evaluation, base_model: Model, corpus: Corpus, activations: Activations):
    tasks, of_topics = evaluation.tasks, sorted({*OF_TOPICS} & {*evaluation.tasks})
    if base_model.source in OF_ROWS:  # saved.key_problems says that they do nothing
        return
    if "task_tokens" in evaluation.model_fields_set and not of_topics:
        yield "evaluation.task_tokens: is text for evaluation.tasks on topics, of which there are none; remove it"
    if tasks and activations.target is not None:
        yield (
            "evaluation.tasks: latents are ablated, and probes read, where an SAE writes, and a transcoder writes elsewhere "
            "than it reads; remove it or activations.target"
        )
    if of_topics and corpus.source != "package":
        yield (
            f"evaluation.tasks: {of_topics[0]} needs documents with topics, which only corpus.source `package` has; leave it "
            "out"
        )
    elif of_topics and corpus.topic is not None:
        yield f"evaluation.tasks: {of_topics[0]} compares topics, and corpus.topic leaves one; remove one of them"
    if "task_tokens" in evaluation.model_fields_set and evaluation.task_tokens > corpus.tokens:
        yield f"evaluation.task_tokens: {evaluation.task_tokens} is beyond the corpus ({corpus.tokens}); lower it"
    tokenized_by = base_model.base or base_model
    if FIRST_LETTER in tasks and (tokenized_by.source == "restoration" or tokenized_by.tokenizer == "bytes"):
        yield f"evaluation.tasks: first_letter reads words, and {tokenized_by.name} characters; leave it out"


def floors_target_problems(floors: Floors, activations: Activations):
    if activations.target is not None:
        yield "floors: are predicted from the latents of SAEs, not of transcoders; remove it or activations.target"


def floors_problems(floors: Floors, base_model: Model, corpus: Corpus):
    students = floors.students
    if not students:
        return
    if base_model.source == "restoration":
        yield "floors.students: learn to predict what comes next, which a model of source `restoration` does not; remove"
        return
    if base_model.source in OF_ROWS:
        yield f"floors.students: learn from a base model's predictions; of {ROWS[base_model.source]} there is no model; remove"
        return
    for width in students.widths or floors.widths:
        if width % 8:
            yield f"floors.students.widths: {width} is no multiple of 8; list widths that are"
        elif width not in floors.widths:
            yield f"floors.students.widths: no floor is predicted for {width}; add it to floors.widths"
    if students.evaluations > students.steps:
        yield f"floors.students.evaluations: more than floors.students.steps ({students.steps})"
    read = students.steps * students.batch * ((corpus.context or 1) - 1)  # position 0 begins the document
    if read > corpus.tokens:
        yield (
            f"floors.students.steps: {students.steps} steps of {students.batch} contexts read up to {read} tokens, the "
            f"corpus has {corpus.tokens}; raise corpus.tokens or take fewer"
        )
    if students.held_out_tokens > corpus.held_out_tokens:
        yield f"floors.students.held_out_tokens: more than corpus.held_out_tokens ({corpus.held_out_tokens})"

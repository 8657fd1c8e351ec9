"""Distillation: students of several widths and seeds learn from the base model's logits; their floors are measured."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from sae_atlas.base_models.load import load
from sae_atlas.corpus import Corpus, open_corpus
from sae_atlas.floors.student import Teacher, make_student
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger, progress
from sae_atlas.io.tables import write_table
from sae_atlas.kernels.threads import parts_of, run, use_threads
from sae_atlas.sites.hooks import blocks, capture, start_at
from sae_atlas.sites.trace import forward_pass
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.learner import Learner, read_contexts
from sae_atlas.training.schedule import cosine

CLIP, DECAY = 1.0, 0.01  # norm of the gradient; of AdamW, on all weights; as published
PIECE = 2  # contexts at a time: their logits stay small enough for the allocator to reuse the memory
LAST = 0.1  # share of the evaluations whose mean is the floor


def distill(
    base_model: str | Path,
    corpus: str | Path,
    table: str | Path,
    widths: list[int],
    seeds: int,
    steps: int,
    batch: int,
    learning_rate: float,
    temperature: float,
    evaluations: int,
    held_out_tokens: int,
    model_dtype: str,
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Write a row per student and evaluation: width, seed, step, tokens, loss, held_out, floor, falling, parameters.

    loss, held_out: T^2 KL(base model || student) per unmasked token in nats, mean over the steps since the evaluation
    before, and over held-out contexts. floor: mean of the last tenth of the student's held-out evaluations; falling: the
    share by which it lies below the mean of the tenth before (the learning rate's fall to 0 makes it look flatter than it is).

    All students read the same train contexts, each once, in one job, as the base model's pass over them costs most. Students
    are small: a thread takes a whole one (kernels.threads), and any number of threads gives the same bits. An interrupted job
    continues from its last step, to the same bits.
    """
    use_threads(threads)
    model, _ = load(base_model, model_dtype, device)
    source = open_corpus(corpus)
    contexts = source.tokens.shape[0] - source.held_out
    if steps * batch > contexts:
        raise AtlasError(
            f"floors.students: {steps} steps of {batch} contexts, the corpus has {contexts} train contexts; raise corpus.tokens"
        )
    students = [Student(model.config, width, seed, model.device) for width in widths for seed in range(seeds)]
    stops = {round(steps * number / evaluations) for number in range(1, evaluations + 1)}
    rows, step = [], 0
    measured = _HeldOut(model, source, held_out_tokens, temperature)
    with Interruption(table) as interruption:
        if interruption.saved:
            step, rows = interruption.saved["step"], interruption.saved["rows"]
            for student, state in zip(students, interruption.saved["students"], strict=True):
                student.load(state)
            logger.info("goes on after step %d", step)
        with progress(steps, "steps", f"{len(students)} students") as bar:
            bar.update(step)
            while step < steps:
                _step(model, source, students, step, steps, batch, learning_rate, temperature)
                step += 1
                if step in stops:
                    tokens = int(source.mask[source.held_out : source.held_out + step * batch].sum())
                    rows += measured.rows(students, step, tokens)
                bar.update()
                interruption.check(partial(_state, step, rows, students))
        write_table(table, pa.Table.from_pandas(with_floors(pd.DataFrame(rows)), preserve_index=False))


@dataclass
class Piece:
    """A few contexts [contexts, context], and the base model's predictions on them."""

    tokens: torch.Tensor
    mask: torch.Tensor
    teacher: Teacher

    def divergence(self, model) -> torch.Tensor:
        """Sum over the unmasked positions."""
        return self.teacher.divergence(forward_pass(model, self.tokens).logits[self.mask]).sum()


class Student:
    """A model in training, and its losses since the last evaluation."""

    def __init__(self, config, width: int, seed: int, device):
        self.width, self.seed, self.losses = width, seed, []
        self.model = make_student(config, width, seed).to(device)
        self.learner = Learner(self.model, DECAY, CLIP, decays=lambda weight: True)

    def learn(self, pieces: list[Piece], rate: float) -> None:
        """One step on a batch of contexts."""
        tokens = sum(int(piece.mask.sum()) for piece in pieces)
        self.losses.append(self.learner.step((piece.divergence(self.model) / tokens for piece in pieces), rate))

    def state(self) -> dict:
        return {"learner": self.learner.state(), "losses": self.losses}

    def load(self, state: dict) -> None:
        self.learner.load(state["learner"])
        self.losses = state["losses"]


def rate_at(step: int, steps: int, highest: float) -> float:
    """Learning rate of step number `step` (from 0): a warm-up over a tenth, 1,000 steps at most, then a cosine to 0."""
    return highest * cosine(step, steps, warmup=min(1000, steps // 10))


def with_floors(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with every student's floor and how far it was still falling."""
    last = max(1, round(LAST * rows["step"].nunique()))
    of_student = rows.groupby(["width", "seed"], sort=False)["held_out"]
    floor = of_student.transform(lambda each: each.iloc[-last:].mean())
    before = of_student.transform(lambda each: each.iloc[-2 * last : -last].mean())
    return rows.assign(floor=floor, falling=1 - floor / before)


def _state(step: int, rows: list[dict], students: list[Student]) -> dict:
    return {"step": step, "rows": rows, "students": [student.state() for student in students]}


def _step(model, source: Corpus, students, step, steps, batch, learning_rate, temperature) -> None:
    first = source.held_out + step * batch

    def taught(part: tuple[int, int]) -> Piece:
        tokens, mask = read_contexts(source, slice(first + part[0], first + part[1]), model.device)
        with torch.no_grad():
            return Piece(tokens, mask, Teacher(forward_pass(model, tokens).logits[mask], temperature))

    pieces = run(taught, parts_of(batch, PIECE))
    rate = rate_at(step, steps, learning_rate)
    run(lambda student: student.learn(pieces, rate), students)


class _HeldOut:
    """Held-out contexts with the base model's last block's output, from which each evaluation runs the head alone."""

    def __init__(self, model, source: Corpus, tokens: int, temperature: float):
        self.model, self.temperature, self.pieces = model, temperature, []
        rows, last = source.held_out_rows(tokens), len(blocks(model)) - 1
        for first, stop in parts_of(rows.stop - rows.start, PIECE):
            ids, mask = read_contexts(source, slice(rows.start + first, rows.start + stop), model.device)
            with torch.no_grad(), capture(model, "resid_post", [last]) as captured:
                forward_pass(model, ids)
            self.pieces.append((ids, mask, captured[last]))

    def rows(self, students: list[Student], step: int, tokens: int) -> list[dict]:
        """A row per student."""
        sums = np.zeros(len(students))
        for ids, mask, final in self.pieces:
            with torch.no_grad(), start_at(self.model, len(blocks(self.model)), final):
                teacher = Teacher(forward_pass(self.model, ids).logits[mask], self.temperature)
            sums += run(partial(_measure, Piece(ids, mask, teacher)), students)
        means = sums / sum(int(mask.sum()) for _, mask, _ in self.pieces)
        if not np.isfinite(means).all():
            raise AtlasError(
                f"floors.students: after step {step} a student's loss is NaN or infinite; lower "
                "floors.students.learning_rate, try base_model.dtype: float32, and check the base model's weights"
            )
        rows = []
        for student, held_out in zip(students, means.tolist(), strict=True):
            about = {"width": student.width, "seed": student.seed, "step": step, "tokens": tokens}
            losses = {"loss": float(np.mean(student.losses)), "held_out": held_out}
            rows.append({**about, **losses, "parameters": student.model.num_parameters()})
            student.losses = []
        logger.info("step %d: %s", step, ", ".join(f"{row['width']}: {row['held_out']:.4f}" for row in rows))
        return rows


def _measure(piece: Piece, student: Student) -> float:
    with torch.no_grad():
        return piece.divergence(student.model).item()

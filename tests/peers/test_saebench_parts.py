"""SAEBench's questions on given activations and probes: sae-bench's own functions and ours say the same, to 1e-3.

Of three classes whose items are two copies of one half, sae-bench, which takes as many of the other classes as there are
positives, has a copy of each: means and accuracies are those of all items.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from random_saes import D_IN, D_SAE, random_sae
from sae_bench_runs import SAE_BENCH
from torch import Tensor

from sae_atlas.io.files import write_json
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.tasks import spurious_correlation, topic_perturbation
from sae_atlas.tasks.absorption import absorbed
from sae_atlas.tasks.answers import DocumentTasks
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.first_letter import JUMP, MOST, f1, split
from sae_atlas.tasks.linear_probe import fit
from sae_atlas.tasks.sae_bench import write_sae_bench
from sae_atlas.tasks.sparse_probing import k_sparse_predictions
from sae_atlas.tasks.topics import Labelled, of_topics
from workflow import ROOT

SAME = {"abs": 1e-3}
CONTEXT, FEW, COUNTS = 6, [2, 5], [2, 5, 10]  # latents that are ablated
TOPICS = ("birds", "music", "rivers")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What saebench_parts.py answers to a request, in sae-bench's own environment; it is started once."""
    file = tmp_path_factory.mktemp("theirs") / "request.pt"
    process = subprocess.Popen(
        [ROOT / ".saebench/bin/python", Path(__file__).with_name("saebench_parts.py")],
        env=os.environ | SAE_BENCH,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(**request) -> dict:
        torch.save(request, file)
        print(file, file=process.stdin, flush=True)
        assert process.stdout.readline() == "answered\n"
        return torch.load(file, weights_only=True)

    yield ask
    process.communicate()


def exported(folder: Path):
    """An SAE, and the folder that SAELens reads it from."""
    sae = random_sae("batch_topk")
    saelens.write(folder / "sae", sae, metadata(sae.config))
    return sae, str(folder / "sae")


def texts(generator: torch.Generator, items: int, *directions: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[items, context, d_in], shifted along the directions; 0 from a text's length on."""
    x = 4 * torch.randn(items, CONTEXT, D_IN, generator=generator) + 1
    x += sum(directions) * torch.rand(items, 1, 1, generator=generator)
    return x if lengths is None else x * (torch.arange(CONTEXT) < lengths[:, None])[..., None]


def code_of(sae, x: Tensor, ended: bool = False) -> Code:
    """Means over the tokens of every text; ended: over its length, of the sum over all positions, those behind its end too."""
    latents, inside = sae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]), (x != 0).any(dim=2)
    counted = latents if ended else latents * inside[..., None]
    return Code((counted.sum(dim=1) / inside.sum(dim=1, keepdim=True)).numpy(), sae.W_dec.numpy())


def raw(x: Tensor) -> np.ndarray:
    return (x.sum(dim=1) / (x != 0).any(dim=2).sum(dim=1, keepdim=True)).numpy()


def topics(seed: int, half: int, lengths: bool = False) -> dict[str, Tensor]:
    """Topic -> texts, those of the first half twice."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, name in enumerate(TOPICS):
        long = torch.randint(2, CONTEXT, (half,), generator=generator) if lengths else None
        found[name] = texts(generator, half, 6 * torch.eye(D_IN)[number], lengths=long).repeat(2, 1, 1)
    return found


def joined(by_topic: dict[str, Tensor]) -> tuple[Tensor, np.ndarray]:
    """All texts, and which are of every topic, [topics, texts] bool."""
    of = np.repeat(np.arange(len(by_topic)), len(by_topic[TOPICS[0]]))
    return torch.cat(list(by_topic.values())), of == np.arange(len(by_topic))[:, None]


def test_sparse_probing(theirs, tmp_path):
    sae, _ = exported(tmp_path)
    train, test = ({name: code_of(sae, x).activations for name, x in topics(seed, 40).items()} for seed in (0, 1))
    given = {part: {name: torch.from_numpy(each) for name, each in data.items()} for part, data in
             (("train", train), ("test", test))}  # fmt: skip
    answer = theirs(part="k_sparse", counts=[1, 2, 5], **given)
    for name in TOPICS:
        drawn = [
            (np.concatenate([data[name], *(data[other][:40] for other in TOPICS if other != name)]))
            for data in (train, test)
        ]
        labels = np.arange(160) < 80
        for count, predicted in k_sparse_predictions(drawn[0], labels, drawn[1]).items():
            assert answer[count][name] == pytest.approx((predicted == labels).mean(), **SAME)
    assert min(answer[5].values()) > 0.6


@pytest.mark.parametrize("lengths", [False, True])
def test_targeted_probe_perturbation(theirs, tmp_path, lengths):
    """Behind a text's end sae-bench ablates what the latents say of a zero activation, which no text has: where texts fill
    their contexts, or no latent is active at zero, the numbers are the same.

    So they are up to as many latents as have a positive effect. Of more sae-bench takes any whose effect it has clamped to
    zero, ours those with a negative one.
    """
    sae, folder = exported(tmp_path)
    train, test = topics(0, 40, lengths), topics(1, 40, lengths)
    (x, members), (x_test, truth) = joined(train), joined(test)
    probes = [fit(raw(x), each, np.stack([each, ~each])) for each in members]
    given = {
        name: (torch.from_numpy(probe.weights).float(), probe.bias) for name, probe in zip(TOPICS, probes, strict=True)
    }
    answer = theirs(part="perturbation", sae=folder, train=train, test=test, probes=given, counts=FEW)

    def ours(code: Code) -> dict:
        logits = np.stack([probe.logits(raw(x_test)) for probe in probes], axis=1)
        counts = np.ones((1, len(logits)))
        clean = of_topics(logits.T > 0, truth, counts)
        ablated = topic_perturbation.perturbed(code_of(sae, x), members, code, logits, probes)
        of = {
            n: topic_perturbation.effects(clean, of_topics(ablated[n].transpose(0, 2, 1) > 0, truth, counts))
            for n in FEW
        }
        names = {"total": "total_metric", "intended": "intended_diff_only", "unintended": "unintended_diff_only"}
        return {f"tpp_threshold_{n}_{names[kind]}": float(each[0]) for n in FEW for kind, each in of[n].items()}

    assert answer == pytest.approx(ours(code_of(sae, x_test, ended=lengths)), **SAME)
    assert max(answer.values()) > 0.02
    if lengths:
        assert (sae.encode(torch.zeros(1, D_IN)) > 0).any()
        assert answer != pytest.approx(ours(code_of(sae, x_test)), **SAME)


def test_spurious_correlation_removal(theirs, tmp_path):
    sae, folder = exported(tmp_path)

    def quadrants(seed: int, items: int) -> tuple[dict[tuple, Tensor], Tensor, np.ndarray]:
        generator, eye = torch.Generator().manual_seed(seed), torch.eye(D_IN)
        found = {
            (topic, second): texts(generator, items, 5 * topic * eye[0], 10 * second * eye[1])
            for topic in (1, 0)
            for second in (1, 0)
        }
        labels = np.repeat(np.array(list(found)).T == 1, items, axis=1)
        return found, torch.cat(list(found.values())), labels

    def keyed(of: dict[tuple, Tensor]) -> dict[str, Tensor]:
        """sae-bench's names: `male` stands for the second label, `professor` for the topic."""
        return {
            "male / female": torch.cat([of[1, 1], of[0, 1]]),
            "female_data_only": torch.cat([of[1, 0], of[0, 0]]),
            "professor / nurse": torch.cat([of[1, 1], of[1, 0]]),
            "nurse_data_only": torch.cat([of[0, 1], of[0, 0]]),
            "male_professor / female_nurse": of[1, 1].repeat(2, 1, 1),
            "female_nurse_data_only": of[0, 0].repeat(2, 1, 1),
        }

    (train, x, labels), (test, x_test, truth) = quadrants(0, 50), quadrants(1, 200)
    cells = spurious_correlation.quadrants(labels)
    about_topic, about_second = (fit(raw(x), label, cells) for label in labels)
    biased = fit(raw(x), labels[0], cells[[0, 3]])
    names = {"male / female": about_second, "professor / nurse": about_topic, "male_professor / female_nurse": biased}
    given = {name: (torch.from_numpy(probe.weights).float(), probe.bias) for name, probe in names.items()}
    answer = theirs(
        part="correlation_removal",
        sae=folder,
        train=keyed(train),
        test=keyed(test),
        probes=given,
        counts=COUNTS,
    )
    right = spurious_correlation.removed(code_of(sae, x), raw(x), labels, code_of(sae, x_test), raw(x_test), truth)
    for direction, about in ((1, 0), (2, 1)):
        own, before = right.own[about].mean(), right.biased[about].mean()
        for count in COUNTS:
            score = spurious_correlation.score(own, before, right.ablated[about][count].mean())
            assert answer[f"scr_dir{direction}_threshold_{count}"] == pytest.approx(float(score), **SAME)
    assert max(abs(each) for each in answer.values()) > 0.02


def test_absorption(theirs, tmp_path):
    """Of words whose main latents fire, fire weakly and are silent, with a decoder whose rows have norm 1."""
    sae, folder = exported(tmp_path)
    generator = torch.Generator().manual_seed(3)
    x = 4 * torch.randn(400, D_IN, generator=generator) + 1
    probe = torch.randn(D_IN, generator=generator)
    x = x[x @ probe > 0]
    main = (sae.W_dec @ probe).topk(2).indices
    answer = theirs(
        part="absorption",
        sae=folder,
        x=x,
        words=[f"w{n}" for n in range(len(x))],
        probe=probe,
        main=main.tolist(),
    )
    ours = absorbed(sae.encode(x).numpy(), x.numpy(), sae.W_dec.numpy(), probe.numpy(), main.numpy())
    assert answer["fraction"] == pytest.approx(ours.fraction.tolist(), **SAME)
    assert answer["full"] == ours.full.tolist()
    assert len({*np.round(ours.fraction, 3)}) > 3 and 0 < ours.full.sum() < len(x)


def test_splitting(theirs, tmp_path):
    """Letters with one direction, with two of which a word has either, and with none."""
    sae, folder = exported(tmp_path)
    generator = torch.Generator().manual_seed(4)
    letters = torch.arange(26)
    directions = 8 * torch.randn(26, 2, D_IN, generator=generator) * (letters % 3 > 0)[:, None, None]
    directions[letters % 3 == 1, 1] = directions[letters % 3 == 1, 0]

    def words(each: int) -> tuple[Tensor, Tensor]:
        labels = letters.repeat(each)
        which = torch.randint(2, (len(labels),), generator=generator)
        return 4 * torch.randn(len(labels), D_IN, generator=generator) + 1 + directions[labels, which], labels

    (x, labels), (x_test, truth) = words(30), words(15)
    weights = torch.randn(26, D_SAE, generator=generator)
    train, test = sae.encode(x).numpy(), sae.encode(x_test).numpy()
    for letter in letters:
        of_letter = labels.numpy() == int(letter)
        weights[letter] += torch.from_numpy(train[of_letter].mean(axis=0) - train[~of_letter].mean(axis=0))
    answer = theirs(
        part="splitting", sae=folder, train=x, labels=labels.tolist(), test=x_test, truth=truth.tolist(),
        weights=weights, most=MOST, jump=JUMP,
    )  # fmt: skip
    sizes = set()
    for number, about in enumerate(answer.values()):
        is_letter = truth.numpy() == number
        ours = split(train, labels.numpy() == number, test, is_letter, weights[number].numpy())
        assert about["latents"] == ours.latents.tolist()
        for count, predicted in ours.predicted.items():
            reached = f1(predicted, is_letter, np.ones((1, len(is_letter))))[0]
            assert about["f1"][count - 1] == pytest.approx(reached, **SAME)
        sizes.add(len(ours.latents))
    assert len(sizes) > 1


def test_what_is_handed_in_is_read_by_their_classes(theirs, tmp_path):
    """The values that measure_tasks would write of random texts, and two letters."""
    generator = np.random.default_rng(5)
    x, sae = generator.normal(size=(90, D_IN)).astype(np.float32), random_sae("batch_topk")
    data = Labelled(x, np.repeat(TOPICS, 30), np.arange(90) % 2 == 0)
    tasks = DocumentTasks(data, ["sparse_probing", "targeted_probe_perturbation", "spurious_correlation_removal"])
    drawn = tasks.of(Code(sae.encode(torch.from_numpy(x)).numpy(), sae.W_dec.numpy())).drawn | tasks.shared()
    letter = {"fraction": 0.25, "full": 1, "words": 4, "latents": [3, 5]}
    letters = [letter | {"letter": "a"}, letter | {"letter": "b", "full": 0}]
    answers = {"values": {name: float(each[0]) for name, each in drawn.items()}, "letters": letters}
    write_json(tmp_path / "answers.json", {"answers": {"final": answers}})
    measured = {"metrics": [{"layer": 3}], "checkpoints": {"final": {"config": without_arrays(sae.config)}}}
    write_json(tmp_path / "metrics.json", measured)
    write_sae_bench(tmp_path / "answers.json", tmp_path / "metrics.json", tmp_path / "out", "model", "text", "release")
    metrics = theirs(part="read", files=[str(file) for file in (tmp_path / "out").rglob("*.json")])
    assert set(metrics) == {"sparse_probing", "tpp", "scr", "absorption_first_letter"}
    assert metrics["sparse_probing"]["sae"]["sae_top_2_test_accuracy"] == answers["values"]["probing_2"]
    assert metrics["tpp"]["tpp_metrics"]["tpp_threshold_5_total_metric"] == answers["values"]["tpp_5"]
    assert metrics["scr"]["scr_metrics"]["scr_dir1_threshold_10"] == answers["values"]["scr_10_dir1"]
    assert metrics["absorption_first_letter"]["mean"]["mean_full_absorption_score"] == 1 / 8


def without_arrays(config: dict) -> dict:
    """A checkpoint's config as metrics.evaluate writes it."""
    return config | {"normaliser": {"scale": config["normaliser"]["scale"]}}

"""SAEBench's evaluations run whole on an SAE of the embedded model, with its text and its vocabulary in the place of theirs."""

import pytest
from sae_bench_runs import run_saebench
from transformers import AutoTokenizer

from sae_atlas.texts.documents import read_documents

TRAIN, TEST = 32, 16  # texts of a topic
SIZES = {"context_length": 32, "llm_batch_size": 16, "sae_batch_size": 16}
WORDS = 8  # of a letter
COUNTS = [2, 5, 10]


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Topic -> introductions of articles about it, of the three topics with the most."""
    found = {}
    for text, topic in read_documents({"source": "package", "package": "wikipedia-introductions"}, seed=0):
        if topic is not None:
            found.setdefault(topic, []).append(text)
    return {topic: found[topic] for topic in sorted(found, key=lambda topic: -len(found[topic]))[:3]}


def halves(texts: dict) -> tuple[dict, dict]:
    return ({topic: each[at] for topic, each in texts.items()} for at in (slice(TRAIN), slice(TRAIN, TRAIN + TEST)))


def test_sparse_probing(trained, texts, tmp_path):
    train, test = halves(texts)
    sizes = SIZES | {"probe_train_set_size": 2 * TRAIN, "probe_test_set_size": 2 * TEST}
    found = run_saebench(tmp_path, "sparse_probing", sae=str(trained.exported), train=train, test=test, **sizes)
    of_model, of_sae = (found["eval_result_metrics"][name] for name in ("llm", "sae"))
    assert 0.6 < of_model["llm_test_accuracy"] <= 1 and 0.6 < of_sae["sae_test_accuracy"] <= 1
    assert all(0.4 < of_sae[f"sae_top_{count}_test_accuracy"] <= 1 for count in (1, 2, 5))
    assert set(found["eval_result_unstructured"]["topics_results"]["sae_test_accuracy"]) == set(texts)


def test_targeted_probe_perturbation(trained, texts, tmp_path):
    train, test = halves(texts)
    sizes = SIZES | {"train_set_size": 2 * TRAIN, "test_set_size": 2 * TEST, "n_values": COUNTS}
    found = run_saebench(tmp_path, "perturbation", "tpp", sae=str(trained.exported), train=train, test=test, **sizes)
    metrics = found["eval_result_metrics"]["tpp_metrics"]
    for count in COUNTS:
        total, intended, others = (
            metrics[f"tpp_threshold_{count}_{name}"]
            for name in ("total_metric", "intended_diff_only", "unintended_diff_only")
        )
        assert total == pytest.approx(intended - others) and abs(total) <= 1


def test_spurious_correlation_removal(trained, texts, tmp_path):
    """Of two topics; the second label is whether the beginning of the text has a digit."""
    columns = {name: [] for name in ("text", "topic", "label")}
    for number, topic in enumerate(list(texts)[:2]):
        for text in texts[topic]:
            columns["text"].append(text)
            columns["topic"].append(number)
            columns["label"].append(int(not any(letter.isdigit() for letter in text[:100])))
    train, test = ({name: each[part::2] for name, each in columns.items()} for part in (0, 1))
    sizes = SIZES | {"train_set_size": 2 * TRAIN, "test_set_size": 2 * TEST, "n_values": COUNTS}
    found = run_saebench(
        tmp_path, "correlation_removal", "scr", sae=str(trained.exported), train=train, test=test,
        size=(2 * TRAIN, 2 * TEST), **sizes,
    )  # fmt: skip
    metrics = found["eval_result_metrics"]["scr_metrics"]
    assert all(abs(metrics[f"scr_dir{way}_threshold_{count}"]) < 5 for way in (1, 2) for count in COUNTS)


def test_absorption(trained, tmp_path):
    """On words of one token; with so few, letters count whose probe is right at all."""
    tokenizer, of_letter = AutoTokenizer.from_pretrained(trained.model), {}
    for number in range(len(tokenizer)):
        word = tokenizer.decode([number])
        if len(word) > 2 and word[0] == " " and word[1:].isascii() and word[1:].isalpha():
            of_letter.setdefault(word[1].lower(), []).append(word)
    assert len(of_letter) == 26
    words = [word for of in of_letter.values() for word in of[:WORDS]]
    few = {"min_GT_probe_f1": 0.0, "min_feats_for_eval": 1, "max_k_value": 3, "llm_batch_size": 8}
    found = run_saebench(
        tmp_path, "absorption", sae=str(trained.exported), words=words, precalc_k_sparse_probe_sae_acts=True, **few
    )
    details, mean = found["eval_result_details"], found["eval_result_metrics"]["mean"]
    assert len(details) > 1 and all(1 <= each["num_split_features"] <= 3 for each in details)
    assert 0 <= mean["mean_absorption_fraction_score"] <= 1 and 0 <= mean["mean_full_absorption_score"] <= 1

"""Targeted probe perturbation: does ablating a topic's latents change that topic's probe and no other?

SAEBench 0.6.0, `scr_and_tpp` without SCR (arXiv 2503.09532, section 4.3). The latents of a topic are those with the largest
(mean activation on the topic - mean on other topics, not below 0) x (decoder row . probe of the topic). Units of either sign
count where their mean on the topic is below, too: turned round they are the same unit.
"""

import numpy as np

from sae_atlas.tasks.ablation import COUNTS, ablated_logits, mean_difference, strongest
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.linear_probe import LinearProbe


def perturbed(train: Code, members: np.ndarray, test: Code, logits: np.ndarray, probes: list[LinearProbe]) -> dict:
    """Number of ablated units -> logits [topics ablated, test items, topics' probes].

    train: on which units are chosen, of the topics `members` [topics, train items] bool; test: whose logits [test items,
    topics] of the `probes`, one per topic, are given. Numbers of units that the code does not have are left out.
    """
    weights = np.stack([probe.weights for probe in probes], axis=1)
    written = train.directions @ weights
    ranked = []
    for topic, labels in enumerate(members):
        difference = mean_difference(train.activations, labels, np.stack([labels, ~labels]))
        counted = difference if train.either_sign else np.clip(difference, 0, None)
        ranked.append(strongest(counted * written[:, topic], max(COUNTS)))
    return {
        count: np.stack([ablated_logits(logits, test.activations, written, units[:count]) for units in ranked])
        for count in COUNTS
        if count <= len(written)
    }


def effects(clean: np.ndarray, ablated: np.ndarray) -> dict[str, np.ndarray]:
    """`intended`: what ablating a topic's units takes from the accuracy of its own probe; `unintended`: from the other topics'
    probes on average; `total`: the difference. Means over topics, [...].

    clean [topics, ...]: accuracy of every topic's probe; ablated [topics ablated, topics' probes, ...].
    total is between -1 and 1, 0 where nothing is ablated, 1/2 where perfect probes fall to chance and no other changes.
    """
    lost = clean[None] - ablated
    topics = len(clean)
    intended = np.stack([lost[topic, topic] for topic in range(topics)]).mean(axis=0)
    unintended = (lost.sum(axis=(0, 1)) - intended * topics) / (topics * (topics - 1))
    return {"total": intended - unintended, "intended": intended, "unintended": unintended}

"""Probes of words' first letters, dense and on few latents, and how many latents a letter is split over.

SAEBench 0.6.0, `absorption/k_sparse_probing` (Chanin et al. 2024, arXiv 2409.14507). All take arrays: what a probe says of
the words of a test half, of which nothing was seen in fitting.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from sae_atlas.features import probes
from sae_atlas.tasks.linear_probe import LinearProbe, fit

MOST = 10  # latents of a k-sparse probe
JUMP = 0.03  # of F1, from which one latent more is taken as part of the letter
# Of Adam through the words; in as many batches as a vocabulary of 40,000 words makes in SAEBench.
EPOCHS, BATCHES = 50, 8
RATES, DECAY, L1 = (1e-2, 1e-5), 1e-6, 1e-2  # learning rate, first and last; penalties of squares and of magnitudes


class Split(NamedTuple):
    """latents: those of the largest k-sparse probe that is still better by JUMP than the one before; predicted: k -> whether
    each test word has the letter, [test words] bool, of the probes that were fitted.
    """

    latents: np.ndarray
    predicted: dict[int, np.ndarray]


def dense_probes(x: np.ndarray, members: np.ndarray) -> list[LinearProbe]:
    """A probe for every letter on raw activations x [words, d_in]; members [letters, words] bool.

    As those of topics (linear_probe.fit), where SAEBench runs Adam on raw activations for a number of epochs.
    """
    return [fit(x, labels, np.stack([labels, ~labels])) for labels in members]


def sparse_weights(latents: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Weights [letters, latents] of L1-penalised logistic regressions on latents [words, latents], whose largest say which to
    take; members [letters, words] bool. The positives of a letter weigh as much as all other words.

    Adam as in SAEBench, but from 0 and through the words in their order: the result depends on nothing else.
    """
    x, y = torch.from_numpy(latents), torch.from_numpy(members.T).to(torch.float32)
    positive = y.sum(dim=0)
    weights = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=(len(y) - positive) / positive)
    optimizer = torch.optim.Adam([weights, bias], lr=RATES[0], weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (RATES[1] / RATES[0]) ** (1 / EPOCHS))
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for some, labels in zip(x.chunk(BATCHES), y.chunk(BATCHES), strict=True):
                optimizer.zero_grad()
                (loss(some @ weights.T + bias, labels) + L1 * weights.abs().sum(dim=1).mean()).backward()
                optimizer.step()
            schedule.step()
    return weights.detach().numpy()


def split(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Split:
    """k-sparse probes of one letter, k = 1, 2, ... while one latent more raises F1 on the test words by more than JUMP.

    train [train words, latents], labels [train words] bool, test [test words, latents], truth [test words] bool; weights
    [latents]: of the L1-penalised probe of the letter. Positive weights only are large: what predicts the letter, not others.
    """
    order = np.argsort(-weights, kind="stable")[:MOST]
    best, chosen, predicted = -np.inf, order[:0], {}
    for count in range(1, len(order) + 1):
        latents = order[:count]
        unfitted = LogisticRegression(class_weight="balanced", max_iter=500)
        probe = probes.fit(unfitted, train[:, latents], labels)
        predicted[count] = probe.predict(test[:, latents])
        reached = float(f1(predicted[count], truth, np.ones((1, len(truth))))[0])
        if reached <= best + JUMP:
            break
        best, chosen = reached, latents
    return Split(chosen, predicted)


def f1(predicted: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), [draws]: the harmonic mean of precision and recall; NaN in a draw without a true word.

    predicted, truth: [words] bool; counts [draws, words]: how often every word counts.
    """
    right, said, true = (counts @ each.astype(float) for each in (predicted & truth, predicted, truth))
    return np.divide(2 * right, said + true, out=np.full_like(right, np.nan), where=true > 0)

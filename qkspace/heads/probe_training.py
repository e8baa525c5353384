"""Probe training: parsers that may look at frozen attention alone, trained and asked for the head of every word.

In: sentences (`qkspace.heads.probe_data.Sentence`). Out: a trained probe, its weights by head, and what it predicts. Knows no
index and no model. The probes are those of Clark et al. (2019, What Does BERT Look At?, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qkspace.heads.probe_data import N_ANCHORS, Sentence
from qkspace.schema import IntArray

BATCH_SENTENCES = 16
BATCH_NUMBERS = 1 << 23  # of attention, or of hidden units, in a batch: 32 MiB
# With these, probes of MiniLM on UD English EWT did best on the sentences that choose the epoch, of some from 0.0005 to 0.006.
LEARNING_RATE, LEARNING_RATE_OF_DISTANCES = 0.005, 0.001
HIDDEN = 256  # units of the baseline that knows words and distances
NEAR = (-2, -1, 1, 2)  # distances that it is told one by one
DEV_SHARE = 0.1  # of the sentences to train on, that tell when to stop
PATIENCE = 4  # epochs without a better one


@dataclass(frozen=True, slots=True)
class Batch:
    """Sentences side by side, filled up to the longest: head (sentence, word), -1 where nothing is to be learned.

    attention (sentence, anchor + word, anchor + word, map), vector (sentence, word, d), n_words (sentence).
    """

    attention: Tensor
    vector: Tensor
    head: Tensor
    n_words: Tensor

    def masked(self, logit: Tensor) -> Tensor:
        """Return logits of candidates, (sentence, word, ROOT + word), -inf for the word itself and what fills up."""
        n = self.head.shape[1]
        candidate = torch.arange(n + 1)
        forbidden = (candidate > self.n_words[:, None])[:, None, :] | (candidate == 1 + torch.arange(n)[:, None])
        return logit.masked_fill(forbidden, -torch.inf)


class AttentionProbe(nn.Module):
    """p(i | j) ~ exp(sum_k w_k a^k_ji + u_k a^k_ij) over candidates i for the head of word j, k over all heads.

    With words, w_k and u_k are linear in the vectors of i and j: b_k + (x_k . v_i + y_k . v_j) / sqrt(d), where the root
    keeps what a step changes as small as without words; else the probe knows its sentences by heart after two epochs.
    The attention of ROOT is a sum of that of the first and the last special token, weighed by two scalars for each k and
    direction; its vector is 0.
    """

    def __init__(self, spread: NDArray[np.float32], n_dimensions: int) -> None:
        """Take how far the attention of each map spreads, by which it is divided, and the length of vectors; 0: no words."""
        super().__init__()
        n_maps = len(spread)
        self.spread = torch.from_numpy(spread)
        self.bias = nn.Parameter(torch.zeros(2, n_maps))  # word j attends to i; i attends to j
        self.root = nn.Parameter(torch.full((N_ANCHORS, 2, n_maps), 1 / N_ANCHORS))
        self.of_head = nn.Parameter(torch.zeros(2, n_dimensions, n_maps)) if n_dimensions else None
        self.of_word = nn.Parameter(torch.zeros(2, n_dimensions, n_maps)) if n_dimensions else None

    def weights(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each word adds to the weights, as a candidate and as the word asked: (direction, ..., word, map)."""
        as_head, as_word = (self._linear(part, vector) for part in (self.of_head, self.of_word))
        bias = self.bias.view(2, *(1 for _ in vector.shape[:-1]), -1)
        return as_head, as_word + bias

    def _linear(self, part: nn.Parameter | None, vector: Tensor) -> Tensor:
        if part is None:
            return torch.zeros(2, *(1 for _ in vector.shape[:-1]), self.bias.shape[1])
        return torch.stack([vector @ part[0], vector @ part[1]]) / math.sqrt(part.shape[1])

    def forward(self, batch: Batch) -> Tensor:
        """Return logits: (sentence, word, ROOT + word)."""
        attention = batch.attention / self.spread
        between = attention[:, N_ANCHORS:, N_ANCHORS:]
        as_head, as_word = (part.expand(2, *between.shape[:2], -1) for part in self.weights(batch.vector))
        asking = _weighed(between, as_word[0]) + _weighed(between.transpose(1, 2), as_head[0]).mT
        asked = _weighed(between, as_head[1]).mT + _weighed(between.transpose(1, 2), as_word[1])
        to_root = self._root(attention[:, N_ANCHORS:, :N_ANCHORS], as_word, 0)
        from_root = self._root(attention[:, :N_ANCHORS, N_ANCHORS:].transpose(1, 2), as_word, 1)
        return batch.masked(torch.cat([(to_root + from_root)[:, :, None], asking + asked], dim=2))

    def _root(self, attention: Tensor, as_word: Tensor, direction: int) -> Tensor:
        """Return the logit of ROOT in one direction: (sentence, word, anchor, map) -> (sentence, word)."""
        return ((attention * self.root[:, direction]).sum(dim=2) * as_word[direction]).sum(dim=2)


def _weighed(attention: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over maps, weighed by the row: (sentence, row, column, map), (sentence, row, map) -> no map."""
    return (attention @ weight[..., None])[..., 0]


class DistanceProbe(nn.Module):
    """The same from words and how far apart they are alone: one hidden layer of tanh, and one number of it."""

    def __init__(self, n_dimensions: int) -> None:
        """Take the length of vectors."""
        super().__init__()
        self.of_head = nn.Linear(n_dimensions, HIDDEN)
        self.of_word = nn.Linear(n_dimensions, HIDDEN, bias=False)
        self.of_distance = nn.Linear(len(NEAR) + 3, HIDDEN, bias=False)
        self.out = nn.Linear(HIDDEN, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits: (sentence, word, ROOT + word)."""
        root = torch.zeros_like(batch.vector[:, :1])
        as_head = self.of_head(torch.cat([root, batch.vector], dim=1))[:, None, :]
        hidden = as_head + self.of_word(batch.vector)[:, :, None] + self.of_distance(_distances(batch))
        return batch.masked(self.out(torch.tanh(hidden))[..., 0])


def _distances(batch: Batch) -> Tensor:
    """Return what is told of where a candidate is: (sentence, word, ROOT + word, feature).

    How far ahead, how far behind, as shares of the sentence; whether at each of NEAR; whether it is ROOT.
    """
    n = batch.head.shape[1]
    candidate = torch.arange(n + 1)
    ahead = candidate[None, :] - (1 + torch.arange(n)[:, None])
    share = ahead / batch.n_words[:, None, None]
    told = [share.clamp(min=0), (-share).clamp(min=0), *((ahead == near).expand(share.shape) for near in NEAR)]
    is_word = (candidate > 0).float()[None, None, :, None]
    features = torch.stack([each.float() for each in told], dim=-1) * is_word
    return torch.cat([features, (1 - is_word).expand(*share.shape, 1)], dim=-1)


# ---------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe at its best epoch, from 1, by the share of heads that it finds in sentences it is not trained on."""

    probe: nn.Module
    epoch: int
    n_epochs: int
    accuracy: float

    @property
    def says(self) -> str:
        """How the epoch was chosen."""
        return f"epoch {self.epoch} of {self.n_epochs}: UAS {self.accuracy:.3f} on the tenth that chooses the epoch"


def train(probe: nn.Module, sentences: Sequence[Sentence], *, epochs: int, seed: int) -> Trained:
    """Train a probe by Adam on the cross entropy over candidates, and keep its best epoch.

    Punctuation is learned too. A tenth of the sentences, drawn by the seed, tells which epoch is best; where PATIENCE epochs
    are no better, training ends. The same seed gives the same probe.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sentences))
    n_dev = min(max(1, round(DEV_SHARE * len(sentences))), len(sentences) - 1)
    dev, rest = ([sentences[i] for i in part] for part in (order[:n_dev], order[n_dev:]))
    rate = LEARNING_RATE_OF_DISTANCES if isinstance(probe, DistanceProbe) else LEARNING_RATE
    optimiser = torch.optim.Adam(probe.parameters(), lr=rate)
    best, epoch, state = (-1.0, 0.0), 0, probe.state_dict()
    for number in range(1, epochs + 1):
        for batch in batches(rest, rng):
            optimiser.zero_grad()
            _loss(probe, batch).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        found = accuracy(dev, predict(probe, dev)), -_mean_loss(probe, dev)  # of equally many right, the surer epoch
        if found > best:
            best, epoch, state = found, number, {name: each.clone() for name, each in probe.state_dict().items()}
        elif number - epoch >= PATIENCE:
            break
    probe.load_state_dict(state)
    return Trained(probe, epoch, number, best[0])


def _loss(probe: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross entropy over the words of a batch that have a head."""
    return nn.functional.cross_entropy(probe(batch).flatten(0, 1), batch.head.flatten(), ignore_index=-1)


def _mean_loss(probe: nn.Module, sentences: Sequence[Sentence]) -> float:
    with torch.inference_mode():
        losses = [float(_loss(probe, batch)) for batch in batches(sentences, np.random.default_rng(0))]
    return sum(losses) / max(len(losses), 1)


def probe_of(spread: NDArray[np.float32] | None, n_dimensions: int, seed: int) -> AttentionProbe | DistanceProbe:
    """Return an untrained probe whose first weights come of a seed; spread: of attention, None for one that reads none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DistanceProbe(n_dimensions) if spread is None else AttentionProbe(spread, n_dimensions)


def batches(sentences: Sequence[Sentence], rng: np.random.Generator) -> Iterator[Batch]:
    """Yield sentences of like length side by side, in an order drawn anew."""
    lengths = np.array([sentence.n_words for sentence in sentences])
    order = rng.permutation(len(sentences))
    order = order[np.argsort(lengths[order], kind="stable")]
    groups = _groups(order, lengths, sentences[0].attention.shape[-1])
    for i in rng.permutation(len(groups)):
        chosen = [sentences[j] for j in groups[i]]
        if any((sentence.head >= 0).any() for sentence in chosen):
            yield side_by_side(chosen)


def _groups(order: IntArray, lengths: IntArray, n_maps: int) -> list[IntArray]:
    """Cut an order by rising length into groups whose attention takes BATCH_NUMBERS at most; one sentence at least."""
    groups, first = [], 0
    while first < len(order):
        size = BATCH_SENTENCES
        while size > 1 and size * max(n_maps, HIDDEN) * _longest(order, lengths, first, size) ** 2 > BATCH_NUMBERS:
            size = math.ceil(size / 2)
        groups.append(order[first : first + size])
        first += size
    return groups


def _longest(order: IntArray, lengths: IntArray, first: int, size: int) -> int:
    return int(lengths[order[first : first + size]].max()) + N_ANCHORS


def side_by_side(sentences: Sequence[Sentence]) -> Batch:
    """Return sentences as one batch."""
    n, size = max(sentence.n_words for sentence in sentences), len(sentences)
    head = np.full((size, n), -1)
    vector = np.zeros((size, n, sentences[0].vector.shape[-1]), dtype=np.float32)
    side = n + N_ANCHORS
    attention = np.zeros((size, side, side, sentences[0].attention.shape[-1]), dtype=np.float32)
    for i, sentence in enumerate(sentences):
        m = sentence.n_words
        head[i, :m], vector[i, :m] = sentence.head, sentence.vector
        attention[i, : m + N_ANCHORS, : m + N_ANCHORS] = sentence.attention
    n_words = torch.tensor([sentence.n_words for sentence in sentences])
    return Batch(torch.from_numpy(attention), torch.from_numpy(vector), torch.from_numpy(head), n_words)


def predict(probe: nn.Module, sentences: Sequence[Sentence]) -> list[IntArray]:
    """Return the most probable head of each word of each sentence: a candidate, (word)."""
    lengths = np.array([sentence.n_words for sentence in sentences])
    order = np.argsort(lengths, kind="stable")
    found: dict[int, IntArray] = {}
    with torch.inference_mode():
        for group in _groups(order, lengths, sentences[0].attention.shape[-1]):
            best = probe(side_by_side([sentences[i] for i in group])).argmax(dim=2).numpy()
            found |= {int(i): best[at, : lengths[i]] for at, i in enumerate(group)}
    return [found[i] for i in range(len(sentences))]


def accuracy(sentences: Sequence[Sentence], predicted: Sequence[IntArray]) -> float:
    """Return the share of words, punctuation left out, whose head is predicted."""
    counted = [sentence.is_counted & ~sentence.is_punct for sentence in sentences]
    right = sum(int(((p == s.head) & c).sum()) for p, s, c in zip(predicted, sentences, counted, strict=True))
    return right / max(sum(int(c.sum()) for c in counted), 1)


def importance(probe: AttentionProbe, sentences: Sequence[Sentence]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean weight of each map where a word meets its head, and its mean size: (direction, map) both.

    Of attention divided by its spread, so that weights can be compared. Without words they are the same everywhere.
    """
    shape, n = (2, sentences[0].attention.shape[-1]), 0
    sums, sizes = torch.zeros(shape), torch.zeros(shape)
    with torch.inference_mode():
        for sentence in sentences:
            word = np.flatnonzero(sentence.head > 0)
            parts = probe.weights(torch.from_numpy(sentence.vector))
            as_head, as_word = (part.expand(2, sentence.n_words, -1) for part in parts)
            weight = as_head[:, sentence.head[word] - 1] + as_word[:, word]
            sums += weight.sum(dim=1)
            sizes += weight.abs().sum(dim=1)
            n += len(word)
    return (sums / max(n, 1)).numpy(), (sizes / max(n, 1)).numpy()

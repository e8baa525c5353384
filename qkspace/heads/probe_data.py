"""Probe data: sentences as probes read them, of an index or of the same model without its training.

In: an index with trees. Out: of each sentence, who is the head of whom, the attention of all heads between its words, and a
place for their vectors. Knows no probe and no score.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace.heads.trees import tree_of
from qkspace.heads.words import Words, pooled, word_attention, words_of
from qkspace.index import Index
from qkspace.schema import BoolArray, FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    from qkspace.capture import AttentionCall
    from qkspace.model import Checkpoint

MAX_TOKENS = 128  # of a sentence; longer ones are left out (Clark et al. 2019 do so too)
MAX_BYTES = 2 << 30  # of attention that is held to train on: some 20,000 sentences of 100 heads, 2,000 of 1,000
N_ANCHORS = 2  # first and last special token

Attention = Callable[[Words], FloatArray]  # of a sentence: (unit, unit, head of any layer)


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """One sentence. Candidates for the head of a word have one numbering everywhere: 0 is ROOT, i the i-th word.

    head: (word), a candidate, -1 where there is none to find. relation: (word). is_counted: (word), whether the corpus says
    what the head is; where it has no token here, no answer is right. is_punct: (word).
    attention: (anchor + word, anchor + word, map), from row to column; the first two rows and columns are the first and the
    last special token, from which ROOT is told. vector: (word, d).
    """

    head: IntArray
    relation: NDArray[np.object_]
    is_counted: BoolArray
    is_punct: BoolArray
    attention: NDArray[np.float16]
    vector: NDArray[np.float32]

    @property
    def n_words(self) -> int:
        """Words that have tokens."""
        return len(self.head)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The words of the sentences of one side of the split, ascending by place; note: how many, and what is left out."""

    words: tuple[Words, ...]
    note: str


def with_trees(index: Index) -> IntArray:
    """Return the places of the sequences of which the corpus gives a tree, ascending."""
    has_head = index.tokens["head"].notna().to_numpy() & (index.tokens["word"].to_numpy() >= 0)
    return np.flatnonzero(np.add.reduceat(has_head, index.row_starts[:-1]))


def draw(index: Index, places: IntArray, most: int, seed: int, *, max_bytes: int | None = None) -> Drawn:
    """Draw at most so many sentences of these places, whose attention takes at most so many bytes.

    Left out are sentences of more than MAX_TOKENS tokens, and those in which fewer than two words have tokens.
    """
    lengths = np.diff(index.row_starts)[places]
    short = np.random.default_rng(seed).permutation(places[lengths <= MAX_TOKENS])
    n_maps = sum(layer.n_heads for layer in index.layers)
    drawn: list[Words] = []
    n_bytes = n_without = 0
    for place in short:
        words = words_of(index, int(place))
        n_bytes += 2 * n_maps * (len(words.words) + N_ANCHORS) ** 2
        if len(drawn) == most or (max_bytes is not None and n_bytes > max_bytes):
            break
        if _has_tree(index, words):
            drawn.append(words)
        else:
            n_without += 1
    n_left = len(short) - len(drawn) - n_without
    left = {f"of more than {MAX_TOKENS} tokens": len(places) - len(short), "not drawn": n_left}
    left["of fewer than two words"] = n_without
    said = ", ".join(f"{n:,} {reason}" for reason, n in left.items() if n)
    drawn.sort(key=lambda words: words.place)
    return Drawn(tuple(drawn), f"{len(drawn):,} sentences" + (f" (left out: {said})" if said else ""))


def _has_tree(index: Index, words: Words) -> bool:
    return len(words.words) > 1 and bool((tree_of(index, words).head >= 0).any())


def sentence_of(index: Index, words: Words, attention: FloatArray, vector: FloatArray) -> Sentence:
    """Return a sentence with the attention from unit to unit, (unit, unit, map), and the vectors of its words, (word, d)."""
    tree = tree_of(index, words)
    units = np.concatenate([_anchors(index, words), words.words])
    kept = attention[np.ix_(units, units)].astype(np.float16)
    return Sentence(
        tree.head, tree.relation, tree.is_annotated, tree.is_punct, kept, np.asarray(vector, dtype=np.float32)
    )


def _anchors(index: Index, words: Words) -> IntArray:
    """Return the units that ROOT is told from: first and last special token; the first token where none is special."""
    is_special = index.tokens["is_special"].to_numpy()[words.row] & (words.word < 0)
    special = np.flatnonzero(is_special)
    return np.array([special[0], special[-1]] if len(special) else [0, 0])


# ---------------------------------------------------------------------------------------------- attention


def stored_attention(index: Index) -> Attention:
    """Return how the attention of a sentence is recomputed from an index, word by word (Clark et al. 2019, section 4.1)."""

    def attention(words: Words) -> FloatArray:
        layers = [word_attention(index, layer, words) for layer in range(index.n_layers)]
        return np.concatenate(layers).transpose(1, 2, 0)

    return attention


def random_attention(index: Index, checkpoint: Checkpoint, seed: int) -> Attention:
    """Return how a model of the same configuration attends that keeps the embeddings of a checkpoint and nothing else.

    Tables of embeddings (words, positions, kinds of text) are the checkpoint's, but for those within an attention; every
    other weight is what the model is initialised with before training.

    Raises:
        QKSpaceError: such a model cannot be made, or does not run over tokens alone.
    """
    import torch

    from qkspace.capture import forward, listening

    check = index.manifest["check"]
    if check.get("part", "self") in ("decoder", "cross") or index.manifest.get("modality", "text") != "text":
        raise QKSpaceError("it does not read a text alone")
    model = _initialised(checkpoint, [layer.module for layer in index.layers], seed)
    layer_of = {call: i for i, call in enumerate(check.get("calls", range(index.n_layers)))}
    token_ids = index.tokens["token_id"].to_numpy()

    def attention(words: Words) -> FloatArray:
        ids = torch.from_numpy(token_ids[words.rows].astype(np.int64))[None]
        taken: dict[int, FloatArray] = {}

        def take(call: AttentionCall) -> None:
            if (layer := layer_of.get(call.index)) is not None:
                n = ids.shape[1]
                taken[layer] = pooled(call.attention[0, :, :n, :n].float().numpy(), words)

        with listening(model, take, route=check.get("route", "interface")):
            forward(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, check.get("runner", ""))
        return np.concatenate([taken[layer] for layer in range(index.n_layers)]).transpose(1, 2, 0)

    return attention


def _initialised(checkpoint: Checkpoint, attentions: Iterable[str], seed: int) -> Any:
    """Return a model with the embeddings of a checkpoint, untrained elsewhere; attentions: names of their modules."""
    import torch
    from torch import nn

    kind = type(checkpoint.model)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = kind(copy.deepcopy(checkpoint.model.config)).float().eval()
    except Exception as error:  # of whatever kind the model's own code raises
        raise QKSpaceError(f"no {kind.__name__} can be made of its configuration alone ({error})") from error
    within = tuple(f"{name}." for name in attentions)
    trained = dict(checkpoint.model.named_modules())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Embedding) and not name.startswith(within):
                module.weight.copy_(trained[name].weight.float())
    return model


def spread_of(sentences: Sequence[Sentence]) -> NDArray[np.float32]:
    """Return the standard deviation of the attention between different words, over all pairs: (map). 1 where it is 0."""
    sums = np.zeros((3, sentences[0].attention.shape[-1]))
    for sentence in sentences:
        between = ~np.eye(sentence.n_words, dtype=bool)
        pairs = sentence.attention[N_ANCHORS:, N_ANCHORS:][between].astype(np.float64)
        sums += np.stack([np.full(pairs.shape[1], len(pairs)), pairs.sum(axis=0), (pairs**2).sum(axis=0)])
    n, total, square = sums
    spread = np.sqrt(np.maximum(square / n - (total / n) ** 2, 0))
    return np.where(spread > 1e-9, spread, 1).astype(np.float32)

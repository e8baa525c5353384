"""Loss: what a model is asked about some sequences of an index, and how far its answer is from the right one.

In: an index, its checkpoint and which sequences. Out: a `Task`, which feeds the model and judges what it returns, a number a
sequence. Knows no heads and no attention.

    causal    cross-entropy of every next token, by a model with a head that predicts it
    masked    cross-entropy of tokens in whose place the mask token stands
    output    how far the output of the model moves from that of the model as it is: the distribution over its classes where
              it tells pictures apart, else the mean of its last hidden states
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace.bootstrap import Float64Array
from qkspace.feed import Feed, TextFeed, Tokens
from qkspace.generation import refuse_two_way
from qkspace.index import Index
from qkspace.pairs import PairFeed, pieces_of
from qkspace.parts import is_pair
from qkspace.prediction import with_head
from qkspace.reading import pad_id
from qkspace.schema import BoolArray, IntArray, QKSpaceError, TextSequence

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from qkspace.model import Checkpoint

Measure = Literal["auto", "masked", "causal", "output"]
MEASURES = ("auto", "masked", "causal", "output")
MASKED = 0.15  # of the ordinary tokens, as BERT was trained (Devlin et al. 2019, section 3.1)
NOT_ASKED = -100  # in the place of a token that is not to be predicted
PIECE_BYTES = 64 << 20  # of logits that are turned into losses at a time
AUTO = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "image": "AutoModelForImageClassification"}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Some whole sequences of an index, numbered from 0 as they lie here.

    places: of each among the stored sequences; tokens: of all, end to end. Where a source stands before its target, or a
    decoder reads another text, it is the target that asks: `asks` says of each token whether it is one of those.
    """

    places: IntArray
    tokens: Tokens
    asks: BoolArray

    @property
    def is_ordinary(self) -> BoolArray:
        """Which tokens ask and are no special ones: (token)."""
        return self.asks & ~self.tokens.is_special

    def laid(self, values: NDArray[Any], sequences: IntArray, fill: float) -> NDArray[Any]:
        """Lay what is known of tokens out as a batch has them that ask: (sequence, token), filled up on the right."""
        starts, skipped = self.tokens.starts, self._skipped
        rows = [values[starts[s] + skipped[s] : starts[s + 1]] for s in sequences]
        laid = np.full((len(rows), max(map(len, rows))), fill, dtype=values.dtype)
        for place, row in zip(laid, rows, strict=True):
            place[: len(row)] = row
        return laid

    @property
    def _skipped(self) -> IntArray:
        lengths = self.tokens.n_source
        return np.zeros(len(self.places), dtype=np.int64) if lengths is None else lengths


Judge = Callable[
    [Any, IntArray], Float64Array
]  # output and which sequences, to (sequence, loss and what it is summed over)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A model, what it is fed of a sample, and how its output is judged.

    model: with the head that the measure needs; runner: name of the part of it that is run. reason: why it is the output
    that is measured, where that is no choice of the user.
    """

    model: PreTrainedModel
    runner: str
    sample: Sample
    feed: Feed
    measure: str
    unit: str
    judge: Judge
    reason: str = ""


def draw_sample(index: Index, max_tokens: int, seed: int) -> Sample:
    """Draw whole sequences of an index at random, each that still fits, until `max_tokens` are full.

    Raises:
        QKSpaceError: no sequence is short enough.
    """
    lengths = np.diff(index.row_starts)
    chosen, left = [], max_tokens
    for place in np.random.default_rng(seed).permutation(len(lengths)):
        if 1 < lengths[place] <= left:
            chosen.append(int(place))
            left -= int(lengths[place])
    if not chosen:
        raise QKSpaceError(
            f"max_tokens {max_tokens} is less than the shortest sequence of this index ({lengths.min()} tokens). Allow more."
        )
    places = np.sort(np.array(chosen))
    rows = np.concatenate([np.arange(index.row_starts[p], index.row_starts[p + 1]) for p in places])
    starts = np.concatenate([[0], np.cumsum(lengths[places])])
    n_source = None if index.layout.n_source is None else np.asarray(index.layout.n_source)[places]
    asks = np.ones(len(rows), dtype=bool)
    for s, n in enumerate([] if n_source is None else n_source):
        asks[starts[s] : starts[s] + n] = False
    ids = index.tokens["token_id"].to_numpy()[rows].astype(np.int64)
    is_special = index.tokens["is_special"].to_numpy()[rows]
    return Sample(places, Tokens(ids, is_special, starts, np.ones(len(places), dtype=bool), n_source), asks)


def task_of(
    index: Index,
    checkpoint: Checkpoint,
    sample: Sample,
    measure: Measure,
    *,
    seed: int,
    predict: str | None = None,
    trust_remote_code: bool = False,
) -> Task:
    """Return what a model is asked about a sample.

    "auto" takes "causal" for a model whose tokens see no later ones and for the decoder of a pair, "masked" for another model
    of text, and "output" where the checkpoint holds no head for either. `predict` ("COLUMN:VALUE") leaves only the tokens to be
    predicted that have this value in this column of `index.tokens`.

    Raises:
        QKSpaceError: an unknown measure or column, one that this model cannot be asked, or an index of sound.
    """
    if measure not in MEASURES:
        raise QKSpaceError(f"There is no measure {measure!r}. Choose one of {', '.join(MEASURES)}.")
    if (modality := index.manifest.get("modality", "text")) == "audio":
        raise QKSpaceError(
            f"{index.root} holds no sounds, only their outlines, so the model cannot be run on them again."
        )
    able = "image" if modality == "image" else _language(index, checkpoint)
    if measure not in ("auto", "output", able):
        what = f"can be asked for {able!r} or 'output'" if able in MEASURES else "can be asked for 'output'"
        raise QKSpaceError(
            f"{index.model_name} shows {_part(index)} attention of {modality}: it {what}, not {measure!r}."
        )
    runner = index.manifest["check"].get("runner", "")
    reason = "no head that predicts comes after this part of the model"
    if predict is not None and able == "image":
        able = ""
    if able and not runner and not (able != "image" and measure == "output"):
        try:
            model = _with_head(checkpoint, AUTO.get(able, ""), trust_remote_code=trust_remote_code)
            return _asked(index, checkpoint, model, sample, able, seed, predict)
        except QKSpaceError as error:
            if measure == able or predict is not None:
                raise
            reason = str(error)
    if predict is not None:
        raise QKSpaceError(f"{predict}: where the output of a model is measured no tokens are predicted. Leave it out.")
    feed = _feed(index, checkpoint, sample)
    judge = _Moved(sample, lambda output, sequences: _pooled(output, sample, sequences), _cosine)
    unit = "1 - cosine of the mean last hidden state"
    chosen = measure == "output" or able == "image"
    return Task(checkpoint.model, runner, sample, feed, "output", unit, judge, "" if chosen else reason)


def _with_head(checkpoint: Checkpoint, auto: str, *, trust_remote_code: bool) -> PreTrainedModel:
    try:
        return with_head(checkpoint, auto, trust_remote_code=trust_remote_code)
    except QKSpaceError as error:
        raise QKSpaceError(f"the checkpoint holds no head for {auto}: {error}") from error


def _part(index: Index) -> str:
    return str(index.manifest["check"].get("part", "self"))


def _language(index: Index, checkpoint: Checkpoint) -> str:
    """Return which kind of prediction of tokens a model could be asked for, "" for none."""
    if is_pair(checkpoint.model):
        return "causal" if _part(index) in ("decoder", "cross") else ""
    if index.manifest["check"].get("runner", ""):
        return ""
    return "causal" if _is_one_way(index, checkpoint) else "masked"


def _is_one_way(index: Index, checkpoint: Checkpoint) -> bool:
    """Tell whether tokens see no later ones; where what is added to the logits hides it, by trying."""
    if all(layer.causal for layer in index.layers):
        return True
    if any(not layer.causal and layer.position is None for layer in index.layers):
        return False
    try:
        refuse_two_way(checkpoint.model, int(index.tokens["token_id"].iloc[0]))
    except QKSpaceError:
        return False
    return True


def _asked(
    index: Index,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    sample: Sample,
    able: str,
    seed: int,
    predict: str | None,
) -> Task:
    """Return the task of a model with a head."""
    if able == "image":
        judge = _Moved(sample, lambda output, _: output.logits.float().log_softmax(dim=-1), _divergence)
        unit = "nats, Kullback-Leibler divergence of the classes"
        return Task(model, "", sample, _feed(index, checkpoint, sample), "output", unit, judge)
    targets = np.full(len(sample.tokens.token_ids), NOT_ASKED, dtype=np.int64)
    is_wanted = _wanted(index, sample, predict)
    if able == "causal":
        targets[:-1] = np.where(is_wanted, sample.tokens.token_ids, NOT_ASKED)[1:]
        targets[sample.tokens.starts[1:] - 1] = NOT_ASKED
        feed = _feed(index, checkpoint, sample)
    else:
        mask = checkpoint.tokenizer.mask_token_id
        if mask is None:
            raise QKSpaceError("the tokenizer of the checkpoint has no mask token")
        is_masked = is_wanted & sample.is_ordinary & (np.random.default_rng(seed).random(len(targets)) < MASKED)
        targets[is_masked] = sample.tokens.token_ids[is_masked]
        ids = np.where(is_masked, mask, sample.tokens.token_ids)
        feed = TextFeed(replace(sample.tokens, token_ids=ids), pad_id(checkpoint))
    if not (targets != NOT_ASKED).any():
        raise QKSpaceError("No token of the sample is to be predicted: allow more of them with max_tokens.")
    return Task(model, "", sample, feed, able, "nats per predicted token", _Predicted(sample, targets))


def _wanted(index: Index, sample: Sample, predict: str | None) -> BoolArray:
    """Return which tokens of a sample are to be predicted: (token)."""
    if predict is None:
        return np.ones(len(sample.tokens.token_ids), dtype=bool)
    column, _, value = predict.partition(":")
    if column not in index.tokens or not value:
        columns = ", ".join(index.tokens.columns)
        raise QKSpaceError(f"predict is COLUMN:VALUE, with a column of the tokens ({columns}); got {predict!r}.")
    starts = index.row_starts
    rows = np.concatenate([np.arange(starts[p], starts[p + 1]) for p in sample.places])
    return np.asarray(index.tokens[column].iloc[rows].astype(str) == value)


# ---------------------------------------------------------------------------------------------- what goes in


def _feed(index: Index, checkpoint: Checkpoint, sample: Sample) -> Feed:
    """Return where the inputs of the model come from: what the index holds of the sample."""
    if index.manifest.get("modality") == "image":
        return _stored_pictures(index, checkpoint, sample)
    pad = pad_id(checkpoint)
    if not is_pair(checkpoint.model) or _part(index) == "encoder":
        return TextFeed(sample.tokens, pad)
    tokens = sample.tokens
    if tokens.n_source is not None:
        starts = tokens.starts[:-1]
        sources = [tokens.token_ids[a : a + n] for a, n in zip(starts, tokens.n_source, strict=True)]
    else:
        texts = [TextSequence(text) for text in index.sequences["source_text"].to_numpy()[sample.places]]
        pieces, _ = pieces_of(texts, checkpoint.tokenizer, int(index.manifest["corpus"]["max_length"]))
        sources = [piece.ids for piece in pieces]
    ids, ends = np.concatenate(sources), np.cumsum([len(source) for source in sources])
    everywhere, each = np.zeros(len(ids), dtype=bool), np.ones(len(sources), dtype=bool)
    return PairFeed(Tokens(ids, everywhere, np.concatenate([[0], ends]), each), tokens, pad)


@dataclass(frozen=True, slots=True)
class _PictureFeed:
    """Pictures of a sample as the index holds them: PNG files."""

    encoded: Sequence[bytes]
    image_input: Any
    dtype: torch.dtype

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return pixel_values (sequence, colour, row, column)."""
        import torch
        from PIL import Image

        pictures = []
        for number in sequences:
            with Image.open(io.BytesIO(self.encoded[int(number)]), formats=["PNG"]) as image:
                pictures.append(np.array(image))
        return {"pixel_values": torch.from_numpy(self.image_input.pixel_values(pictures)).to(device, self.dtype)}


def _stored_pictures(index: Index, checkpoint: Checkpoint, sample: Sample) -> _PictureFeed:
    import pyarrow.parquet as pq

    from qkspace.image_input import load_image_input

    file = pq.ParquetFile(index.root / "images.parquet")
    wanted, found, first = set(sample.places.tolist()), {}, 0
    for number in range(file.num_row_groups):  # a few pictures each
        n = file.metadata.row_group(number).num_rows
        if here := wanted & set(range(first, first + n)):
            group = file.read_row_group(number, columns=["image"])["image"]
            found.update({place: group[place - first].as_py() for place in here})
        first += n
    remote = bool(index.manifest["made_from"].get("trust_remote_code"))
    image_input = load_image_input(checkpoint.name, revision=checkpoint.commit, trust_remote_code=remote)
    encoded = [found[place] for place in sample.places.tolist()]
    return _PictureFeed(encoded, image_input, checkpoint.model.dtype)


# ---------------------------------------------------------------------------------------------- what comes out


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted:
    """Judges logits by the cross-entropy of the tokens that are to be predicted; targets: (token), or NOT_ASKED."""

    sample: Sample
    targets: IntArray

    def __call__(self, output: Any, sequences: IntArray) -> Float64Array:
        """Return the sum of the losses of each sequence in nats, and how many they are."""
        import torch

        logits: Tensor = output.logits
        laid = self.sample.laid(self.targets, sequences, NOT_ASKED)
        if logits.dim() != 3 or logits.shape[1] != laid.shape[1]:
            raise QKSpaceError(
                f"The head predicts {tuple(logits.shape)}; expected one token for each of {laid.shape[1]}. Measure the output."
            )
        row, place = np.nonzero(laid != NOT_ASKED)
        losses = np.zeros(len(row))
        step = max(1, PIECE_BYTES // (4 * logits.shape[2]))
        for first in range(0, len(row), step):
            some = slice(first, first + step)
            at = [torch.from_numpy(each[some]).to(logits.device) for each in (row, place)]
            right = torch.from_numpy(laid[row[some], place[some]]).to(logits.device)
            picked = logits[at[0], at[1]].float()
            losses[some] = torch.nn.functional.cross_entropy(picked, right, reduction="none").double().cpu().numpy()
        n = len(sequences)
        return np.stack([np.bincount(row, losses, n), np.bincount(row, minlength=n).astype(np.float64)], axis=1)


class _Moved:
    """Judges an output by how far it moved from the first one that was seen of the same sequence."""

    def __init__(
        self, sample: Sample, read: Callable[[Any, IntArray], Tensor], apart: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """read: output and sequences to (sequence, d); apart: of two of these, how far, (sequence)."""
        self.read, self.apart = read, apart
        self.intact: list[Tensor | None] = [None] * len(sample.places)

    def __call__(self, output: Any, sequences: IntArray) -> Float64Array:
        """Return how far each sequence moved, and 1."""
        import torch

        found = self.read(output, sequences).double().cpu()
        for s, row in zip(sequences, found, strict=True):
            if self.intact[s] is None:
                self.intact[s] = row.clone()
        before = torch.stack([row for s in sequences if (row := self.intact[s]) is not None])
        moved = self.apart(before, found).masked_fill_((before == found).all(dim=1), 0)
        return np.stack([moved.numpy(), np.ones(len(sequences))], axis=1)


def _pooled(output: Any, sample: Sample, sequences: IntArray) -> Tensor:
    """Return the mean of the last hidden states of the ordinary tokens of each sequence: (sequence, d)."""
    import torch

    state = output if hasattr(output, "dim") else getattr(output, "last_hidden_state", None)
    state = output[0] if state is None else state
    if state.dim() == 4:  # a picture as (sequence, d, row, column)
        state = state.flatten(2).transpose(1, 2)
    is_ordinary = torch.from_numpy(sample.laid(sample.is_ordinary, sequences, False)).to(state.device)
    if state.shape[1] < is_ordinary.shape[1] and bool(is_ordinary.all()):  # patches that became fewer
        return state.double().mean(dim=1)  # type: ignore[no-any-return]
    kept = state[:, : is_ordinary.shape[1]].double() * is_ordinary[..., None]
    return kept.sum(dim=1) / is_ordinary.sum(dim=1, keepdim=True).clamp(min=1)  # type: ignore[no-any-return]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    import torch

    return 1 - torch.nn.functional.cosine_similarity(one, other, dim=1, eps=1e-30)


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of a distribution from another, in nats, of logarithms: (sequence)."""
    return (one.exp() * (one - other)).sum(dim=1)

"""Pairs: a source that an encoder reads, and a target that a decoder reads while it looks at the source.

In: a corpus of texts, and for each its target: a column of the corpus, what the model writes itself, or the same text. Out:
the reader of the parts "decoder" and "cross" of an encoder-decoder. Knows no attention.

The decoder is fed as it was trained: a start token, then the target without the token that ends it. With "cross" a sequence
holds the source's tokens and then the target's, side by side in one text of two lines; with "decoder" the target's alone.
In the work folder: `source_ids`, the tokens of all sources laid end to end, and `n_source.npy`, how many of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace.align import words_of
from qkspace.feed import Tokens, padded
from qkspace.reading import max_length, pad_id, text_sequences
from qkspace.schema import BoolArray, IntArray, QKSpaceError, Scalar, TextSequence
from qkspace.spans import find_words
from qkspace.store import write_array
from qkspace.tables import typed_column
from qkspace.tokenise import (
    TokeniseCounts,
    TokenisedChunk,
    Windows,
    batches,
    check_options,
    chunk_of,
    encode,
    special_ids,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qkspace.console import Console
    from qkspace.generation import Writer
    from qkspace.model import Checkpoint
    from qkspace.plan import Parameters

BATCH = 256  # texts that are read, and written on by the model, together
OWN_COLUMNS = ("side", "n_source", "source_text")  # which metadata may not be called
SIDES = ("source", "target")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of one text: ids, is_special, and start and end in the characters of the text, (token) each."""

    ids: IntArray
    is_special: BoolArray
    start: IntArray
    end: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_content(self) -> bool:
        """Whether any token is none of the special ones."""
        return bool((~self.is_special).any())

    def taken(self, tokens: slice) -> Piece:
        """Return some of the tokens."""
        return Piece(self.ids[tokens], self.is_special[tokens], self.start[tokens], self.end[tokens])

    def moved(self, characters: int) -> Piece:
        """Return the same tokens in a text that has so many characters more in front."""
        return replace(self, start=self.start + characters, end=self.end + characters)

    @classmethod
    def special(cls, token_id: int) -> Piece:
        """Return one special token."""
        zero = np.zeros(1, dtype=np.int32)
        return cls(np.array([token_id], dtype=np.int32), np.ones(1, dtype=bool), zero, zero)

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """Return pieces of one text laid end to end."""
        arrays = [(p.ids, p.is_special, p.start, p.end) for p in pieces]
        return cls(*(np.concatenate(column) for column in zip(*arrays, strict=True)))


def pieces_of(texts: Sequence[TextSequence], tokenizer: Any, max_length: int) -> tuple[list[Piece], IntArray]:
    """Tokenise texts, each cut to at most max_length tokens; return what is left, and how many each lost: (text)."""
    windows = encode(texts, tokenizer, max_length, special_ids(tokenizer))
    starts = np.concatenate([[0], np.cumsum(windows.lengths)])
    whole = Piece(windows.ids, windows.is_special, windows.start, windows.end)
    first = np.flatnonzero(windows.part == 0)
    pieces = [whole.taken(slice(int(starts[w]), int(starts[w + 1]))) for w in first]
    is_lost = np.repeat(windows.part > 0, windows.lengths) & ~windows.is_special
    of_text = np.repeat(windows.sample, windows.lengths)
    return pieces, np.bincount(of_text[is_lost], minlength=len(texts))


def windows_of(pieces: Sequence[Piece]) -> Windows:
    """Return the pieces of one text after another as `tokenise` has them: each is one window."""
    whole = Piece.joined(pieces)
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int32)
    sample = np.arange(len(pieces), dtype=np.int32)
    spans = (whole.start.astype(np.int32), whole.end.astype(np.int32))
    return Windows(whole.ids.astype(np.int32), whole.is_special, *spans, lengths, sample, np.zeros_like(sample))


def continued(first: TextSequence, second: TextSequence, gap: str = "") -> TextSequence:
    """Return a text with another one behind it; words of either that are not known are found by rule."""
    whole = first.text + gap + second.text
    if first.word_spans is None and second.word_spans is None:
        return replace(first, text=whole)
    spans = [find_words(t.text) if t.word_spans is None else t.word_spans for t in (first, second)]
    moved = len(first.text) + len(gap)
    metadata = {}
    for name in dict.fromkeys((*first.word_metadata, *second.word_metadata)):
        values = [t.word_metadata.get(name, (None,) * len(s)) for t, s in zip((first, second), spans, strict=True)]
        metadata[name] = (*values[0], *values[1])
    joined = (*spans[0], *((start + moved, end + moved) for start, end in spans[1]))
    return replace(first, text=whole, word_spans=joined, word_metadata=metadata)


def without_clashes(text: TextSequence, own: Sequence[str], renamed: dict[str, str]) -> TextSequence:
    """Return a text none of whose metadata is called as one of our own columns; what is renamed is added to `renamed`."""
    clash = {name: f"corpus_{name}" for name in (*text.metadata, *text.word_metadata) if name in own}
    if not clash:
        return text
    if twice := [new for new in clash.values() if new in text.metadata or new in text.word_metadata]:
        raise QKSpaceError(f"{text.source}: two columns of metadata would be stored as {twice[0]!r}: rename one.")
    renamed.update(clash)
    metadata: Mapping[str, Scalar] = {clash.get(name, name): value for name, value in text.metadata.items()}
    of_words = {clash.get(name, name): values for name, values in text.word_metadata.items()}
    return replace(text, metadata=metadata, word_metadata=of_words)


def with_columns(chunk: TokenisedChunk, tokens: Mapping[str, Any], sequences: Mapping[str, Any]) -> TokenisedChunk:
    """Return a chunk whose tables have some columns more."""
    tables = []
    for table, columns in ((chunk.tokens, tokens), (chunk.sequences, sequences)):
        for name, column in columns.items():
            table = table.append_column(name, column)
        tables.append(table)
    return replace(chunk, tokens=tables[0], sequences=tables[1])


# ---------------------------------------------------------------------------------------------- the reader


@dataclass(frozen=True, slots=True)
class _Pair:
    """A source and a target as texts and tokens; the token that the decoder starts with is in front of the target's."""

    text: TextSequence
    source: Piece
    target_text: TextSequence
    target: Piece


class PairReader:
    """Pairs of texts, as the tokenizer of the checkpoint cuts them, for the decoder of an encoder-decoder."""

    modality = "text"

    def __init__(
        self, checkpoint: Checkpoint, part: str, sources: tuple[str, ...], parameters: Parameters, console: Console
    ) -> None:
        """Find out what the decoder is to read."""
        if parameters.target_column is not None and parameters.generate is not None:
            raise QKSpaceError(
                "--target-column gives what the decoder reads, and --generate lets the model write it: leave out either."
            )
        self.checkpoint, self.part, self.sources = checkpoint, part, sources
        self.parameters, self.console = parameters, console

    @property
    def max_length(self) -> int:
        """Tokens of a source, and of a target."""
        return max_length(self.checkpoint, self.parameters)

    @property
    def target(self) -> str:
        """What the decoder reads, in words."""
        if self.parameters.generate is not None:
            return f"what the model itself writes, up to {self.parameters.generate} tokens"
        column = self.parameters.target_column
        return "the same text as the encoder" if column is None else f"the column {column!r}"

    def facts(self) -> dict[str, Any]:
        """Return the longest source and target allowed, and what the decoder reads."""
        return {"max_length": self.max_length, "target": self.target}

    def feed(self, folder: Path, tokens: Tokens) -> PairFeed:
        """Feed the ids of sources and targets."""
        lengths = np.load(folder / "n_source.npy")
        ids = np.memmap(folder / "source_ids", dtype="<i4", mode="r")
        starts = np.concatenate([[0], np.cumsum(lengths)])
        everywhere = np.zeros(len(ids), dtype=bool)
        source = Tokens(ids, everywhere, starts, np.ones(len(lengths), dtype=bool))
        return PairFeed(source, tokens, pad_id(self.checkpoint))

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Say what the decoder reads."""
        return {"pair": {"part": self.part, "target": self.target}}

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Tokenise the corpus, and keep the ids of the sources beside what is yielded."""
        check_options(self.checkpoint.tokenizer, self.max_length, "cut", BATCH)
        self._say_target()
        writer = self._writer(folder)
        lengths: list[int] = []
        word_columns: set[str] = set()
        with (folder / "source_ids").open("wb") as file:
            texts = text_sequences(self.sources, self.parameters, self.console)
            for number, batch in enumerate(batches(texts, BATCH)):
                pairs = self._pairs(batch, number, writer, counts)
                if not pairs:
                    continue
                for pair in pairs:
                    file.write(pair.source.ids.astype("<i4").tobytes())
                word_columns.update(*(pair.text.word_metadata for pair in pairs))
                yield self._chunk(pairs, len(lengths), word_columns, counts)
                lengths += [len(pair.source) for pair in pairs]
            file.flush()
            os.fsync(file.fileno())
        write_array(folder / "n_source.npy", np.array(lengths, dtype=np.int64))

    def _say_target(self) -> None:
        p = self.parameters
        more = "" if p.target_column or p.generate else " (another: --target-column; its own output: --generate)"
        self.console.say(f"The decoder reads {self.target}{more}.")

    def _writer(self, folder: Path) -> Writer | None:
        if self.parameters.generate is None:
            return None
        from qkspace.generation import Writer

        return Writer(self.checkpoint, self.parameters, self.console, folder)

    def _pairs(
        self, batch: list[TextSequence], number: int, writer: Writer | None, counts: TokeniseCounts
    ) -> list[_Pair]:
        """Return the pairs of some texts, without those that have nothing on one side."""
        tokenizer = self.checkpoint.tokenizer
        texts = [without_clashes(text, OWN_COLUMNS, counts.renamed) for text in batch]
        if self.parameters.target_column is not None:
            texts, targets = self._of_column(texts, self.parameters.target_column)
        else:
            targets = texts
        sources, n_lost = pieces_of(texts, tokenizer, self.max_length)
        if writer is not None:
            asked = [i for i, source in enumerate(sources) if source.has_content]
            written = dict(zip(asked, writer.write(number, [sources[i].ids for i in asked]), strict=True))
            targets = [TextSequence(written[i].text if i in written else "") for i in range(len(texts))]
            nothing = Piece.special(0)
            pieces = [written[i].piece if i in written else nothing for i in range(len(texts))]
        else:
            with _as_target(tokenizer):
                whole, lost = pieces_of(targets, tokenizer, self.max_length)
            shifted = [self._shifted(piece) for piece in whole]
            pieces = [piece.taken(slice(0, self.max_length)) for piece in shifted]
            n_over = np.array([len(one) - len(other) for one, other in zip(shifted, pieces, strict=True)])
            n_lost = n_lost + lost + n_over
        found = [_Pair(*each) for each in zip(texts, sources, targets, pieces, strict=True)]
        kept = np.array([pair.source.has_content and pair.target.has_content for pair in found])
        counts.n_sequences += len(found)
        counts.n_empty += int((~kept).sum())
        counts.n_cut += int((kept & (n_lost > 0)).sum())
        counts.n_tokens_dropped += int(n_lost[kept].sum())
        return [pair for pair, is_kept in zip(found, kept, strict=True) if is_kept]

    def _of_column(self, texts: list[TextSequence], column: str) -> tuple[list[TextSequence], list[TextSequence]]:
        """Return texts without the column of their targets, and the targets."""
        sources, targets = [], []
        for text in texts:
            if column not in text.metadata:
                has = ", ".join(map(repr, text.metadata)) or "none"
                raise QKSpaceError(
                    f"{text.source}: no column {column!r} for --target-column. Columns beside the text: {has}."
                )
            rest = {name: value for name, value in text.metadata.items() if name != column}
            target = text.metadata[column]
            sources.append(replace(text, metadata=rest))
            targets.append(TextSequence("" if target is None else str(target), source=text.source))
        return sources, targets

    def _shifted(self, target: Piece) -> Piece:
        """Return a target as the decoder reads it when it is trained: a start token, then all but the token that ends it.

        Where the model names no start token it is the one that ends the target, as in mBART.
        """
        start = start_token(self.checkpoint)
        ends = bool(target.is_special[-1]) if len(target) else False
        if start is None and not ends:
            raise QKSpaceError(
                f"{type(self.checkpoint.model).__name__}: its configuration names no decoder_start_token_id, and its tokenizer "
                "ends no text, so it cannot be known what its decoder begins with. Set the former in config.json."
            )
        first = Piece.special(int(target.ids[-1]) if start is None else start)
        return Piece.joined([first, target.taken(slice(0, len(target) - ends))])

    def _chunk(self, pairs: list[_Pair], first: int, word_columns: set[str], counts: TokeniseCounts) -> TokenisedChunk:
        """Return the tables of some pairs, which are numbered from `first`."""
        import pyarrow as pa

        n_source = np.array([len(pair.source) for pair in pairs], dtype=np.int32)
        if self.part == "cross":
            texts = [continued(pair.text, pair.target_text, gap="\n") for pair in pairs]
            pieces = [Piece.joined([p.source, p.target.moved(len(p.text.text) + 1)]) for p in pairs]
            side = np.concatenate([np.arange(len(p)) >= n for p, n in zip(pieces, n_source, strict=True)])
            of_tokens = {"side": pa.DictionaryArray.from_arrays(side.astype(np.int8), pa.array(SIDES))}
            of_sequences = {"n_source": pa.array(n_source)}
        else:
            texts = [replace(pair.target_text, metadata=pair.text.metadata, source=pair.text.source) for pair in pairs]
            pieces = [pair.target for pair in pairs]
            of_tokens, of_sequences = {}, {"source_text": typed_column([pair.text.text for pair in pairs])}
        windows = windows_of(pieces)
        counts.n_tokens += len(windows.ids)
        tokenizer = self.checkpoint.tokenizer
        chunk = chunk_of(texts, words_of(texts), windows, first, tokenizer, word_columns, counts.renamed)
        return with_columns(chunk, of_tokens, of_sequences)


def start_token(checkpoint: Checkpoint) -> int | None:
    """Return the token that a decoder is given first; None where its configuration names none."""
    model = checkpoint.model
    for config in (model.config, getattr(model, "generation_config", None)):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    return None


@contextmanager
def _as_target(tokenizer: Any) -> Iterator[None]:
    """Have a tokenizer of two languages cut texts as those of the target."""
    switch, back = (getattr(tokenizer, f"_switch_to_{mode}_mode", None) for mode in ("target", "input"))
    if switch is not None:
        switch()
    try:
        yield
    finally:
        if back is not None:
            back()


@dataclass(frozen=True, slots=True)
class PairFeed:
    """Token ids of sources and targets; pad_id: any token id, what stands there is masked and never stored."""

    source: Tokens
    target: Tokens
    pad_id: int

    def batch(self, sequences: IntArray, device: torch.device) -> dict[str, Tensor]:
        """Return input_ids, decoder_input_ids and the masks of both, (sequence, token)."""
        ids, mask = padded(self.source, sequences, self.pad_id, device)
        targets, target_mask = padded(self._only_targets(sequences), np.arange(len(sequences)), self.pad_id, device)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": targets,
            "decoder_attention_mask": target_mask,
        }

    def _only_targets(self, sequences: IntArray) -> Tokens:
        """Return some targets alone, in front of which the corpus may have their sources."""
        tokens = self.target
        skipped = np.zeros_like(tokens.starts[:-1]) if tokens.n_source is None else tokens.n_source
        rows = [tokens.token_ids[tokens.starts[s] + skipped[s] : tokens.starts[s + 1]] for s in sequences]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        ids = np.concatenate(rows)
        return Tokens(ids, np.zeros(len(ids), dtype=bool), starts, np.ones(len(rows), dtype=bool))

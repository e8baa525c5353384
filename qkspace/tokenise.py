"""Turn sequences of text into token ids, and into tables that say what each token is.

In: `TextSequence` and a fast tokenizer. Out: chunks of whole windows, with an Arrow table of tokens (surface text,
word, metadata) and one of windows. Knows no disk and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from qkspace.align import KINDS, Words, kind_of_tokens, shown_sequence, surface_of_tokens, word_of_tokens, words_of
from qkspace.schema import BoolArray, IntArray, QKSpaceError, TextSequence
from qkspace.tables import metadata_columns, typed_column

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_CHUNK_CHARACTERS = 2**21  # a chunk of long documents ends here, which bounds the memory


@dataclass(slots=True)
class TokeniseCounts:
    """What became of the sequences that were read; `tokenise` adds to it as it goes.

    `n_empty` sequences have no token but special ones, and are left out. `n_tokens` counts all tokens of the tables,
    `n_tokens_dropped` the tokens that `long="cut"` left out (special tokens not counted). `renamed` says under which
    name a column of metadata is stored, where that is not its own.
    """

    n_sequences: int = 0
    n_empty: int = 0
    n_split: int = 0
    n_cut: int = 0
    n_tokens: int = 0
    n_tokens_dropped: int = 0
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenisedChunk:
    """Some whole windows laid end to end.

    tokens: one row a token, `tables.TOKEN_COLUMNS` and metadata; sequences: one row a window,
    `tables.SEQUENCE_COLUMNS` and metadata.
    token_ids, is_special: (token); lengths: (window), tokens in each.
    """

    tokens: pa.Table
    sequences: pa.Table
    token_ids: IntArray
    is_special: BoolArray
    lengths: IntArray


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a batch as the tokenizer made them, laid end to end.

    ids, is_special, start, end: (token), start and end in the text of the sequence; lengths, sample, part: (window),
    the sequence in the batch that a window is of, and which of its windows it is.
    """

    ids: IntArray
    is_special: BoolArray
    start: IntArray
    end: IntArray
    lengths: IntArray
    sample: IntArray
    part: IntArray

    def keep(self, windows: BoolArray) -> Windows:
        """Return some of the windows."""
        tokens = np.repeat(windows, self.lengths)
        return Windows(
            *(self.ids[tokens], self.is_special[tokens], self.start[tokens], self.end[tokens]),
            *(self.lengths[windows], self.sample[windows], self.part[windows]),
        )


def tokenise(
    sequences: Iterable[TextSequence],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    long: Literal["split", "cut"] = "split",
    chunk_size: int = 1024,
    counts: TokeniseCounts,
) -> Iterator[TokenisedChunk]:
    """Yield the tokens of sequences in chunks of at most `chunk_size` sequences.

    A token belongs to the word that has its first character that is not white space (where words share their
    characters, to the first of them). Special tokens are those that the tokenizer adds, and those of its special
    tokens that stand in the text, except the unknown and the mask token. `start` and `end` are without the white space
    around the token, so that `text` is what stands there; for a token of nothing but white space `text` is the string
    of the vocabulary. `kind` is number or punctuation by the characters of the token wherever it stands, subword where
    it does not begin its word, and other for white space and control characters.

    Columns of metadata named as one of `tables.RESERVED` are stored as `corpus_<name>`, and one of the sequences that
    is named as one of the words as `sequence_<name>`. Values are int64, float64 (also ints among floats), bool or
    string; other mixtures within a chunk are strings. Strings are dictionary-encoded.

    Args:
        sequences: The corpus; it is read as chunks are asked for.
        tokenizer: A fast tokenizer (one that knows the characters of each token).
        max_length: Tokens in a window at most, special ones included.
        long: What to do with a longer sequence: "split" into windows one after another, each with its special tokens,
            or "cut" after the first. Words, start and end always refer to the whole sequence.
        chunk_size: Sequences in a chunk at most; fewer where they are long.
        counts: What became of the sequences is added here.

    Raises:
        QKSpaceError: The tokenizer does not know the characters of its tokens, there is no room in a window, a text
            cannot be tokenised or the words of a sequence do not fit its text; the message names the sequence.
    """
    check_options(tokenizer, max_length, long, chunk_size)
    return _chunks(sequences, tokenizer, max_length, long, chunk_size, counts)


def check_options(tokenizer: PreTrainedTokenizerBase, max_length: int, long: str, chunk_size: int) -> None:
    """Raise where `tokenise` cannot do with a tokenizer what is asked of it."""
    kind = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise QKSpaceError(
            f"{kind} is a tokenizer in Python, which does not know the characters of each token, so that tokens cannot "
            f"be aligned with words. Expected a fast one: give a checkpoint with a tokenizer.json."
        )
    if long not in ("split", "cut"):
        raise QKSpaceError(f"Unknown treatment of long sequences {long!r}: expected split or cut.")
    if chunk_size < 1:
        raise QKSpaceError(f"Expected a chunk of at least 1 sequence, got {chunk_size}.")
    added = tokenizer.num_special_tokens_to_add(pair=False)
    if max_length <= added:
        raise QKSpaceError(
            f"A window of {max_length} tokens has no room for text: {kind} adds {added} special tokens to each. "
            f"Expected a maximal length of at least {added + 1}."
        )


def _chunks(
    sequences: Iterable[TextSequence],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    long: str,
    chunk_size: int,
    counts: TokeniseCounts,
) -> Iterator[TokenisedChunk]:
    special = special_ids(tokenizer)
    word_columns: set[str] = set()  # of all chunks so far: they decide the names of the columns
    first = 0
    for batch in batches(sequences, chunk_size):
        words = words_of(batch)
        windows = _choose(encode(batch, tokenizer, max_length, special), len(batch), long, counts)
        if len(windows.lengths):
            word_columns.update(*(sequence.word_metadata for sequence in batch))
            yield chunk_of(batch, words, windows, first, tokenizer, word_columns, counts.renamed)
        first += len(windows.lengths)


def batches(sequences: Iterable[TextSequence], size: int) -> Iterator[list[TextSequence]]:
    """Yield the sequences in lists that end at `size` sequences, or early where they are long."""
    batch: list[TextSequence] = []
    characters = 0
    for sequence in sequences:
        batch.append(sequence)
        characters += len(sequence.text)
        if len(batch) == size or characters >= _CHUNK_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


# ---------------------------------------------------------------------------------------------- the tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that are special wherever they stand: a word unknown or masked is still content."""
    content = {tokenizer.unk_token_id, tokenizer.mask_token_id}
    content -= {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
    return [token_id for token_id in tokenizer.all_special_ids if token_id not in content]


def encode(
    batch: Sequence[TextSequence], tokenizer: PreTrainedTokenizerBase, max_length: int, special_ids: Sequence[int]
) -> Windows:
    """Tokenise a batch into windows of at most `max_length` tokens."""
    encoded = _call(batch, tokenizer, max_length)
    ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int32)
    added = np.fromiter(chain.from_iterable(encoded["special_tokens_mask"]), dtype=bool)
    spans = np.fromiter(chain.from_iterable(chain.from_iterable(encoded["offset_mapping"])), dtype=np.int32)
    sample = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int32)
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int32)
    part = np.arange(len(sample), dtype=np.int32) - np.searchsorted(sample, sample).astype(np.int32)
    special = added | np.isin(ids, special_ids)
    return Windows(ids, special, spans[0::2].copy(), spans[1::2].copy(), lengths, sample, part)


def _call(batch: Sequence[TextSequence], tokenizer: PreTrainedTokenizerBase, max_length: int) -> BatchEncoding:
    """Call the tokenizer; what it cannot tokenise is named."""
    side = tokenizer.truncation_side
    try:
        tokenizer.truncation_side = "right"  # "left" would cut windows from the end, and give the last one first
        encoded: BatchEncoding = tokenizer(
            [sequence.text for sequence in batch],
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return encoded
    except Exception as error:  # tokenizers raises bare ones, and names no text
        if len(batch) == 1:
            raise QKSpaceError(
                f"{shown_sequence(batch[0])}: the tokenizer ({type(tokenizer).__name__}) cannot tokenise this text "
                f"({error}): {batch[0].text[:60]!r}. Remove or repair it, or use a checkpoint whose vocabulary covers it."
            ) from error
        for sequence in batch:
            _call([sequence], tokenizer, max_length)
        raise
    finally:
        tokenizer.truncation_side = side


def _choose(windows: Windows, n_samples: int, long: str, counts: TokeniseCounts) -> Windows:
    """Return the windows to keep: not those of empty sequences, nor what is cut."""
    window = np.repeat(np.arange(len(windows.lengths)), windows.lengths)
    content = np.bincount(window[~windows.is_special], minlength=len(windows.lengths))
    n_content = np.bincount(windows.sample, weights=content, minlength=n_samples)
    kept = n_content[windows.sample] > 0
    n_long = int((kept & (windows.part == 1)).sum())
    counts.n_sequences += n_samples
    counts.n_empty += int((n_content == 0).sum())
    if long == "cut":
        dropped = kept & (windows.part > 0)
        counts.n_cut += n_long
        counts.n_tokens_dropped += int(content[dropped].sum())
        kept &= ~dropped
    else:
        counts.n_split += n_long
    counts.n_tokens += int(windows.lengths[kept].sum())
    return windows.keep(kept)


# ---------------------------------------------------------------------------------------------- the tables


def chunk_of(
    batch: Sequence[TextSequence],
    words: Words,
    windows: Windows,
    first: int,
    tokenizer: PreTrainedTokenizerBase,
    word_columns: set[str],
    renamed: dict[str, str],
) -> TokenisedChunk:
    """Return the tables of the windows, which are numbered from `first`."""
    import pyarrow as pa

    number = np.arange(first, first + len(windows.lengths), dtype=np.int32)
    window = np.repeat(np.arange(len(number)), windows.lengths)
    sample = windows.sample[window]
    position = np.arange(len(window)) - (np.cumsum(windows.lengths) - windows.lengths)[window]
    vocabulary = _vocabulary_strings(windows.ids, tokenizer)
    texts = [s.text for s in batch]
    surface = surface_of_tokens(texts, windows.start, windows.end, windows.is_special, sample, vocabulary)
    word = word_of_tokens(words, surface, sample)
    of_word = pa.array(word, mask=word < 0)
    kind = pa.array(kind_of_tokens(surface, windows.is_special, word))
    tokens = {
        "sequence": number[window],
        "position": position.astype(np.int32),
        "token": typed_column(vocabulary),
        "token_id": windows.ids,
        "text": typed_column(surface.text),
        "is_special": windows.is_special,
        "word": np.where(word < 0, -1, word - words.first_word[sample]).astype(np.int32),
        "word_text": typed_column(words.text).take(of_word),
        "start": surface.start,
        "end": surface.end,
        "kind": pa.DictionaryArray.from_arrays(kind, pa.array(KINDS)),
    }
    of_windows = {
        "sequence": number,
        "text": typed_column(texts).take(windows.sample),
        "n_tokens": windows.lengths,
        "window": windows.part,
        "source": typed_column([s.source for s in batch]).take(windows.sample),
    }
    of_words, of_sequences = metadata_columns(batch, np.diff(words.first_word).tolist(), word_columns, renamed)
    tokens |= {name: column.take(of_word) for name, column in of_words.items()}
    tokens |= {name: column.take(sample) for name, column in of_sequences.items()}
    of_windows |= {name: column.take(windows.sample) for name, column in of_sequences.items()}
    return TokenisedChunk(pa.table(tokens), pa.table(of_windows), windows.ids, windows.is_special, windows.lengths)


def _vocabulary_strings(ids: IntArray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the string of each id in the vocabulary."""
    unique, where = np.unique(ids, return_inverse=True)
    strings = tokenizer.convert_ids_to_tokens(unique.tolist())
    return [strings[place] for place in where.tolist()]

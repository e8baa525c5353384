"""Turn sequences of text into token ids, and into tables that say what each token is.

In: `TextSequence` and a fast tokenizer. Out: chunks of whole windows, with an Arrow table of tokens (surface text,
word, metadata) and one of windows. Knows no disk and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import regex

from qkspace.schema import BoolArray, IntArray, QKSpaceError, Scalar, TextSequence

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import BatchEncoding, PreTrainedTokenizerBase

KINDS = ("special", "word", "subword", "number", "punctuation", "other")
TOKEN_COLUMNS = (
    *("sequence", "position", "token", "token_id", "text", "is_special"),
    *("word", "word_text", "start", "end", "kind"),
)
SEQUENCE_COLUMNS = ("sequence", "text", "n_tokens", "window", "source")
RESERVED = frozenset(TOKEN_COLUMNS + SEQUENCE_COLUMNS)
_CHUNK_CHARACTERS = 2**21  # a chunk of long documents ends here, which bounds the memory

_UNSPACED = r"[[\p{L}\p{Nl}]&&[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]]"
_RUN = rf"[[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]+"
_INNER = r"['\u2019\-\u2010\u2011\u00AD\u200C\u200D]"  # apostrophes, hyphens, joiners of Persian and Indic words
_BLANK = r"[\s\x1C-\x1F]"  # what str.strip() takes away
# \X is a grapheme cluster; \p{GCB=Prepend} stands before it because such a character takes what follows into its own.
_WORDS = regex.compile(rf"(?V1)(?={_UNSPACED})\X|{_RUN}(?:{_INNER}{_RUN})*|\p{{GCB=Prepend}}|(?!{_BLANK})\X")
_NUMBER = regex.compile(r"\d+([.,]\d+)*")
_PUNCTUATION = regex.compile(r"[\p{P}\p{S}][\p{P}\p{S}\p{M}\p{Cf}]*")
_LETTER = regex.compile(r"[\p{L}\p{N}\p{M}]")

Span = tuple[int, int]


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

    tokens: one row a token, `TOKEN_COLUMNS` and metadata; sequences: one row a window, `SEQUENCE_COLUMNS` and metadata.
    token_ids, is_special: (token); lengths: (window), tokens in each.
    """

    tokens: pa.Table
    sequences: pa.Table
    token_ids: IntArray
    is_special: BoolArray
    lengths: IntArray


@dataclass(frozen=True, slots=True)
class _Windows:
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

    def keep(self, windows: BoolArray) -> _Windows:
        """Return some of the windows."""
        tokens = np.repeat(windows, self.lengths)
        return _Windows(
            *(self.ids[tokens], self.is_special[tokens], self.start[tokens], self.end[tokens]),
            *(self.lengths[windows], self.sample[windows], self.part[windows]),
        )


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of a batch, laid end to end.

    start, end: (word), characters in the texts of the batch with one character between two texts; text: (word);
    first_word, first_character: (sequence + 1).
    """

    start: IntArray
    end: IntArray
    text: list[str]
    first_word: IntArray
    first_character: IntArray


def find_words(text: str) -> tuple[Span, ...]:
    """Return the [start, end) of each word of a text, by rule.

    A word is a run of letters, digits and marks, with single apostrophes, hyphens and zero-width joiners inside; or one
    letter of a script that is written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Burmese) with its
    marks; or any other character that is not white space, with what belongs to it (an emoji with its joiners). All
    characters but white space are in exactly one word, and no word holds white space.
    """
    return tuple(found.span() for found in _WORDS.finditer(text))


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

    Columns of metadata named as one of `RESERVED` are stored as `corpus_<name>`, and one of the sequences that is named
    as one of the words as `sequence_<name>`. Values are int64, float64 (also ints among floats), bool or string; other
    mixtures within a chunk are strings. Strings are dictionary-encoded.

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
    _check_options(tokenizer, max_length, long, chunk_size)
    return _chunks(sequences, tokenizer, max_length, long, chunk_size, counts)


def _check_options(tokenizer: PreTrainedTokenizerBase, max_length: int, long: str, chunk_size: int) -> None:
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
    special_ids = _special_ids(tokenizer)
    word_columns: set[str] = set()  # of all chunks so far: they decide the names of the columns
    first = 0
    for batch in _batches(sequences, chunk_size):
        words = _words_of(batch)
        windows = _choose(_encode(batch, tokenizer, max_length, special_ids), len(batch), long, counts)
        if len(windows.lengths):
            word_columns.update(*(sequence.word_metadata for sequence in batch))
            yield _chunk(batch, words, windows, first, tokenizer, word_columns, counts.renamed)
        first += len(windows.lengths)


def _batches(sequences: Iterable[TextSequence], size: int) -> Iterator[list[TextSequence]]:
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


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that are special wherever they stand: a word unknown or masked is still content."""
    content = {tokenizer.unk_token_id, tokenizer.mask_token_id}
    content -= {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
    return [token_id for token_id in tokenizer.all_special_ids if token_id not in content]


def _encode(
    batch: Sequence[TextSequence], tokenizer: PreTrainedTokenizerBase, max_length: int, special_ids: Sequence[int]
) -> _Windows:
    """Tokenise a batch into windows of at most `max_length` tokens."""
    encoded = _call(batch, tokenizer, max_length)
    ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int32)
    added = np.fromiter(chain.from_iterable(encoded["special_tokens_mask"]), dtype=bool)
    spans = np.fromiter(chain.from_iterable(chain.from_iterable(encoded["offset_mapping"])), dtype=np.int32)
    sample = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int32)
    lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int32)
    part = np.arange(len(sample), dtype=np.int32) - np.searchsorted(sample, sample).astype(np.int32)
    special = added | np.isin(ids, special_ids)
    return _Windows(ids, special, spans[0::2].copy(), spans[1::2].copy(), lengths, sample, part)


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
                f"{_named(batch[0])}: the tokenizer ({type(tokenizer).__name__}) cannot tokenise this text ({error}): "
                f"{batch[0].text[:60]!r}. Remove or repair it, or use a checkpoint whose vocabulary covers it."
            ) from error
        for sequence in batch:
            _call([sequence], tokenizer, max_length)
        raise
    finally:
        tokenizer.truncation_side = side


def _choose(windows: _Windows, n_samples: int, long: str, counts: TokeniseCounts) -> _Windows:
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


# ---------------------------------------------------------------------------------------------- words


def _named(sequence: TextSequence) -> str:
    return sequence.source or f"The sequence {sequence.text[:40]!r}"


def _words_of(batch: Sequence[TextSequence]) -> _Words:
    """Return the words of a batch, having checked that they fit the texts and their metadata."""
    spans = [find_words(s.text) if s.word_spans is None else s.word_spans for s in batch]
    for sequence, found in zip(batch, spans, strict=True):
        if sequence.word_spans is not None:
            _check_spans(sequence, found)
        for name, values in sequence.word_metadata.items():
            if len(values) != len(found):
                raise QKSpaceError(
                    f"{_named(sequence)}: column {name!r} has {len(values)} values for {len(found)} words; "
                    f"expected one a word."
                )
    first_character = np.fromiter(accumulate((len(s.text) + 1 for s in batch), initial=0), dtype=np.int64)
    first_word = np.fromiter(accumulate(map(len, spans), initial=0), dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), dtype=np.int64)
    base = np.repeat(first_character[:-1], np.diff(first_word))
    text = [s.text[start:end] for s, found in zip(batch, spans, strict=True) for start, end in found]
    return _Words(flat[0::2] + base, flat[1::2] + base, text, first_word, first_character)


def _check_spans(sequence: TextSequence, spans: tuple[Span, ...]) -> None:
    last_start, last_end = 0, 0
    for number, (start, end) in enumerate(spans):
        if not (last_start <= start <= end <= len(sequence.text) and last_end <= end):
            raise QKSpaceError(
                f"{_named(sequence)}: word {number} is at [{start}, {end}); expected words in order within the "
                f"{len(sequence.text)} characters of the text."
            )
        last_start, last_end = start, end


def _word_of_tokens(words: _Words, start: IntArray, end: IntArray, sample: IntArray, blank: BoolArray) -> IntArray:
    """Return the first word that each token shares characters with, among all words of the batch; -1 for none."""
    if not len(words.start):
        return np.full(len(start), -1, dtype=np.int64)
    base = words.first_character[sample]
    found = np.searchsorted(words.end, start + base, side="right")
    inside = (found < len(words.end)) & ~blank
    inside[inside] = words.start[found[inside]] < (end + base)[inside]
    return np.where(inside, found, -1)


# ---------------------------------------------------------------------------------------------- the tables


def _chunk(
    batch: Sequence[TextSequence],
    words: _Words,
    windows: _Windows,
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
    text, start, end, blank = _surface(batch, windows, sample, vocabulary)
    word = _word_of_tokens(words, start, end, sample, blank)
    of_word = pa.array(word, mask=word < 0)
    tokens = {
        "sequence": number[window],
        "position": position.astype(np.int32),
        "token": _array(vocabulary),
        "token_id": windows.ids,
        "text": _array(text),
        "is_special": windows.is_special,
        "word": np.where(word < 0, -1, word - words.first_word[sample]).astype(np.int32),
        "word_text": _array(words.text).take(of_word),
        "start": start,
        "end": end,
        "kind": _kinds(text, windows.is_special, blank, word),
    }
    of_sequences = {
        "sequence": number,
        "text": _array([s.text for s in batch]).take(windows.sample),
        "n_tokens": windows.lengths,
        "window": windows.part,
        "source": _array([s.source for s in batch]).take(windows.sample),
    }
    _add_metadata(tokens, of_sequences, batch, words, of_word, sample, windows.sample, word_columns, renamed)
    return TokenisedChunk(pa.table(tokens), pa.table(of_sequences), windows.ids, windows.is_special, windows.lengths)


def _add_metadata(
    tokens: dict[str, Any],
    of_sequences: dict[str, Any],
    batch: Sequence[TextSequence],
    words: _Words,
    of_word: pa.Array,
    sample: IntArray,
    sample_of_windows: IntArray,
    word_columns: set[str],
    renamed: dict[str, str],
) -> None:
    """Add the metadata of words and sequences to the columns of tokens, and those of sequences to the windows too."""

    def add(columns: dict[str, Any], name: str, stored: str, values: pa.Array) -> None:
        if stored in columns:
            raise QKSpaceError(
                f"Two columns of metadata would be stored as {stored!r}, one of them {name!r}: rename one."
            )
        columns[stored] = values
        if stored != name:
            renamed[name] = stored

    none = [(None,) * int(n) for n in np.diff(words.first_word)]
    for name in dict.fromkeys(chain.from_iterable(s.word_metadata for s in batch)):
        values = chain.from_iterable(
            (s.word_metadata.get(name, missing) for s, missing in zip(batch, none, strict=True))
        )
        add(tokens, name, f"corpus_{name}" if name in RESERVED else name, _array(list(values)).take(of_word))
    for name in dict.fromkeys(chain.from_iterable(s.metadata for s in batch)):
        stored = f"sequence_{name}" if name in word_columns else f"corpus_{name}" if name in RESERVED else name
        column = _array([s.metadata.get(name) for s in batch])
        add(tokens, name, stored, column.take(sample))
        add(of_sequences, name, stored, column.take(sample_of_windows))


def _vocabulary_strings(ids: IntArray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the string of each id in the vocabulary."""
    unique, where = np.unique(ids, return_inverse=True)
    strings = tokenizer.convert_ids_to_tokens(unique.tolist())
    return [strings[place] for place in where.tolist()]


def _surface(
    batch: Sequence[TextSequence], windows: _Windows, sample: IntArray, vocabulary: list[str]
) -> tuple[list[str], IntArray, IntArray, BoolArray]:
    """Return the text, start and end of each token without white space around it, and which have no text at all.

    The space that a tokenizer puts before a text is a token that claims the first character; it covers nothing.
    """
    texts = [sequence.text for sequence in batch]
    start, end = windows.start.copy(), windows.end.copy()
    blank = windows.is_special.copy()
    surface = list(vocabulary)
    tokens = zip(windows.is_special.tolist(), sample.tolist(), start.tolist(), end.tolist(), vocabulary, strict=True)
    for place, (is_special, of, left, right, string) in enumerate(tokens):
        if is_special:
            start[place] = end[place] = -1
            continue
        covered = texts[of][left:right]
        stripped = covered.strip()
        if not stripped:
            blank[place] = True
        elif stripped != string and not string.strip("▁Ġ"):
            blank[place] = True
            end[place] = left
        else:
            surface[place] = stripped
            start[place] = left + len(covered) - len(covered.lstrip())
            end[place] = start[place] + len(stripped)
    return surface, start, end, blank


def _kinds(text: list[str], is_special: BoolArray, blank: BoolArray, word: IntArray) -> pa.Array:
    """Return the kind of each token; a token begins its word when the one before it is of another."""
    import pyarrow as pa

    shapes = {unique: _shape(unique) for unique in set(text)}
    code = np.array([shapes[one] for one in text], dtype=np.int32)
    shown = np.flatnonzero(~blank)
    of_word = word[shown]
    inside = np.zeros(len(text), dtype=bool)
    inside[shown[1:]] = (of_word[1:] == of_word[:-1]) & (of_word[1:] >= 0)
    code[(code == KINDS.index("word")) & inside] = KINDS.index("subword")
    code[blank] = KINDS.index("other")
    code[is_special] = KINDS.index("special")
    return pa.DictionaryArray.from_arrays(pa.array(code), pa.array(KINDS))


def _shape(text: str) -> int:
    """Return the kind that the characters of a token tell."""
    if _NUMBER.fullmatch(text):
        return KINDS.index("number")
    if _PUNCTUATION.fullmatch(text):
        return KINDS.index("punctuation")
    return KINDS.index("word" if _LETTER.search(text) else "other")


def _array(values: Sequence[Scalar]) -> pa.Array:
    """Return values as int64, float64, bool, dictionary-encoded string or null."""
    import pyarrow as pa

    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int, float} and all(abs(v) < 2**63 for v in values if isinstance(v, int)):
        kind = pa.null() if not kinds else pa.int64() if kinds == {int} else pa.float64()
        return pa.array(values, kind)
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    return pa.array([v if v is None else str(v) for v in values], pa.string()).dictionary_encode()

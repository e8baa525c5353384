"""Search: which tokens of an index a few typed words mean.

In: an index and a query. Out: the rows of `index.tokens` that it finds, counted by sequence and by text. Looks at tables
alone: knows no head, no map and no page. Only texts that differ are looked at, whatever the number of tokens.

    hits = search(index, "walk* upos:VERB -deprel:root")
    hits.n, hits.texts, hits.sequences, hits.next_hit(120)
"""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import regex

from qkspace.index import Index
from qkspace.schema import BoolArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["exact", "prefix", "regex", "contains"]
Sort = Literal["corpus", "hits", "longest", "shortest"]
MODES: tuple[Mode, ...] = get_args(Mode)
SORTS: tuple[Sort, ...] = get_args(Sort)
ALIASES = {"word": "word_text", "relation": "deprel"}  # what people type; the number of a word is nothing to search for
TEXT = ("text", "word_text")  # where a term looks that names no column
TOP_TEXTS = 100  # of `Hits.texts`
MAX_EXPRESSION = 500  # characters of a regular expression
MAX_REPEATS = 1_000  # of the product of its {numbers}: the engine lays repeats out, a{1000}{1000} as a million nodes
SECONDS = 1.0  # that one regular expression may take over all texts
_NAME = regex.compile(r"([A-Za-z_][\w.-]*):(?=\S)")
_QUOTED = regex.compile(r'"((?:[^"\\]|\\.)*+)"(?=\s|$)', regex.DOTALL)
_SLASHED = regex.compile(r"/((?:[^/\\]|\\.)++)/(?=\s|$)", regex.DOTALL)
_REPEAT = regex.compile(r"\{([^{}]*)\}")
_RECURSION = regex.compile(r"\(\?(?:R|[0-9]|&|P>)")  # of which a few characters can fill the memory


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What a query found.

    rows: (hit), rows of `index.tokens`, ascending. sequences: columns sequence and hits, in the order of the corpus.
    texts: columns text and hits, the most frequent first, at most TOP_TEXTS.
    """

    query: str
    rows: IntArray
    sequences: pd.DataFrame
    texts: pd.DataFrame

    @property
    def n(self) -> int:
        """How many tokens were found."""
        return len(self.rows)

    def next_hit(self, row: int) -> int | None:
        """Return the first hit after a row, from the last on again the first; None where nothing was found."""
        if not self.n:
            return None
        return int(self.rows[np.searchsorted(self.rows, row, side="right") % self.n])

    def previous_hit(self, row: int) -> int | None:
        """Return the last hit before a row, from the first on again the last; None where nothing was found."""
        return int(self.rows[np.searchsorted(self.rows, row, side="left") - 1]) if self.n else None


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a query: what is looked for, how, in which columns, and whether what has it is left out.

    place counts the characters of the query from 1.
    """

    value: str
    mode: Mode
    columns: tuple[str, ...]
    excluded: bool
    place: int


def search(index: Index, text: str, mode: Mode = "exact", *, case: bool = False, column: str | None = None) -> Hits:
    r"""Find tokens by their text as people see it, by the word that they are part of, or by metadata.

        search(index, "river")                      # tokens "river", and all pieces of the word "river"
        search(index, "text:river")                 # tokens alone; word:river the words alone
        search(index, "walk* upos:VERB")            # begins with walk and is a verb
        search(index, "relation:nsubj -sequence:12 /^[A-Z]/", case=True)
        search(index, "VERB", column="upos")
        search(index, "(ing|ed)$", "regex")

    Terms are parted by spaces, and a token has all of them. `name:term` looks in a column of `index.tokens` or
    `index.sequences` (word: word_text, relation: deprel), `-term` leaves out what has it, `term*` is a beginning,
    `/.../` a regular expression, and what stands in "..." is taken as it is, with its spaces, stars and colons (\" for a
    quote in it). Where a token has no value in a column, no term finds it. Forms of one character that Unicode holds
    compatible (full width, ligatures) are one, but for those in a regular expression: texts are compared in NFKC.

    Args:
        index: an index.
        text: the query. With mode "regex" all of it is one regular expression.
        mode: how a term is meant that does not say so itself. "regex" finds the expression anywhere in a text.
        case: whether upper and lower case differ.
        column: where a term looks that names no column; None: in the token's text and in its word.

    Returns:
        The tokens found; none where the query is empty.

    Raises:
        QKSpaceError: no such mode or column, a quote that is not closed, a regular expression that is none or takes
            longer than SECONDS.
    """
    if mode not in MODES:
        raise QKSpaceError(f"No search mode {mode!r}; there are {', '.join(MODES)}.")
    columns = _columns_of(index)
    inside = TEXT if column is None else (columns.resolve(column, place=None),)
    if mode == "regex":
        terms = [Term(text, "regex", inside, False, 1)] if text else []
    else:
        terms = parse(text, mode, inside, columns.resolve, columns.names)
    found = np.full(index.n_tokens, bool(terms))
    for term in terms:
        has = _rows_with(columns, term, case)
        found &= ~has if term.excluded else has
    return _hits(index, columns, text, np.flatnonzero(found))


def sequence_list(
    index: Index, hits: Hits | None = None, *, start: int = 0, count: int = 20, sort: Sort = "corpus"
) -> pd.DataFrame:
    """Return one page of the sequences of an index, or of those that hold hits.

        page = sequence_list(index, search(index, "river"), start=20, count=20, sort="hits")
        page.attrs["n_sequences"]                   # of all pages

    Args:
        index: an index.
        hits: where given, only sequences with hits are listed.
        start: how many sequences come before the page.
        count: how many the page has at most.
        sort: "corpus" (its order), "hits" (most first), "longest" or "shortest"; what is equal comes as in the corpus.

    Returns:
        Columns sequence, text, n_tokens and hits (0 without `hits`); attrs["n_sequences"] is the length of the whole list.

    Raises:
        QKSpaceError: no such sort, or a negative start or count.
    """
    if sort not in SORTS:
        raise QKSpaceError(f"Sequences cannot be sorted by {sort!r}; there are {', '.join(SORTS)}.")
    if start < 0 or count < 0:
        raise QKSpaceError(
            f"A page starts at 0 or later and holds 0 sequences or more; got start {start}, count {count}."
        )
    sequences = index.sequences
    number, lengths = sequences["sequence"].to_numpy(), sequences["n_tokens"].to_numpy()
    n_hits, listed = np.zeros(len(sequences), dtype=np.int64), np.arange(len(sequences))
    if hits is not None:
        listed = np.searchsorted(number, hits.sequences["sequence"].to_numpy())
        n_hits[listed] = hits.sequences["hits"].to_numpy()
    rank = {"corpus": listed, "hits": -n_hits[listed], "longest": -lengths[listed], "shortest": lengths[listed]}[sort]
    shown = listed[np.argsort(rank, kind="stable")][start : start + count]
    page = sequences[["sequence", "text", "n_tokens"]].iloc[shown].assign(hits=n_hits[shown]).reset_index(drop=True)
    page.attrs["n_sequences"] = len(listed)
    return page


# ---------------------------------------------------------------------------------------------- the query language


def parse(
    query: str, mode: Mode, inside: tuple[str, ...], resolve: Callable[[str, int], str], names: list[str]
) -> list[Term]:
    """Return the terms of a query; `names`: what may stand before a colon, `resolve`: which column that is.

    Raises:
        QKSpaceError: a quote that is not closed, or no such column.
    """
    terms: list[Term] = []
    at = 0
    while at < len(query):
        if query[at].isspace():
            at += 1
            continue
        place = at + 1
        excluded = query[at] == "-" and at + 1 < len(query) and not query[at + 1].isspace()
        at += excluded
        name = _name_at(query, at, names)
        columns = inside if name is None else (resolve(name, place),)
        at += 0 if name is None else len(name) + 1
        value, how, at = _value_at(query, at, mode)
        terms.append(Term(value, how, columns, excluded, place))
    return terms


def _name_at(query: str, at: int, names: list[str]) -> str | None:
    """Return the name before a colon: the longest known one (a name may hold colons), else what looks like one."""
    rest = query[at:].casefold()
    known = [
        name for name in names if rest.startswith(f"{name.casefold()}:") and not rest[len(name) + 1 :][:1].isspace()
    ]
    known = [name for name in known if len(rest) > len(name) + 1]
    if known:
        return query[at : at + max(map(len, known))]
    found = _NAME.match(query, at)
    return None if found is None else str(found[1])


def _value_at(query: str, at: int, mode: Mode) -> tuple[str, Mode, int]:
    """Return the value that begins at a place, how it is meant, and where it ends."""
    if found := _QUOTED.match(query, at):
        return regex.sub(r'\\(["\\])', r"\1", found[1]), mode, found.end()
    if found := _SLASHED.match(query, at):
        return str(found[1]), "regex", found.end()
    value = query[at:].split(maxsplit=1)[0]
    if value.startswith('"') and len(value) > 1:
        raise QKSpaceError(
            f"The query {query!r}, character {at + 1}: the quote is not closed, or no space follows it. Close it, or write "
            '\\" inside quotes for a quote that is looked for.'
        )
    if value.endswith("*") and len(value) > 1:
        return value[:-1], "prefix", at + len(value)
    return value, mode, at + len(value)


# ---------------------------------------------------------------------------------------------- columns and their texts


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as texts that differ and the number of each row's text, -1 where it has none: (row or sequence)."""

    codes: IntArray
    texts: list[str]  # as shown, in NFKC
    folded: list[str]  # the same without case


class _Columns:
    """The columns that were searched so far of one index; each is read once."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.of_tokens = [str(name) for name in index.tokens]
        own = set(self.of_tokens)
        self.of_sequences = [str(name) for name in index.sequences if name not in own and name != "n_tokens"]
        self.columns = [*self.of_tokens, *self.of_sequences]
        self.aliases = {alias: name for alias, name in ALIASES.items() if name in own}
        self.names = [*self.columns, *self.aliases]
        self._read: dict[str, _Column] = {}
        self._shown: tuple[IntArray, Any] | None = None

    def resolve(self, name: str, place: int | None) -> str:
        """Return the column of a name, written in any case; place: where it stands in the query."""
        wanted = self.aliases.get(name.casefold(), name)
        for found in (wanted, *(column for column in self.columns if column.casefold() == wanted.casefold())):
            if found in self.columns:
                return found
        where = f"The query, character {place}: no" if place is not None else "No"
        quoted = f' To look for the text itself, put it in quotes: "{name}:..."' if place is not None else ""
        raise QKSpaceError(f"{where} column {name!r}; there are {', '.join(self.columns)}.{quoted}")

    def column(self, name: str) -> _Column:
        """Return a column, read when first asked for."""
        if name not in self._read:
            table = self.index.tokens if name in self.of_tokens else self.index.sequences
            codes, texts = _factorised(table[name])
            texts = [unicodedata.normalize("NFKC", text) for text in texts]
            self._read[name] = _Column(codes, texts, [_folded(text) for text in texts])
        return self._read[name]

    def rows(self, name: str, of_texts: BoolArray) -> BoolArray:
        """Return which tokens have one of the texts of a column: (token); of_texts: (text)."""
        has = np.append(of_texts, False)[self.column(name).codes]  # code -1 is the last
        return has if name in self.of_tokens else np.repeat(has, np.diff(self.index.row_starts))

    def shown_texts(self) -> tuple[IntArray, Any]:
        """Return the texts of tokens as they are shown, and the number of each token's."""
        import pandas as pd

        if self._shown is None:
            codes, texts = pd.factorize(self.index.tokens["text"])
            self._shown = codes.astype(np.int32), texts
        return self._shown


@lru_cache(maxsize=8)
def _columns_of(index: Index) -> _Columns:
    return _Columns(index)


def _factorised(column: pd.Series[Any]) -> tuple[IntArray, list[str]]:
    """Return the number of each row's value (-1: it has none), and the values as text: 12 for 12.0, true for True."""
    import pandas as pd

    codes, values = pd.factorize(column)
    if pd.api.types.is_bool_dtype(values):
        return codes.astype(np.int32), [str(value).casefold() for value in values]
    if pd.api.types.is_float_dtype(values):
        return codes.astype(np.int32), [str(int(v)) if float(v).is_integer() else str(v) for v in values.tolist()]
    return codes.astype(np.int32), [str(value) for value in values]


def _folded(text: str) -> str:
    """Return a text without differences of case and of compatible characters (NFKC again: folding may undo it)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


# ---------------------------------------------------------------------------------------------- matching


def _rows_with(columns: _Columns, term: Term, case: bool) -> BoolArray:
    """Return which tokens have a term, in any of the columns it looks in: (token)."""
    names = [name for name in term.columns if name in columns.columns]
    matches = _expression(term, case) if term.mode == "regex" else _comparison(term, case)
    found = np.zeros(columns.index.n_tokens, dtype=bool)
    for name in names:
        column = columns.column(name)
        texts = column.texts if case or term.mode == "regex" else column.folded
        of_texts = np.fromiter(map(matches, texts), dtype=bool, count=len(texts))
        if of_texts.any():
            found |= columns.rows(name, of_texts)
    return found


def _comparison(term: Term, case: bool) -> Callable[[str], bool]:
    """Return what tells whether a text, folded unless case counts, has the term."""
    value = unicodedata.normalize("NFKC", term.value) if case else _folded(term.value)
    if term.mode == "exact":
        return value.__eq__
    if term.mode == "prefix":
        return lambda text: text.startswith(value)
    return lambda text: value in text


def _expression(term: Term, case: bool) -> Callable[[str], bool]:
    """Return what tells whether a text holds a regular expression; all its calls together take at most SECONDS."""
    where = f"The regular expression {term.value[:80]!r} (character {term.place} of the query)"
    if reason := _too_large(term.value):
        raise QKSpaceError(f"{where} {reason}.")
    try:
        # NFC: NFKC would turn full-width brackets and braces into those of the language
        expression = regex.compile(unicodedata.normalize("NFC", term.value), 0 if case else regex.IGNORECASE)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise QKSpaceError(
            f"{where} is none: {error}. Correct it, or put it in quotes to look for it as text."
        ) from error
    end = time.monotonic() + SECONDS

    def matches(text: str) -> bool:
        try:
            return expression.search(text, timeout=max(end - time.monotonic(), 1e-9)) is not None
        except (TimeoutError, MemoryError) as error:
            raise QKSpaceError(
                f"{where} took longer than {SECONDS:g} s on this corpus: make it simpler, without repeats inside repeats."
            ) from error

    return matches


def _too_large(expression: str) -> str | None:
    """Say why an expression would take too much memory; None where it does not."""
    if len(expression) > MAX_EXPRESSION:
        return f"has {len(expression):,} characters; at most {MAX_EXPRESSION} are taken"
    numbers = [[int(n) for n in regex.findall("[0-9]+", repeat)] for repeat in _REPEAT.findall(expression)]
    if (repeats := math.prod(max(counts, default=1) or 1 for counts in numbers)) > MAX_REPEATS:
        return f"repeats up to {repeats:,} times; its numbers in braces may multiply to {MAX_REPEATS:,} at most"
    return "calls itself, which is not taken" if _RECURSION.search(expression) else None


def _hits(index: Index, columns: _Columns, query: str, rows: IntArray) -> Hits:
    """Count what was found by sequence and by text."""
    import pandas as pd

    per_sequence = np.diff(np.searchsorted(rows, index.row_starts))
    holds = np.flatnonzero(per_sequence)
    sequences = pd.DataFrame({"sequence": index.sequences["sequence"].to_numpy()[holds], "hits": per_sequence[holds]})
    codes, texts = columns.shown_texts()
    counts = np.bincount(codes[rows][codes[rows] >= 0], minlength=len(texts))
    top = np.argsort(-counts, kind="stable")[: min(TOP_TEXTS, int((counts > 0).sum()))]
    of_texts = pd.DataFrame({"text": [str(texts[i]) for i in top], "hits": counts[top]})
    return Hits(query, rows, sequences, of_texts)

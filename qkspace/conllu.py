"""Sentences of CoNLL-U, with their gold annotation.

In: the name of a CoNLL-U file. Out: a `TextSequence` a sentence, with the span and the columns of each word. Knows no
tokenizer. Its own reader, because an error is to name its line. Format: https://universaldependencies.org/format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qkspace.files import blocks, read_lines, shown_name
from qkspace.schema import QKSpaceError, Scalar, TextSequence
from qkspace.spans import Span, join_words

_COLUMNS = ("lemma", "upos", "xpos", "feats", "head", "deprel")

Word = dict[str, Scalar]  # the columns of a word by name, "form" first


class _Token(NamedTuple):
    """What stands in the text: a form, what follows it, and its words [first, last), counted from 0."""

    form: str
    after: str
    first: int
    last: int


def read_conllu(name: str, encoding: str) -> Iterator[TextSequence]:
    """Yield the sentences of a CoNLL-U file: its words with their columns, its comments as metadata.

    Words carry lemma, upos, xpos, feats, head (1-based, 0 = root), deprel and each MISC key but SpaceAfter in lower
    case (`misc_<key>` where a column has that name; True where it has no value); "_" is None. Empty nodes (8.1) are
    passed over. `# newdoc id` is `document` for all sentences that follow it. The text is that of `# text` where the
    words are found in it in order, else the words joined as SpaceAfter says.

    Raises:
        QKSpaceError: A line is not CoNLL-U; the message names it.
    """
    document: str | None = None
    for first, _, lines in blocks(read_lines(name, encoding)):
        comments = [line[1:].strip() for line in lines if line.startswith("#")]
        for comment in comments:
            if re.match(r"newdoc\b", comment):
                document = comment.partition("=")[2].strip() or None
        pairs = [comment.partition("=") for comment in comments if not re.match(r"(newdoc|newpar)\b", comment)]
        metadata: dict[str, Scalar] = {key.strip(): value.strip() for key, equals, value in pairs if equals}
        text = metadata.pop("text", None)
        if document is not None:
            metadata["document"] = document
        words, tokens = _words_and_tokens(lines, shown_name(name), first)
        if words:
            text, spans = _text_and_spans(words, tokens, str(text or ""))
            columns = dict.fromkeys(key for word in words for key in word if key != "form")
            labels = {key: tuple(word.get(key) for word in words) for key in columns}
            yield TextSequence(text, metadata, spans, labels, f"{shown_name(name)} line {first}")


def _words_and_tokens(lines: Sequence[str], name: str, first: int) -> tuple[list[Word], list[_Token]]:
    """Return the words of a sentence, and its surface tokens (some of which are several words)."""
    words: list[Word] = []
    tokens: list[_Token] = []
    places: list[str] = []  # of the words
    for number, line in enumerate(lines, start=first):
        if line.startswith("#"):
            continue
        where = f"{name} line {number}"
        fields = line.split("\t")
        if len(fields) != 10:
            raise QKSpaceError(f"{where}: expected 10 columns with tabs between them, got {len(fields)}.")
        if re.fullmatch(r"[0-9]+\.[0-9]+", fields[0]):
            continue
        covered = tokens[-1].last if tokens else 0
        last = _last_word(fields[0], len(words), covered, where)
        if last > covered:
            after = "" if "SpaceAfter=No" in fields[9].split("|") else " "
            tokens.append(_Token(fields[1], after, len(words), last))
        if "-" not in fields[0]:
            words.append(_word(fields, where))
            places.append(where)
    _check_sentence(words, tokens, places, f"{name} line {first}")
    return words, tokens


def _last_word(word_id: str, n_words: int, covered: int, where: str) -> int:
    """Return the number of the last word of an id, which is that of the next word (4) or a range from it (4-5)."""
    found = re.fullmatch(r"([0-9]+)-([0-9]+)", word_id)
    if found is None and word_id == str(n_words + 1):
        return n_words + 1
    if found is not None and covered <= n_words and n_words + 1 == int(found[1]) < int(found[2]):
        return int(found[2])
    raise QKSpaceError(f"{where}: expected word id {n_words + 1}, or a range from it, got {word_id!r}.")


def _check_sentence(words: Sequence[Word], tokens: Sequence[_Token], places: Sequence[str], where: str) -> None:
    """Refuse a range or a head that goes beyond the end of a sentence."""
    n_words = len(words)
    if tokens and tokens[-1].last > n_words:
        raise QKSpaceError(f"{where}: the sentence ends at word {n_words}, but a range goes to {tokens[-1].last}.")
    for word, place in zip(words, places, strict=True):
        if int(word["head"] or 0) > n_words:
            raise QKSpaceError(f"{place}: head {word['head']} is not in the sentence, whose words are 1 to {n_words}.")


def _word(fields: Sequence[str], where: str) -> Word:
    """Return the columns of one word."""
    word: Word = {"form": fields[1]}
    for column, value in zip(_COLUMNS, fields[2:8], strict=True):
        word[column] = None if value == "_" else value
    if word["head"] is not None:
        if not re.fullmatch("[0-9]+", fields[6]):
            raise QKSpaceError(f"{where}: expected the head to be the number of a word, 0 or _, got {fields[6]!r}.")
        word["head"] = int(fields[6])
    for item in [] if fields[9] == "_" else fields[9].split("|"):
        key, equals, value = item.partition("=")
        column = f"misc_{key.lower()}" if key.lower() in word else key.lower()
        if key != "SpaceAfter" and key:
            word[column] = (None if value == "_" else value) if equals else True
    return word


def _text_and_spans(words: Sequence[Word], tokens: Sequence[_Token], text: str) -> tuple[str, tuple[Span, ...]]:
    """Return the text of a sentence and the span of each word in it."""
    found: list[Span] = []
    place = 0
    for token in tokens:
        place = text.find(token.form, place)
        if place < 0:
            text, joined = join_words((token.form, token.after) for token in tokens)
            found = list(joined)
            break
        found.append((place, place + len(token.form)))
        place += len(token.form)
    spans: list[Span] = []
    for (start, end), token in zip(found, tokens, strict=True):
        forms = [str(word["form"]) for word in words[token.first : token.last]]
        if "".join(forms) == token.form:
            spans += [(start + left, start + right) for left, right in join_words((form, "") for form in forms)[1]]
        else:
            spans += [(start, end)] * len(forms)
    return text, tuple(spans)

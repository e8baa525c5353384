"""Tests of `qkspace.corpus`: what each format gives, and what is said where it cannot be read."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import datasets
import huggingface_hub.constants
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qkspace import corpus
from qkspace.schema import QKSpaceError, TextSequence

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the corpora of {DATA} are not there")
ROWS = [
    {"text": "A first.", "topic": "a", "year": 1999, "score": 0.5},
    {"text": 'Say "hé", 日本', "topic": "b,c", "year": 2001, "score": -2.25},
]
WORDS = {
    "id": "7",
    "tokens": ["New", "York", "!"],
    "tags": ["B", "I", "O"],
    "n": [1, None, 3],
    "nested": [[1], [2], [3]],
}
CONLLU = """# newdoc id = d1
# sent_id = s1
# text = Vámonos al mar, don't.
# topic = sea
1-2	Vámonos	_	_	_	_	_	_	_	_
1	Vamos	ir	VERB	V	Mood=Imp	0	root	_	antecedent=no
2	nos	_	PRON	_	_	1	obj	_	_
3-4	al	_	_	_	_	_	_	_	_
3	a	a	ADP	_	_	5	case	_	_
4	el	el	DET	_	_	5	det	_	_
5	mar	mar	NOUN	_	_	1	obl	_	SpaceAfter=No|Lemma=x|Flag
5.1	mar	mar	NOUN	_	_	_	_	1:obl	_
6	,	,	PUNCT	_	_	1	punct	_	_
7-8	don't	_	_	_	_	_	_	_	SpaceAfter=No
7	do	do	AUX	_	_	1	dep	_	_
8	n't	not	PART	_	_	7	advmod	_	_
9	.	.	PUNCT	_	_	1	punct	_	SpacesAfter=\\n

# newpar id = p2
# sent_id = s2
1	Ja	ja	INTJ	_	_	_	root	_	SpaceAfter=No
2	.	.	PUNCT	_	_	1	punct	_	_
"""


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _plain(sequences: list[TextSequence]) -> list[dict[str, Any]]:
    return [{"text": sequence.text, **sequence.metadata} for sequence in sequences]


def _words(sequence: TextSequence) -> list[str]:
    assert sequence.word_spans is not None
    return [sequence.text[start:end] for start, end in sequence.word_spans]


def _jsonl(folder: Path) -> Path:
    return _write(folder, "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS))


def _csv(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def _tsv(folder: Path) -> Path:
    pd.DataFrame(ROWS).to_csv(folder / "rows.tsv", index=False, sep="\t", quoting=csv.QUOTE_NONE)
    return folder / "rows.tsv"


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    return folder / "rows.parquet"


def _saved(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def _saved_splits(folder: Path) -> Path:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"test": rows.select([0]), "train": rows}).save_to_disk(folder / "splits")
    return folder / "splits"


def _folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    return _jsonl(folder / "data").parent


@pytest.mark.parametrize("write", [_jsonl, _csv, _tsv, _parquet, _saved, _saved_splits, _folder])
def test_every_format_of_rows_gives_the_same_sequences(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Text, metadata and types survive each format."""
    sequences = list(corpus.read(write(tmp_path)))
    assert _plain(sequences) == ROWS
    assert [type(value) for value in sequences[0].metadata.values()] == [str, int, float]
    assert all(str(tmp_path) in sequence.source for sequence in sequences)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_survives(texts: list[str], tmp_path: Path) -> None:
    """JSONL, CSV and Parquet give back any text, NUL and strange line ends included."""
    _write(tmp_path, "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        assert [sequence.text for sequence in corpus.read(tmp_path / name)] == texts


@pytest.mark.parametrize(
    ("content", "unit", "expected"),
    [
        ("a b\n\n c\n", "line", [("a b", "line 1"), (" c", "line 3")]),
        ("a\nb\n \n\nc", "paragraph", [("a b", "lines 1-2"), ("c", "line 5")]),
        ("\ufeffa\r\nb\u2028c\x0bd\x85e\r\n", "line", [("a", "line 1"), ("b\u2028c\x0bd\x85e", "line 2")]),
        ("a\x00b", "line", [("a\x00b", "line 1")]),
        ("", "line", []),
    ],
)
def test_plain_text(
    content: str, unit: Literal["line", "paragraph"], expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Lines or blocks; lines end at line ends of files only; a byte order mark is no text."""
    path = _write(tmp_path, "notes.txt", content)
    assert [(s.text, s.source.removeprefix(f"{path} ")) for s in corpus.read(path, unit=unit)] == expected


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name - is text unless the format is said, and standard input stays open."""
    for text, format, expected in [("a\n\nb", None, ["a", "b"]), ('{"text": "c"}', "jsonl", ["c"])]:
        stream = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        sequences = list(corpus.read("-", format=format))
        assert [sequence.text for sequence in sequences] == expected
        assert sequences[0].source == "standard input line 1"
        assert not stream.buffer.closed


def test_encoding(tmp_path: Path) -> None:
    """Files in other encodings are read when the encoding is said."""
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        path = _write(tmp_path, "a.txt", "é\nü".encode(encoding))
        assert [sequence.text for sequence in corpus.read(path, encoding=encoding)] == ["é", "ü"]


@pytest.mark.parametrize("lines", [2, 5000])
def test_a_byte_that_cannot_be_decoded_is_named(lines: int, tmp_path: Path) -> None:
    """The message has file, line, byte and its place, however far into the file."""
    good = "é good\r\n".encode() * lines
    path = _write(tmp_path, "a.txt", good + b"ok \xe9 bad\nmore\n")
    with pytest.raises(
        QKSpaceError, match=rf"a\.txt line {lines + 1}: byte 0xE9 \(byte {len(good) + 3} of.*--encoding"
    ):
        list(corpus.read(path))


def test_words_of_rows(tmp_path: Path) -> None:
    """Lists of words give exact spans; lists as long as they are label the words, deeper ones are left out."""
    datasets.Dataset.from_list([WORDS]).to_parquet(tmp_path / "w.parquet")
    for path in (_write(tmp_path, "w.jsonl", json.dumps(WORDS)), tmp_path / "w.parquet"):
        (sequence,) = corpus.read(path)
        assert sequence.text == "New York !"
        assert _words(sequence) == WORDS["tokens"]
        assert dict(sequence.word_metadata) == {"tags": ("B", "I", "O"), "n": (1, None, 3)}
        assert dict(sequence.metadata) == {"id": "7"}


def test_class_labels_become_names(tmp_path: Path) -> None:
    """`ClassLabel` columns and lists of them are names, from disk and from Parquet; -1 is None."""
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        tags=datasets.List(datasets.ClassLabel(names=["O", "PER"])),
        label=datasets.ClassLabel(names=["neg", "pos"]),
        photo=datasets.Image(),
    )
    row = {"tokens": ["Ann", "ran"], "tags": [1, 0], "label": 1, "photo": None}
    data = datasets.Dataset.from_list([row, {**row, "tags": [0, -1], "label": -1}], features=features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "a.parquet")
    for path in ("saved", "a.parquet"):
        one, two = corpus.read(tmp_path / path)
        assert (one.metadata["label"], one.word_metadata["tags"]) == ("pos", ("PER", "O"))
        assert (two.metadata["label"], two.word_metadata["tags"]) == (None, ("O", None))


@pytest.mark.parametrize(
    ("row", "text_column", "text"),
    [
        ({"Sentence": "a", "id": "b"}, None, "a"),
        ({"n": 1, "review": "a"}, None, "a"),
        ({"text": "a", "tokens": ["b"]}, None, "a"),
        ({"text": "a", "tokens": ["b"]}, "tokens", "b"),
        ({"text": None, "id": "b"}, None, ""),
    ],
)
def test_which_column_is_the_text(row: dict[str, Any], text_column: str | None, text: str, tmp_path: Path) -> None:
    """The column that is asked for, else one with a usual name, else the only one of strings."""
    (sequence,) = corpus.read(_write(tmp_path, "a.jsonl", json.dumps(row)), text_column=text_column)
    assert sequence.text == text


def test_values_of_csv(tmp_path: Path) -> None:
    """Numbers are numbers, codes stay strings, nothing is None, and a field may be long and hold line ends."""
    cells = {
        "12": 12,
        "-3": -3,
        "1.5": 1.5,
        ".5": 0.5,
        "1e3": 1000.0,
        "007": "007",
        "nan": "nan",
        "1_0": "1_0",
        "": None,
    }
    long = "x " * 100_000
    header = ",".join(["", "text", *(f"c{n}" for n in range(len(cells)))])
    path = _write(tmp_path, "a.csv", f'{header}\r\n0,"42\nb",{",".join(cells)}\r\n\r\n1,{long},{",".join(cells)}\r\n')
    first, second = corpus.read(path)
    assert (first.text, second.text) == ("42\nb", long)
    assert first.metadata["column_1"] == 0
    assert [first.metadata[f"c{n}"] for n in range(len(cells))] == list(cells.values())
    assert second.source == f"{path} line 5"


def test_conllu(tmp_path: Path) -> None:
    """Words, columns, comments, multiword tokens and the document, with exact spans."""
    one, two = corpus.read(_write(tmp_path, "a.conllu", CONLLU.replace("\n", "\r\n")))
    assert one.text == "Vámonos al mar, don't."
    assert _words(one) == ["Vámonos", "Vámonos", "al", "al", "mar", ",", "do", "n't", "."]
    assert dict(one.metadata) == {"sent_id": "s1", "topic": "sea", "document": "d1"}
    assert one.word_metadata["head"] == (0, 1, 5, 5, 1, 1, 1, 7, 1)
    assert one.word_metadata["lemma"][:3] == ("ir", None, "a")
    assert one.word_metadata["antecedent"] == ("no", *[None] * 8)
    assert (one.word_metadata["misc_lemma"][4], one.word_metadata["flag"][4]) == ("x", True)
    assert "spaceafter" not in one.word_metadata
    assert (two.text, _words(two)) == ("Ja.", ["Ja", "."])
    assert dict(two.metadata) == {"sent_id": "s2", "document": "d1"}
    assert two.word_metadata["head"] == (None, 1)
    assert two.source.endswith("a.conllu line 19")


def test_conllu_text_that_does_not_fit(tmp_path: Path) -> None:
    """Where `# text` does not hold the words, the text is made of the words."""
    (*_, last) = corpus.read(_write(tmp_path, "a.conllu", CONLLU.replace("# sent_id = s2", "# text = Nein.")))
    assert last.text == "Ja."


BAD_FILES = [
    ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, r"a\.jsonl line 2: not JSON"),
    ("a.jsonl", '"a"', {}, r"a\.jsonl line 1: expected a JSON object"),
    ("a.jsonl", '{"text": "\\ud800"}', {}, "line 1: holds half of a surrogate pair"),
    ("a.jsonl", '{"a": "x", "b": "y"}', {}, r"a\.jsonl line 1: which column.*--text-column: a, b"),
    ("a.jsonl", '{"text": "x"}\n{"txt": "y"}', {}, r"line 2: no column 'text'; its columns are txt"),
    ("a.jsonl", '{"n": 3}', {"text_column": "n"}, r"line 1: column 'n' holds int '3'"),
    ("a.jsonl", '{"words": ["a", "b"], "tag": ["X"]}', {}, r"line 1: column 'tag' has 1 values for the 2 words"),
    ("a.csv", "text,n\na,1\nb\n", {}, r"a\.csv line 3: expected 2 fields \(text, n\), got 1"),
    ("a.csv", 'text,n\na,1\n"b,2\nc,3\n', {}, r"a\.csv line 3: not CSV"),
    ("a.csv", "text,text\na,b\n", {}, r"a\.csv line 1: two columns have one name"),
    ("a.tsv", 'text\tn\n"a\t1\nb\t2\t3\n', {}, r"a\.tsv line 3: expected 2 fields"),
    ("a.parquet", "text", {}, r"a\.parquet: cannot be read as Parquet"),
    ("a.conllu", CONLLU.replace("2\tnos\t", "2\tnos "), {}, r"a\.conllu line 7: expected 10 columns .* got 9"),
    ("a.conllu", CONLLU.replace("\t5\tcase", "\tx\tcase"), {}, r"a\.conllu line 9: expected the head .* got 'x'"),
    ("a.conllu", CONLLU.replace("\t5\tcase", "\t12\tcase"), {}, r"a\.conllu line 9: head 12 is not in the sentence"),
    (
        "a.conllu",
        CONLLU.replace("6\t,", "8\t,"),
        {},
        r"a\.conllu line 13: expected word id 6, or a range from it, got '8'",
    ),
    ("a.conllu", CONLLU.replace("7-8", "7-12"), {}, r"line 1: the sentence ends at word 9, but a range goes to 12"),
    ("a.xyz", "a", {}, r"suffix '\.xyz' tells no format .*--format"),
    ("a.txt", "a", {"format": "word"}, r"Unknown corpus format 'word': expected one of text, jsonl"),
    ("a.txt", "a", {"text_column": "x"}, r"read as text, where --text-column means nothing"),
    ("a.jsonl", "{}", {"split": "test"}, r"read as jsonl, where --split means nothing"),
    ("a.txt", "a", {"unit": "page"}, r"Unknown unit 'page'"),
    ("a.txt", "a", {"encoding": "utf-9"}, r"Unknown encoding 'utf-9'"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), BAD_FILES)
def test_errors_say_where(name: str, content: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What cannot be read is named with file and line."""
    with pytest.raises(QKSpaceError, match=message):
        list(corpus.read(_write(tmp_path, name, content), **options))


@pytest.mark.parametrize("source", ["nowhere.txt", "./nowhere", "/no/where", "data/train.jsonl", "../up"])
def test_a_missing_file_is_not_looked_for_on_the_hub(source: str) -> None:
    """A path that is not there is said to be a file that is not there, at once."""
    with pytest.raises(QKSpaceError, match=r"no such file"):
        corpus.read(source)


def test_a_data_set_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network, a name says what it is not, and a folder without data what it is."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        QKSpaceError, match=r"owner/no-such is neither a file or folder here nor a data set that could be"
    ):
        list(corpus.read("owner/no-such"))
    with pytest.raises(QKSpaceError, match=r"is a folder, but not of a data set"):
        list(corpus.read(tmp_path))


def test_splits(tmp_path: Path) -> None:
    """The split that is asked for is read; where none is train, the error lists them."""
    path = _saved_splits(tmp_path)
    assert [sequence.text for sequence in corpus.read(path, split="test")] == ["A first."]
    with pytest.raises(QKSpaceError, match=r"no split 'dev': choose one of (test, train|train, test)"):
        list(corpus.read(path, split="dev"))
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "ab")
    with pytest.raises(QKSpaceError, match=r"several splits.*a, b with --split"):
        list(corpus.read(tmp_path / "ab"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.conllu"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    """Reading 4 MB takes less than 0.8 MB."""
    pieces = {
        "a.txt": "word " * 20 + "\n",
        "a.jsonl": json.dumps({"text": "word " * 20}) + "\n",
        "a.csv": "word " * 20 + "\n",
        "a.conllu": CONLLU + "\n",
    }
    head = "text\n" if name == "a.csv" else ""
    path = _write(
        tmp_path, name, head + pieces[name] * (4_000_000 // len(pieces[name]) // (8 if "conllu" in name else 1))
    )
    list(zip(range(2), corpus.read(path), strict=False))  # imports and tables of codecs
    tracemalloc.start()
    for _ in corpus.read(path):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800_000


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ud-english-ewt/en_ewt-ud-dev", 2001),
        ("ud-english-ewt/en_ewt-ud-test", 2077),
        ("ud-japanese-gsd/ja_gsd-ud-dev", 507),
    ],
)
def test_universal_dependencies(name: str, count: int) -> None:
    """Every word of a treebank stands in the text of its sentence, which is that of the file."""
    path = DATA / f"{name}.conllu"
    sequences = list(corpus.read(path))
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [s.text for s in sequences] == [
        line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")
    ]
    assert len(sequences) == count
    rows = [line.split("\t") for line in lines]
    forms = [row[1] for row in rows if len(row) == 10 and row[0].isdigit()]
    found = [word for sequence in sequences for word in _words(sequence)]
    differing = [(form, word) for form, word in zip(forms, found, strict=True) if form != word]
    assert len(differing) <= 0.001 * len(forms)  # only words of multiword tokens such as "ca|n't" written otherwise
    assert all("document" in sequence.metadata for sequence in sequences)


@needs_data
def test_gap() -> None:
    """The TSV of GAP is read without quoting, and its offsets of characters are right."""
    path = DATA / "gap-coreference" / "gap-development.tsv"
    sequences = list(corpus.read(path, format="tsv"))
    assert len(sequences) == 2000
    for sequence in sequences:
        for name in ("Pronoun", "A", "B"):
            start, form = sequence.metadata[f"{name}-offset"], str(sequence.metadata[name])
            assert isinstance(start, int)
            assert sequence.text[start : start + len(form)] == form

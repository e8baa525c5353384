"""The demo corpus is what its generator writes, and every sentence of it is a well-formed tree."""

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "data" / "demo.conllu"
CURIOUS = ROOT / "data" / "curious.txt"
GENERATOR = ROOT / "scripts" / "make_demo_corpus.py"
RELATIONS = """
    case det nsubj obj iobj obl nmod nmod:poss amod advmod aux aux:pass nsubj:pass obl:agent cop acl:relcl mark advcl
    conj cc punct xcomp ccomp compound nummod
"""


@dataclass(frozen=True)
class Word:
    """One line of CoNLL-U."""

    number: int
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int
    relation: str
    misc: dict[str, str]


@dataclass(frozen=True)
class Sentence:
    """One block of CoNLL-U."""

    comments: dict[str, str]
    words: list[Word]


def parse_word(line: str) -> Word:
    """Parse one line of ten columns."""
    number, form, lemma, upos, xpos, feats, head, relation, deps, misc = line.split("\t")
    assert deps == "_"
    pairs = dict(part.split("=", 1) for part in misc.split("|")) if misc != "_" else {}
    return Word(int(number), form, lemma, upos, xpos, feats, int(head), relation, pairs)


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    """Return the sentences of the committed file."""
    parsed = []
    for block in CORPUS.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = block.split("\n")
        comments = dict(line[2:].split(" = ", 1) for line in lines if line.startswith("#"))
        parsed.append(Sentence(comments, [parse_word(line) for line in lines if not line.startswith("#")]))
    return parsed


def test_generator_reproduces_the_file(tmp_path: Path) -> None:
    """The default seed gives the committed bytes, in a process of its own."""
    out = tmp_path / "demo.conllu"
    subprocess.run([sys.executable, str(GENERATOR), "--out", str(out)], check=True)
    assert out.read_bytes() == CORPUS.read_bytes()


def test_check_tells_a_changed_file(tmp_path: Path) -> None:
    """`--check` accepts the committed file, and refuses a changed one by name."""
    changed = tmp_path / "changed.conllu"
    changed.write_bytes(CORPUS.read_bytes() + b"\n")
    assert subprocess.run([sys.executable, str(GENERATOR), "--check"], check=False).returncode == 0
    command = [sys.executable, str(GENERATOR), "--check", "--out", str(changed)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert str(changed) in result.stderr


def test_sentences_are_many_and_distinct(sentences: list[Sentence]) -> None:
    """There are at least 700 sentences, no two alike, numbered in order."""
    assert len(sentences) >= 700
    assert len({sentence.comments["text"] for sentence in sentences}) == len(sentences)
    assert [s.comments["sent_id"] for s in sentences] == [f"demo-{n:04d}" for n in range(1, len(sentences) + 1)]


def test_trees_have_one_root_and_no_cycle(sentences: list[Sentence]) -> None:
    """Ids are consecutive, one word is the root, and every word reaches it."""
    for sentence in sentences:
        words = sentence.words
        assert [word.number for word in words] == list(range(1, len(words) + 1))
        assert [word.relation for word in words if word.head == 0] == ["root"]
        assert sum(word.relation == "root" for word in words) == 1
        for word in words:
            seen, node = set(), word.number
            while node:
                assert node not in seen, sentence.comments["sent_id"]
                seen.add(node)
                node = words[node - 1].head


def test_trees_are_projective(sentences: list[Sentence]) -> None:
    """No two arcs cross, the root's own arc (from 0) included."""
    for sentence in sentences:
        arcs = [tuple(sorted((word.head, word.number))) for word in sentence.words]
        crossing = [(one, two) for one in arcs for two in arcs if one[0] < two[0] < one[1] < two[1]]
        assert not crossing, sentence.comments["sent_id"]


def test_text_is_the_words_joined(sentences: list[Sentence]) -> None:
    """The text comment is the forms with a space after each, save where MISC says no."""
    for sentence in sentences:
        text = "".join(word.form + ("" if word.misc.get("SpaceAfter") == "No" else " ") for word in sentence.words)
        assert text.rstrip(" ") == sentence.comments["text"]
        assert "  " not in text


def test_antecedents_are_other_nouns(sentences: list[Sentence]) -> None:
    """An antecedent is a noun or a name, is not the pronoun itself, and shares its entity."""
    count = 0
    for sentence in sentences:
        for word in sentence.words:
            if "Antecedent" not in word.misc:
                continue
            target = sentence.words[int(word.misc["Antecedent"]) - 1]
            assert word.upos in ("PRON", "ADV"), sentence.comments["text"]
            assert target.upos in ("NOUN", "PROPN") and target.number != word.number, sentence.comments["text"]
            assert target.misc["Entity"] == word.misc["Entity"]
            count += 1
    assert count >= 200


def test_pronouns_agree_with_their_antecedents(sentences: list[Sentence]) -> None:
    """A plural pronoun goes with a plural or coordinated noun, a singular one with a single noun."""
    for sentence in sentences:
        for word in sentence.words:
            if "Antecedent" not in word.misc or "PronType=Prs" not in word.feats:
                continue
            target = sentence.words[int(word.misc["Antecedent"]) - 1]
            joined = any(other.head == target.number and other.relation == "conj" for other in sentence.words)
            plural = "Number=Plur" in target.feats or joined
            assert ("Number=Plur" in word.feats) == plural, sentence.comments["text"]


def test_relations_all_occur(sentences: list[Sentence]) -> None:
    """Every relation that the corpus promises is in it."""
    assert not set(RELATIONS.split()) - {word.relation for sentence in sentences for word in sentence.words}


def test_article_fits_the_next_sound(sentences: list[Sentence]) -> None:
    """`an` stands before a vowel sound and `a` before a consonant; the words with a deceptive letter are listed."""
    consonant_sound, vowel_sound = ("uni", "use", "eu", "one"), ("hour", "honest")
    for sentence in sentences:
        for word, later in pairwise(sentence.words):
            if word.form.lower() in ("a", "an"):
                sound = later.form.lower()
                vowel = sound.startswith(vowel_sound) or (sound[0] in "aeiou" and not sound.startswith(consonant_sound))
                assert (word.form.lower() == "an") == vowel, sentence.comments["text"]


def test_copulas_and_auxiliaries_agree(sentences: list[Sentence]) -> None:
    """A form of `be` that shows number shows its subject's."""
    for sentence in sentences:
        for word in sentence.words:
            subjects = [o for o in sentence.words if o.head == word.head and o.relation in ("nsubj", "nsubj:pass")]
            if word.lemma != "be" or word.relation not in ("cop", "aux", "aux:pass") or len(subjects) != 1:
                continue
            subject = subjects[0]
            joined = any(o.head == subject.number and o.relation == "conj" for o in sentence.words)
            plural = "Number=Plur" in subject.feats or joined
            if subject.upos in ("NOUN", "PROPN") and word.form in ("is", "was", "are", "were"):
                assert (word.form in ("are", "were")) == plural, sentence.comments["text"]


def test_curious_lines_are_many_and_distinct() -> None:
    """The hand-written file has at least 170 lines, no two alike, and the line that tests escaping."""
    lines = [line for line in CURIOUS.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert len(lines) >= 170
    assert len(set(lines)) == len(lines)
    assert sum("</script><img src=x onerror=alert(1)>" in line for line in lines) == 1

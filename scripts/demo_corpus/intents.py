"""Generate the labelled sentences: which ask, which state and which command, for training and for testing.

In: a seed. Out: two JSONL texts, the same for the same seed. No sentence stands in both, not even with another mark at its
end. Labels, topics and final marks are balanced, so that none of them gives a label away. Knows no file.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator

from demo_corpus.constructions import adverbials, complements, misleading, questions, statements, states
from demo_corpus.lexicon import Domain, load_lexicon
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.writer import clumsy, finish, plain_text

SEED = 21
TRAIN, TEST = 50, 10  # sentences of each label and topic
UNMARKED = 0.4  # of all sentences have no mark at their end, and half of those no capital
Build = Callable[[Scene], Node]
# label -> final mark, and (construction, share, how it is built)
PLAN: dict[str, tuple[str, tuple[tuple[str, int, Build], ...]]] = {
    "question": (
        "?",
        (
            ("yes-no", 4, misleading.polar_question),
            ("wh", 4, questions.wh_question),
            ("to-you", 3, misleading.question_to_you),
            ("tag", 3, misleading.tag_question),
            ("late", 3, misleading.late_question),
            ("do-you-know", 3, misleading.do_you_know),
        ),
    ),
    "statement": (
        ".",
        (
            ("plain", 3, statements.statement),
            ("passive", 1, statements.passive),
            ("copula", 1, states.copula),
            ("when", 2, adverbials.time_clause),
            ("quotation", 1, complements.quoted),
            ("reported-question", 3, misleading.reported_question),
            ("question-as-subject", 3, misleading.question_as_subject),
            ("about-you", 2, misleading.statement_about_you),
            ("late", 2, misleading.late_statement),
            ("told-to", 2, misleading.told_to),
        ),
    ),
    "command": (
        ".",
        (
            ("plain", 6, questions.command),
            ("ask", 4, misleading.command_to_ask),
            ("request", 4, misleading.request),
            ("late", 3, misleading.late_command),
            ("polite", 2, misleading.polite_command),
            ("never", 1, misleading.never),
        ),
    ),
}


def generate(seed: int = SEED) -> dict[str, str]:
    """Return the JSONL of `train` and `test`; the same seed gives the same text."""
    rng, used, seen = random.Random(seed), Counter[str](), set[str]()
    domains = list(load_lexicon()[0].values())
    parts = {}
    for part, count in (("train", TRAIN), ("test", TEST)):
        jobs = [
            (label, domain, construction)
            for label in PLAN
            for domain in domains
            for construction in constructions(label, count, rng)
        ]
        rng.shuffle(jobs)
        rows = (row(*job, rng, used, seen) for job in jobs)
        numbered = ({"id": f"{part}-{number:04d}", **fields} for number, fields in enumerate(rows, start=1))
        parts[part] = "".join(json.dumps(fields) + "\n" for fields in numbered)
    return parts


def constructions(label: str, count: int, rng: random.Random) -> Iterator[tuple[str, Build]]:
    """Yield as many constructions of a label as wanted, by their shares; the rest is drawn."""
    deck = [(name, build) for name, share, build in PLAN[label][1] for _ in range(share)]
    whole, rest = divmod(count, len(deck))
    yield from deck * whole
    yield from rng.sample(deck, rest)


def row(
    label: str,
    domain: Domain,
    construction: tuple[str, Build],
    rng: random.Random,
    used: Counter[str],
    seen: set[str],
) -> dict[str, str]:
    """Return a new sentence with its label, topic, construction and the mark at its end."""
    name, build = construction
    while True:
        words = finish(build(Scene(rng, domain, used)), PLAN[label][0])
        bare = plain_text(words if words[-1].xpos == "''" else words[:-1])
        wrong = clumsy(words) or any(word.form == "its" for word in words)  # who washed its plate
        if not wrong and bare.lower() not in seen and 3 <= len(words) <= 22:
            break
    seen.add(bare.lower())
    mark = "none" if words[-1].xpos == "''" else final_mark(label, name, rng)  # a quotation has its own, inside
    text = bare + mark.removeprefix("none")
    if mark == "none" and rng.random() < 0.5:
        text = text.lower()
    return {"text": text, "label": label, "topic": domain.name, "construction": name, "mark": mark}


def final_mark(label: str, construction: str, rng: random.Random) -> str:
    """Draw the mark at the end of a sentence."""
    if rng.random() < UNMARKED:
        return "none"
    if label == "command":
        return rng.choice("??." if construction == "request" else "..!")
    return PLAN[label][0]

"""Generate the whole corpus: how many sentences of which kind, drawn until each is new and reads well.

In: a seed. Out: the corpus as CoNLL-U, the same for the same seed. Knows no file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from demo_corpus.constructions import adverbials, complements, coordination, questions, relatives, statements, states
from demo_corpus.lexicon import load_lexicon
from demo_corpus.scene import Scene
from demo_corpus.trees import Node
from demo_corpus.writer import clumsy, finish, plain_text, to_conllu

SEED = 20
Build = Callable[[Scene], Node]
# kind, how many, final mark, how it is built
PLAN: tuple[tuple[str, int, str, Build], ...] = (
    ("statement", 110, ".", statements.statement),
    ("event", 30, ".", statements.things),
    ("double-object", 60, ".", statements.double_object),
    ("passive", 70, ".", statements.passive),
    ("relative", 40, ".", relatives.relative_subject),
    ("relative", 40, ".", relatives.relative_object),
    ("relative", 25, ".", relatives.relative_other),
    ("question", 50, "?", questions.yes_no),
    ("question", 60, "?", questions.wh_question),
    ("command", 60, ".", questions.command),
    ("coordination", 35, ".", coordination.list_of_nouns),
    ("coordination", 35, ".", coordination.list_of_verbs),
    ("pronoun", 40, ".", coordination.object_pronoun),
    ("subordinate", 45, ".", adverbials.time_clause),
    ("subordinate", 40, ".", adverbials.reason_clause),
    ("subordinate", 25, ".", adverbials.concession),
    ("subordinate", 25, ".", adverbials.condition),
    ("participle", 15, ".", adverbials.humming),
    ("copula", 50, ".", states.copula),
    ("existential", 20, ".", states.existential),
    ("speech", 45, ".", complements.quoted),
    ("report", 35, ".", complements.reported),
    ("infinitive", 35, ".", complements.control),
    ("purpose", 20, ".", adverbials.purpose),
    ("long", 30, ".", adverbials.many_clauses),
)


def generate(seed: int = SEED) -> str:
    """Return the whole corpus as CoNLL-U; the same seed gives the same text."""
    rng, used, seen = random.Random(seed), Counter[str](), set[str]()
    domains = list(load_lexicon()[0].values())
    jobs = [(kind, mark, build) for kind, count, mark, build in PLAN for _ in range(count)]
    rng.shuffle(jobs)
    blocks = []
    for number, (kind, mark, build) in enumerate(jobs, start=1):
        while True:
            scene = Scene(rng, domains[number % len(domains)], used)
            words = finish(build(scene), mark)
            text = plain_text(words)
            if text not in seen and 4 <= len(words) <= 28 and not clumsy(words):
                break
        seen.add(text)
        comments = (f"sent_id = demo-{number:04d}", f"text = {text}", f"kind = {kind}", f"genre = {scene.domain.name}")
        blocks.append(to_conllu(words, comments))
    return "".join(blocks)

"""Agreement: whether two mentions can be of one thing by number, gender and person.

In: the words of a mention, and its annotation where there is any. Out: what is known of it. Knows no index. The lists are
short, of English, and our own: names tell no gender, and what is not known agrees with everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SING, _PLUR, _MASC, _FEM, _NEUT = "sing", "plur", "masc", "fem", "neut"
Triple = tuple[str | None, str | None, str | None]


def listed(words: str) -> frozenset[str]:
    """Return the words of a list that is written with spaces."""
    return frozenset(words.split())


def _alike(forms: str, traits: Triple) -> dict[str, Triple]:
    return dict.fromkeys(forms.split(), traits)


PRONOUNS: dict[str, Triple] = {
    **_alike("i me my mine myself", (_SING, None, "1")),
    **_alike("we us our ours ourselves", (_PLUR, None, "1")),
    **_alike("you your yours", (None, None, "2")),
    **_alike("yourself", (_SING, None, "2")),
    **_alike("yourselves", (_PLUR, None, "2")),
    **_alike("he him his himself", (_SING, _MASC, "3")),
    **_alike("she her hers herself", (_SING, _FEM, "3")),
    **_alike("it its itself", (_SING, _NEUT, "3")),
    **_alike("they them their theirs themselves", (_PLUR, None, "3")),
    **_alike("this that", (_SING, None, "3")),
    **_alike("these those", (_PLUR, None, "3")),
    **_alike("who whom whose which", (None, None, "3")),
    **_alike("one someone somebody everyone everybody anyone anybody nobody", (_SING, None, "3")),
    **_alike("something everything anything nothing", (_SING, _NEUT, "3")),
}
_MASCULINE = listed(
    "mr sir lord king prince duke count baron emperor man boy gentleman father dad son brother uncle nephew husband "
    "grandfather grandson stepfather widower groom actor waiter monk priest policeman fisherman salesman businessman"
)
_FEMININE = listed(
    "mrs ms miss madam lady queen princess duchess countess empress woman girl mother mom mum daughter sister aunt niece wife "
    "grandmother granddaughter stepmother widow bride actress waitress nun policewoman businesswoman saleswoman"
)


@dataclass(frozen=True, slots=True)
class Traits:
    """Number (sing, plur), gender (masc, fem, neut) and person (1, 2, 3) of a mention; None is not known."""

    number: str | None = None
    gender: str | None = None
    person: str | None = None


def traits(words: Sequence[str], head: str, *, xpos: str | None = None, feats: str | None = None) -> Traits:
    """Return what is known of a mention: by the FEATS and the XPOS (Penn) of its head word, else by the lists.

    Several joined by "and" are plural. words and head are in lower case.
    """
    given = dict(pair.partition("=")[::2] for pair in (feats or "").split("|"))
    number, gender, person = PRONOUNS.get(head, (None, None, "3"))
    if head not in PRONOUNS:
        number = _PLUR if xpos in ("NNS", "NNPS") else _SING if xpos in ("NN", "NNP") else None
        stated = {_MASC if word in _MASCULINE else _FEM for word in words if word in _MASCULINE | _FEMININE}
        gender = stated.pop() if len(stated) == 1 else None
    number, gender, person = (
        given.get(name, known or "").lower() or None
        for name, known in (("Number", number), ("Gender", gender), ("Person", person))
    )
    return Traits(_PLUR, None, person) if "and" in words else Traits(number, gender, person)


def agree(one: Traits, other: Traits) -> bool:
    """Tell whether nothing that is known of both tells them apart."""
    pairs = ((one.number, other.number), (one.gender, other.gender), (one.person, other.person))
    return all(a is None or b is None or a == b for a, b in pairs)

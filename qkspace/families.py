"""Families: which of transformers' model types can be captured, as surveyed when this version was released.

In: `families.json`, written by scripts/check_families.py. Out: records, and the table of them as text or Markdown. Knows no
models: nothing is run here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkspace.schema import QKSpaceError

FILE = Path(__file__).with_name("families.json")
STATUSES = ("verified", "refused", "no attention", "not instantiated")


@dataclass(frozen=True, slots=True)
class FamilyPart:
    """One kind of attention of a family: how it is captured, how its position part is stored, and how exact it is.

    `error` is a power of ten that neither captured nor recomputed attention is further from the model's own than.
    """

    name: str
    route: str
    layers: int
    positions: tuple[str, ...]
    softcap: bool
    sink: bool
    against: str
    error: float

    @property
    def form(self) -> str:
        """What is added to, or done with, the product: "none" or for instance "offset, softcap"."""
        kinds = [kind for kind in self.positions if kind != "none"]
        kinds += [name for name, has in (("softcap", self.softcap), ("sink", self.sink)) if has]
        return ", ".join(kinds) or "none"


@dataclass(frozen=True, slots=True)
class Family:
    """One model type and what the survey found; `reason` says why where it is not verified.

    `unseen`: softmaxes over a product that run in its forward pass outside its parts (pooling by attention, for instance).
    """

    model_type: str
    status: str
    class_name: str
    modality: str
    inputs: tuple[str, ...]
    parts: tuple[FamilyPart, ...]
    unseen: int
    reason: str

    @property
    def is_complete(self) -> bool:
        """Whether it is verified and all softmaxes over products in its forward pass belong to its parts."""
        return self.status == "verified" and self.unseen == 0

    @property
    def fed(self) -> str:
        """The names of its inputs that are neither masks nor sizes."""
        return ", ".join(name for name in self.inputs if not name.endswith(("mask", "_thw", "sizes", "shapes")))


@dataclass(frozen=True, slots=True)
class Survey:
    """All families, with the versions that they were surveyed with, and the model types that were not attempted."""

    versions: dict[str, str]
    families: tuple[Family, ...]
    left_out: dict[str, str]

    def count(self, *statuses: str) -> int:
        """Return how many families have one of these statuses."""
        return sum(family.status in statuses for family in self.families)

    @property
    def n_made(self) -> int:
        """Families that could be instantiated and run."""
        return self.count("verified", "refused", "no attention")

    @property
    def share(self) -> float:
        """The verified among those that run and have attention."""
        return self.count("verified") / max(self.count("verified", "refused"), 1)


def read(path: Path = FILE) -> Survey:
    """Read a survey.

    Raises:
        QKSpaceError: the file is missing or no survey.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        families = tuple(_family(record) for record in content["families"])
        return Survey(dict(content["versions"]), families, dict(content["left_out"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QKSpaceError(
            f"{path} is no survey of model types ({error}). Write one by: python scripts/check_families.py"
        ) from error


def _family(record: dict[str, Any]) -> Family:
    parts = tuple(FamilyPart(**{**part, "positions": tuple(part["positions"])}) for part in record["parts"])
    return Family(
        model_type=record["model_type"],
        status=record["status"],
        class_name=record.get("class", ""),
        modality=record.get("modality", ""),
        inputs=tuple(record.get("inputs", ())),
        parts=parts,
        unseen=record.get("unseen", 0),
        reason=record.get("reason", ""),
    )


def summary(survey: Survey) -> str:
    """Return the counts in one sentence or two."""
    versions = survey.versions
    return (
        f"{len(survey.families)} model types of transformers {versions['transformers']} were attempted (torch "
        f"{versions['torch']}): {survey.n_made} could be instantiated small and run, "
        f"{survey.count('verified', 'refused')} of them have attention, and of {survey.count('verified')} of these "
        f"({survey.share:.0%}) qkspace captures every part equal to the model's own attention within 1e-4."
    )


def as_text(survey: Survey, word: str = "") -> str:
    """Return the table for a terminal, of the model types whose name or class contains `word`.

    Raises:
        QKSpaceError: no model type does.
    """
    chosen = [
        f for f in survey.families if word.lower() in f.model_type.lower() or word.lower() in f.class_name.lower()
    ]
    if not chosen:
        raise QKSpaceError(f"No model type of transformers {survey.versions['transformers']} contains {word!r}.")
    rows = [("model type", "status", "modality", "parts")]
    rows += [(f.model_type, f.status, f.modality, _parts(f) or _one_line(f.reason, 90)) for f in chosen]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    ]
    return "\n".join([*lines, "", summary(survey)] if not word else lines)


def _parts(family: Family) -> str:
    return "; ".join(
        f"{part.name} ({part.route}, {part.layers} layers{'' if part.form == 'none' else ', ' + part.form})"
        for part in family.parts
    )


def _one_line(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def as_markdown(survey: Survey) -> str:
    """Return docs/models.md: the counts, the table of what has attention, and the rest by reason."""
    counts: list[tuple[str, object]] = [("attempted", len(survey.families)), ("instantiated and run", survey.n_made)]
    counts += [("of these without attention", survey.count("no attention"))]
    counts += [("of these with attention", survey.count("verified", "refused"))]
    counts += [("**verified**", survey.count("verified"))]
    counts += [("of these with no attention outside of the parts", sum(f.is_complete for f in survey.families))]
    counts += [("share verified of those with attention", f"{survey.share:.1%}")]
    counts += [("refused", survey.count("refused")), ("not instantiated", survey.count("not instantiated"))]
    with_attention = [f for f in survey.families if f.status in ("verified", "refused")]
    return "\n".join(
        [
            "# Which models qkspace captures",
            "",
            "Generated by `python scripts/check_families.py`; not edited by hand. " + summary(survey),
            "",
            "Every model type is built with two layers or a few more, small, with random weights, and run on a batch of two,",
            "padded where it has lengths. The self-check is the one that `qkspace build` makes first:",
            "*verified* means that every part's attention, as captured and as rebuilt from queries, keys and position part,",
            "equals the model's own within 1e-4 in every weight. *Against* says what the model's own is: the attentions it",
            "reports, or, where it reports none, the softmax of its forward pass. A model of a family that is not verified",
            "here may still work: it is checked again when it is loaded.",
            "",
            *_markdown_table(("", "model types"), counts),
            "",
            "## Families with attention",
            "",
            "A *part* is what `--attention` names. *Route*: `interface` is transformers' own attention interface, `inline` the",
            "watched forward pass. *Position part*: what is added to the scaled product and how it is stored (`offset`: by",
            "distance; `grid`: by pair of places; `sequence`: by sequence), soft caps, sinks. *Error*: not larger than this.",
            "",
            *_markdown_table(
                ("model type", "class", "fed with", "part", "route", "layers", "position part", "against", "error"),
                [row for family in with_attention for row in _rows(family)],
            ),
            "",
            "## Refused",
            "",
            *_by_reason([f for f in survey.families if f.status == "refused"]),
            "## Verified, with attention outside of the parts",
            "",
            "In these forward passes an independent count finds more softmaxes over products of vectors than the parts above",
            "have layers (pooling by attention, another tower's own way). Those are not captured: ",
            ", ".join(f"`{f.model_type}` ({f.unseen})" for f in survey.families if f.status == "verified" and f.unseen)
            + ".",
            "",
            "## No attention",
            "",
            "No softmax over a product of vectors runs in their forward pass, and their outputs hold no attentions:",
            ", ".join(f"`{f.model_type}`" for f in survey.families if f.status == "no attention") + ".",
            "",
            "## Not instantiated",
            "",
            "No small model, or no inputs for it, were found by the survey; this says nothing about capture.",
            "",
            *_by_reason([f for f in survey.families if f.status == "not instantiated"]),
            "## Not attempted",
            "",
            *(f"- {reason} ({n})" for reason, n in sorted(Counter(survey.left_out.values()).items())),
            "",
        ]
    )


def _rows(family: Family) -> list[tuple[object, ...]]:
    name = (f"`{family.model_type}`", f"`{family.class_name}`", family.fed)
    if not family.parts:
        return [(*name, "refused", "", "", "", "", "")]
    return [
        (*name, part.name, part.route, part.layers, part.form, part.against, f"{part.error:.0e}")
        for part in family.parts
    ]


def _by_reason(families: Iterable[Family]) -> list[str]:
    """Return a list of reasons, each with its families; names within a reason do not divide it."""
    grouped: dict[str, list[str]] = {}
    for family in families:
        reason = family.reason.replace(family.class_name, "…") if family.class_name else family.reason
        grouped.setdefault(_one_line(reason, 200), []).append(family.model_type)
    lines = [
        f"- {_escaped(reason)}: {', '.join(f'`{name}`' for name in names)}"
        for reason, names in sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return [*(lines or ["None."]), ""]


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_escaped(str(cell)) for cell in line) + " |" for line in lines]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")

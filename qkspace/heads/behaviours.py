"""Behaviours: previous-token, duplicate-token, induction, sink and positional heads, and where heads of images look.

In: an index, and the model that it was made of. Out: a table of scores, each beside what equal attention would score. The
scores on repeated random tokens need the model (`qkspace.heads.repeated`); all others are read off the index.

    found = analyse(index)
    found.tables["behaviours"].nlargest(5, "induction")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qkspace.console import SILENT, Console
from qkspace.heads import repeated as random_tokens
from qkspace.heads.found import Found
from qkspace.heads.places import OF_IMAGES, of_index
from qkspace.heads.repeated import KINDS
from qkspace.index import Index
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.model import Device

Float64Array = NDArray[np.float64]
OF_TEXT = {  # statistics of the index, over the whole corpus, by what they are called here
    "previous_token_text": "attention_to_previous",
    "next_token_text": "attention_to_next",
    "self_text": "attention_to_self",
    "sink": "attention_to_first",
}
LEAST = 0.4  # of a score that gives a head its label,
LEAST_POSITIONAL = 0.8  # of one that is positional,
LEAST_GAIN = 0.2  # and of either over what equal attention scores


def analyse(
    index: Index,
    *,
    n_sequences: int = 32,
    length: int = 50,
    seed: int = 0,
    model: str | None = None,
    repeated: Literal["auto"] | bool = "auto",
    device: Device = "auto",
    trust_remote_code: bool = False,
    console: Console = SILENT,
) -> Found:
    """Score what each head of an index does, after the behaviours that are known of heads of many models.

    Args:
        index: an index of any part of any model.
        n_sequences: random sequences that come twice; errors are over these.
        length: random tokens of a half; fewer where the model's context holds no two halves of it.
        seed: of random tokens, and of the queries that `positional` is measured on.
        model: where the checkpoint is, if not where it was at the build.
        repeated: whether to score repeated random tokens, which needs the model: "auto" does where it can, and says in the
            note of the table why not; True fails then.
        device: where the model runs; "auto" takes a GPU where there is one.
        trust_remote_code: run code that comes with the checkpoint.
        console: where progress is shown.

    Returns:
        One table, "behaviours", a row a head; docs/heads.md says what each column is. Scores are shares of attention, 0 to
        1, nan where one means nothing; `NAME_uniform` is what equal attention scores, `NAME_error` half of the 95 % interval.

    Raises:
        QKSpaceError: `repeated` is True and cannot be, or an option is out of range.
    """
    import pandas as pd

    if n_sequences < 1 or length < 2:
        raise QKSpaceError(
            f"Repeated random tokens need n_sequences of 1 or more and a length of 2 or more; got {n_sequences} and {length}."
        )
    layers = index.layers
    table = pd.DataFrame([(i, head) for i, layer in enumerate(layers) for head in range(layer.n_heads)])
    table.columns = pd.Index(["layer", "head"])
    asked = _Asked(n_sequences, length, seed, model, device, trust_remote_code)
    scores, said = _repeated(index, asked, repeated, console)
    table = table.join(scores)
    statistics = index.table("heads").set_index(["layer", "head"])
    for name, column in OF_TEXT.items():
        values = statistics[column] if column in statistics else pd.Series(np.nan, index=statistics.index)
        table = table.join(values.rename(name), on=["layer", "head"])
    read, n_queries = of_index(index, seed, console)
    table = table.join(read)
    table["label"] = _labels(table)
    table.attrs["note"] = _note(said, n_queries)
    named = (*KINDS, "positional", *OF_IMAGES)
    columns = tuple(name for name in named if name in table and table[name].notna().any())
    parameters = {"n_sequences": n_sequences, "length": length, "seed": seed, "repeated": repeated, "measured": said}
    return Found({"behaviours": table}, columns, parameters)


def _note(said: str, n_queries: int) -> str:
    return (
        f"Shares of attention, 1 all and 0 none, beside what equal attention would give (_uniform); {said}; positional: the "
        f"share of attention that place alone foretells, over {n_queries:,} queries of the corpus, 1 for a head that looks at "
        "no token."
    )


def _labels(table: pd.DataFrame) -> list[str]:
    """Name of each head the behaviour that it shows most of, if that is much and clearly more than by chance; "" for none."""
    names = [name for name in (*KINDS, *OF_IMAGES) if name in table]
    value, equal = (table[[f"{name}{s}" for name in names]].to_numpy(dtype=np.float64) for s in ("", "_uniform"))
    clear = np.where((value >= LEAST) & (value - equal >= LEAST_GAIN), value, 0)  # nan is not
    labels = np.where(clear.any(axis=1), np.array(names)[clear.argmax(axis=1)], "")
    gain = table["positional"] - table["positional_uniform"]
    is_positional = ((table["positional"] >= LEAST_POSITIONAL) & (gain >= LEAST_GAIN)).to_numpy()
    return [str(label) for label in np.where((labels == "") & is_positional, "positional", labels)]


# ---------------------------------------------------------------------------------------------- random tokens


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which random tokens, and where the model is: arguments of `analyse`."""

    n_sequences: int
    length: int
    seed: int
    model: str | None
    device: Device
    trust_remote_code: bool


def _repeated(
    index: Index, asked: _Asked, wanted: Literal["auto"] | bool, console: Console
) -> tuple[pd.DataFrame, str]:
    """Return the scores on repeated random tokens, one row a head, and what to say of them; nan and why where there are none.

    Raises:
        QKSpaceError: they are wanted whatever comes, and cannot be had.
    """
    reason = "not asked for"
    if wanted is not False:
        try:
            return _on_random_tokens(index, asked, console)
        except QKSpaceError as error:
            if wanted is True:
                raise
            reason = str(error).rstrip(".")
            console.say(f"No scores on random tokens: {reason}.")
    nothing = np.full(sum(layer.n_heads for layer in index.layers), np.nan)
    names = [f"{kind}{suffix}" for kind in KINDS for suffix in ("", "_uniform", "_error")]
    return _frame(dict.fromkeys(names, nothing)), f"not measured on random tokens ({reason})"


def _on_random_tokens(index: Index, asked: _Asked, console: Console) -> tuple[pd.DataFrame, str]:
    from qkspace.live import checkpoint_of
    from qkspace.model import context_length

    run = _run_of(index)
    checkpoint = checkpoint_of(index, asked.model, device=asked.device, trust_remote_code=asked.trust_remote_code)
    around = random_tokens.frame(checkpoint, _first_line(index))
    n_added = len(around[0]) + len(around[1]) + (run.part in ("decoder", "cross"))
    length = random_tokens.fitting(asked.length, context_length(checkpoint), n_added)
    halves = random_tokens.draw(random_tokens.ordinary_ids(checkpoint), asked.n_sequences, length, seed=asked.seed)
    sides = random_tokens.sides(checkpoint, halves, around, part=run.part)
    layers = random_tokens.measure(checkpoint, run, *sides, console=console)
    said = f"on {asked.n_sequences} sequences of {length} random tokens that come twice, the mean over the second time"
    return _frame(_summed_up(layers)), said


def _first_line(index: Index) -> str:
    """Return a text that the tokenizer can read, as the corpus has it."""
    lines = str(index.sequences["text"].iloc[0]).splitlines()
    return next((line for line in lines if line.strip()), "")[:1000]


def _run_of(index: Index) -> random_tokens.Run:
    """Return how the attention of an index was captured.

    Raises:
        QKSpaceError: it is of no text.
    """
    check, modality = index.manifest["check"], index.manifest.get("modality", "text")
    if modality != "text":
        raise QKSpaceError(f"this index is of {modality}, which has no tokens of a vocabulary that could be repeated")
    part, calls = check.get("part", "self"), check.get("calls") or range(index.n_layers)
    crosses = "cross" if any(layer.crosses for layer in index.layers) else part
    return random_tokens.Run(
        crosses, check.get("route", "interface"), check.get("runner", ""), tuple(calls), index.n_heads
    )


def _summed_up(layers: list[random_tokens.Scores]) -> dict[str, Float64Array]:
    """Return mean, uniform and error of each kind over sequences, heads of all layers one after another."""
    columns: dict[str, list[Float64Array]] = {}
    for layer in layers:
        n, n_heads = layer.value.shape[:2]
        error = 1.96 * layer.value.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(layer.value.shape[1:], np.nan)
        for kind, name in enumerate(KINDS):
            columns.setdefault(name, []).append(layer.value[:, :, kind].mean(axis=0))
            columns.setdefault(f"{name}_uniform", []).append(np.full(n_heads, layer.uniform[:, kind].mean()))
            columns.setdefault(f"{name}_error", []).append(error[:, kind])
    return {name: np.concatenate(values) for name, values in columns.items()}


def _frame(columns: dict[str, Float64Array]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)

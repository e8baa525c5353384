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

from qkspace.behaviour import RatioSums
from qkspace.console import SILENT, Console
from qkspace.heads import repeated as random_tokens
from qkspace.heads.found import Found
from qkspace.heads.places import OF_IMAGES, of_index
from qkspace.heads.repeated import KINDS
from qkspace.index import Index
from qkspace.schema import FloatArray, IntArray, QKSpaceError

if TYPE_CHECKING:
    import pandas as pd

    from qkspace.model import Device

OF_TEXT = {  # statistics of the index, over the whole corpus, by what they are called here
    "previous_token_text": "attention_to_previous",
    "next_token_text": "attention_to_next",
    "self_text": "attention_to_self",
    "sink": "attention_to_first",
}


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
        One table, "behaviours", a row a head; docs/heads_behaviours.md says what each column is. Scores are shares of
        attention, 0 to 1, nan where one means nothing; `NAME_uniform` is what equal attention scores, `NAME_error` half of
        the 95 % interval.

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
    scores, said, length_read = _repeated(index, asked, repeated, console)
    table = table.join(scores)
    statistics = index.table("heads").set_index(["layer", "head"])
    for name, column in OF_TEXT.items():
        values = statistics[column] if column in statistics else pd.Series(np.nan, index=statistics.index)
        table = table.join(values.rename(name), on=["layer", "head"])
    read, n_queries = of_index(index, seed, console)
    table = table.join(read)
    table.attrs["note"] = _note(said, n_queries)
    if length_read:  # else the note says why none was
        on_random = ["how_random", {"n_sequences": n_sequences, "length": length_read}]
        table.attrs["told"] = [on_random, ["how_positional", {"n_queries": int(n_queries)}]]
    measured = [name for name in (*KINDS, "positional", *OF_IMAGES) if name in table and table[name].notna().any()]
    columns = tuple(f"{name}{end}" for name in measured for end in ("", "_uniform"))
    parameters = {"n_sequences": n_sequences, "length": length, "seed": seed, "repeated": repeated, "measured": said}
    return Found({"behaviours": table}, columns, parameters)


def _note(said: str, n_queries: int) -> str:
    return (
        f"Shares of attention, 1 all and 0 none, beside what equal attention would give (_uniform); {said}; positional: the "
        f"share of attention that place alone foretells, over {n_queries:,} queries of the corpus, 1 for a head that looks at "
        "no token."
    )


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
) -> tuple[pd.DataFrame, str, int]:
    """Return the scores on repeated random tokens, one row a head, what to say of them, and how many are repeated.

    Where there are none: nan, why, and 0.

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
    return _frame(dict.fromkeys(names, nothing)), f"not measured on random tokens ({reason})", 0


def _on_random_tokens(index: Index, asked: _Asked, console: Console) -> tuple[pd.DataFrame, str, int]:
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
    return _frame(_summed_up(layers)), said, length


def _first_line(index: Index) -> str:
    """Return a text that the tokenizer can read, as the corpus has it: its first line that is not blank."""
    lines = (line for text in index.sequences["text"] for line in str(text).splitlines())
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


def _summed_up(layers: list[random_tokens.Scores]) -> dict[str, FloatArray]:
    """Return mean, uniform and error of each kind over the queries of all sequences, heads of all layers one after another."""
    columns: dict[str, list[FloatArray]] = {}
    for layer in layers:
        for kind, name in enumerate(KINDS):
            of_kind = layer.count[:, kind], layer.value[:, :, kind], layer.uniform[:, kind, None]
            value, equal, error = _pooled(*of_kind)
            columns.setdefault(name, []).append(value)
            columns.setdefault(f"{name}_uniform", []).append(np.broadcast_to(equal, value.shape))
            columns.setdefault(f"{name}_error", []).append(error)
    return {name: np.concatenate(values) for name, values in columns.items()}


def _pooled(count: IntArray, value: FloatArray, equal: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the means of values (sequence, head) and of equal attention (sequence, 1) over queries, and the values' error.

    count: (sequence), queries that each is a mean of; where it is 0, they are nan and left out.
    """
    values, equals = RatioSums(value.shape[1:]), RatioSums((1,))
    for n, one, other in zip(count, value, equal, strict=True):
        if n:
            values.add(n * one, float(n))
            equals.add(n * other, float(n))
    if not values.n:
        return np.full(value.shape[1], np.nan), np.full(1, np.nan), np.full(value.shape[1], np.nan)
    mean, error = values.ratio()
    return mean, equals.ratio()[0], error


def _frame(columns: dict[str, FloatArray]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)

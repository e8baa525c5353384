"""Found: what an analysis of the heads hands to whoever keeps or shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The tables of an analysis by name, and what of them is to be said of each head (`qkspace.heads.kept.keep`).

    parameters: what was asked for, with what was left to the analysis filled in.
    """

    tables: Mapping[str, pd.DataFrame]
    head_columns: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

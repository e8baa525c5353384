"""qkspace: how attention behaves over a whole corpus.

    import qkspace
    index = qkspace.build("bert-base-uncased", "corpus.txt", out="out/corpus")
    index.head(layer=3, head=5).links(top=100)

Importing this is instant: torch, bokeh and the projection engines are imported where they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

# At once, and not when first used: the module has the function's name, and whoever imported it first would win.
from qkspace.attention_view import attention_view
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qkspace.comparison.reader import Comparison
    from qkspace.index import Index

__version__ = "0.1.0"
__all__ = ["QKSpaceError", "__version__", "attention_view", "build", "compare", "open", "open_comparison"]


def open(path: str | Path) -> Index:  # named after the builtin, as in numpy, PIL or h5py: qkspace.open(...)
    """Open the index in a folder.

    Raises:
        QKSpaceError: no finished index is there.
    """
    from qkspace.index import Index

    return Index(path)


def build(
    model: str,
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,  # the fields of qkspace.plan.Parameters
) -> Index:
    """Make an index of a checkpoint and a corpus, or go on with an unfinished one, and return it.

    Args:
        model: folder or name of a checkpoint.
        corpus: file, folder, name of a data set or "-", or several of them.
        out: folder of the index.
        overwrite: replace an index of something else that stands there.
        progress: show progress bars.
        **options: what `qkspace.plan.Parameters` lists, such as methods=["pca"], dims=[2], max_tokens=10_000.

    Raises:
        QKSpaceError: something about model, corpus, options or disk that needs the user.
    """
    from qkspace.console import Console
    from qkspace.pipeline import build

    return build(model, corpus, out=out, overwrite=overwrite, console=Console(int(progress)), **options)


def open_comparison(path: str | Path) -> Comparison:
    """Open the comparison in a folder.

    Raises:
        QKSpaceError: no finished comparison is there.
    """
    from qkspace.comparison.reader import Comparison

    return Comparison(path)


def compare(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path,
    names: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,  # the fields of qkspace.plan.Parameters
) -> Comparison:
    """Compare tuned checkpoints with their base over a corpus, or go on with an unfinished comparison, and return it.

    Args:
        base: folder or name of a checkpoint (NAME@REVISION), or folder of an index.
        tuned: one or several: the same, or the folder of a LoRA adapter of the base.
        corpus: what `build` takes; not needed where the base is an index whose corpus is still where it was.
        out: folder of the comparison.
        names: what to call the checkpoints, the base first.
        overwrite: replace a comparison of something else that stands there.
        progress: show progress bars.
        **options: what `qkspace.plan.Parameters` lists; methods and dims are the base's maps.

    Raises:
        QKSpaceError: what cannot be compared, with the reason.
    """
    from qkspace.comparison.build import compare
    from qkspace.console import Console

    console = Console(int(progress))
    return compare(base, tuned, corpus, out=out, names=names, overwrite=overwrite, console=console, **options)

"""Plotted: the matrix of attention that the page of plots shows, which is also what it saves.

In: a `Scene`. Out: a `Matrix`, of at most so many tokens as its plot takes. Knows no widget and draws nothing.
"""

from __future__ import annotations

from qkspace.app.select import Scene, sequence_of
from qkspace.live import LiveSequence
from qkspace.matrix import Matrix, matrix_of

MOST = {
    "heatmap": 512,
    "received": 1024,
    "bars": 48,
    "scatter": 64,
}  # tokens that a plot shows; of more, those around the clicked
IN_SPACE = ("bars", "scatter")  # plots that are seen from somewhere


def plotted_matrix(scene: Scene) -> Matrix:
    """Return the matrix of the sequence, or of the visitor's own, that is shown."""
    state, index = scene.state, scene.shown.index
    of_head, most = None if state.averaged else state.head, MOST[state.plot]
    sequence = sequence_of(scene.shown, state) if scene.live is None else scene.live
    if isinstance(sequence, LiveSequence):
        n, at = len(sequence.tokens), 0
    else:
        rows, n_source = index.rows(sequence), index.n_source(index.place(sequence))
        n, at = rows.stop - rows.start, (clicked_row(scene) or rows.start) - rows.start
        if index.layers[state.layer].crosses and n_source is not None:  # near the border: one side asks the other
            at = min(max(at, n_source - most // 4), n_source + most // 4)
    first = max(0, min(at - most // 2, n - most))
    tokens = None if n <= most else (first, first + most)
    return matrix_of(index, sequence, layer=state.layer, head=of_head, tokens=tokens)


def clicked_row(scene: Scene) -> int | None:
    """Return the row of the clicked token, where it is of what is shown."""
    return None if scene.live is not None or scene.state.selected is None else scene.state.selected[1]

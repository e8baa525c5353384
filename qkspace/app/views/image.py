"""Image: the attention of a layer over one image.

In: a `Scene`. Out: what `static/image_view.js` draws (heat map, strongest arrow, flow, all heads of the layer), a layer at a
time. What the visitor does there comes back by `told`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS, Div
from numpy.typing import NDArray

from qkspace.app.language import strings
from qkspace.app.pictures import Album, encoded, pixels, uri
from qkspace.app.scripts import script
from qkspace.app.select import Scene, Shown, sequence_of
from qkspace.app.state import State
from qkspace.app.style import PANEL
from qkspace.schema import FloatArray

MOST_WEIGHTS = 12_000_000  # of a layer that are sent; of a larger one the chosen head alone
LEVELS = 65_535


def quantise(attention: FloatArray) -> NDArray[np.uint16]:
    """Return attention as round(65535 * sqrt(weight)): to 0.00002."""
    return np.asarray(np.rint(np.sqrt(np.clip(attention, 0, 1)) * LEVELS), dtype=np.uint16)


class ImageView:
    """Which patches of an image attend to which."""

    def __init__(self, shown: Shown, state: State, change: Callable[..., None], album: Album) -> None:
        """Make an empty place for the picture."""
        self.shown, self.change, self.album = shown, change, album
        self.scene: Scene | None = None
        self.sent: set[tuple[int, int, int | None]] = set()  # image, layer, and the head where it was sent alone
        self.turn = 0
        self.host = Div(sizing_mode="stretch_both", margin=0, name="image", styles={"position": "relative"})
        self.root = column(self.host, sizing_mode="stretch_both", styles={**PANEL, "padding": "8px 10px"}, margin=0)
        known = strings(state.language)
        own = {name.removeprefix("image_"): text for name, text in known.items() if name.startswith("image_")}
        self.strings = own | {"flow": known["flow"], "flow_help": known["flow_tip"]}

    def wire(self, page: Any, place: ColumnDataSource) -> CustomJS:
        """Let the browser draw what is sent, and tell `page` what the visitor does; see `SentenceView.wire`."""
        args = {"host": self.host, "page": page, "strings": self.strings}
        draw = CustomJS(code=script("image_view") + script("image"), args=args)
        self.host.js_on_change("tags", draw)
        place.js_on_change("data", draw)
        return draw

    def show(self, scene: Scene) -> None:
        """Send the image where it is another one, its attention in a layer where it was not sent yet, and what is chosen."""
        self.scene, state = scene, scene.state
        place = self._place(scene)
        if not any(image == place for image, _, _ in self.sent):
            self.sent = set()
        is_whole = self.album.n_tokens**2 * self.shown.index.layers[state.layer].n_heads <= MOST_WEIGHTS
        what = (place, state.layer, None if is_whole else state.head)
        data = None if what in self.sent else self._attention(place, state, whole=is_whole)
        if data is not None and not self.sent:
            data |= self._picture(place)
        self.sent = {each for each in self.sent if is_whole or each[1] != state.layer} | {what}
        selected = None
        if state.selected is not None:
            selected = {"side": state.selected[0], "token": self.album.place_of(state.selected[1])[1]}
        self.turn += 1
        chosen = {"layer": state.layer, "head": state.head, "selected": selected, "flow": state.flow}
        self.host.tags = [self.turn, data, chosen]

    def told(self, now: dict[str, Any]) -> None:
        """Take over what the visitor chose: a token as query or key, a head, a layer, the flow, or another image."""
        if self.scene is None:
            return
        place = self._place(self.scene)
        if "step" in now:
            self._step(place, 1 if int(now["step"]) > 0 else -1)
        if "head" in now:
            self.change(head=int(np.clip(int(now["head"]), 0, self.shown.index.n_heads - 1)))
        if "layer" in now:
            self.change(layer=int(np.clip(int(now["layer"]), 0, self.shown.index.n_layers - 1)))
        if "flow" in now:
            self.change(flow=bool(now["flow"]))
        selected = now.get("selected")
        if selected is not None and 0 <= int(selected["token"]) < self.album.n_tokens:
            side = "key" if selected["side"] == "key" else "query"
            self.change(selected=(side, place * self.album.n_tokens + int(selected["token"])))

    def _step(self, place: int, by: int) -> None:
        """Go to the next or the last image, of those with hits where there is a search; the chosen patch stays where it is."""
        scene = self.scene
        assert scene is not None  # `told` asks only then
        places = np.arange(len(self.shown.index.sequences))
        if scene.hits is not None and len(scene.hits.sequences):
            numbers = self.shown.index.sequences["sequence"].to_numpy()
            places = np.searchsorted(numbers, scene.hits.sequences["sequence"].to_numpy())
        beyond = places[places > place] if by > 0 else places[places < place][::-1]
        new = int(beyond[0] if len(beyond) else places[0 if by > 0 else -1])
        sequence = int(self.shown.index.sequences["sequence"].iloc[new])
        if scene.state.selected is None:
            self.change(sequence=sequence)
            return
        kind, row = scene.state.selected
        at = self.album.place_of(row)[1]
        self.change(selected=(kind, new * self.album.n_tokens + at), sequence=sequence)

    # ---------------------------------------------------------------- what is sent

    def _place(self, scene: Scene) -> int:
        return self.shown.index.place(sequence_of(self.shown, scene.state))

    def _attention(self, place: int, state: State, *, whole: bool) -> dict[str, Any]:
        """Return the attention of a layer, of all its heads or of the chosen one: (head, query, key)."""
        index = self.shown.index
        sequence = int(index.sequences["sequence"].iloc[place])
        heads = list(range(index.layers[state.layer].n_heads)) if whole else [state.head]
        weights = np.concatenate([quantise(index.head(state.layer, h).attention(sequence)).ravel() for h in heads])
        return {"id": f"{index.root}/{place}", "layer": state.layer, "heads": heads, "attention": weights}

    def _picture(self, place: int) -> dict[str, Any]:
        """Return the picture and how it is cut."""
        album, index = self.album, self.shown.index
        height, width = pixels(album, place).shape[:2]
        start = place * album.n_tokens
        return {
            "picture": uri(encoded(album, place)),
            "width": width,
            "height": height,
            "rows": album.rows,
            "columns": album.columns,
            "nPrefix": album.n_prefix,
            "patchWidth": album.patch_width,
            "patchHeight": album.patch_height,
            "tokens": index.tokens["text"].iloc[start : start + album.n_tokens].astype(str).tolist(),
            "name": album.caption(place),
            "number": place,
            "total": len(index.sequences),
            "nLayers": index.n_layers,
        }

    def paint(self, theme: str) -> None:
        """Nothing: the picture takes its colours from the page."""

"""Lists: what is selected, the sequences, the scores of a head, and how it stands with what was asked for, as HTML.

In: a `Scene`. Out: HTML in the visitor's language, in which every text of the corpus is escaped. A button's data-go is what a
click on it shows, in the words of an address (`qkspace.app.state`).
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pandas as pd

from qkspace.app import image_words
from qkspace.app.language import say
from qkspace.app.pictures import album_of
from qkspace.app.select import KINDS, Scene, Shown, region_rows, sequence_of
from qkspace.app.state import Language, Page, State
from qkspace.app.words import plain

if TYPE_CHECKING:
    from qkspace.live import LiveSequence

MAX_ROWS = 60  # of a selection that are listed; the file has them all
MAX_TEXTS = 12  # that are commonest, with their counts
MAX_IMAGES = 8  # with hits, beside the map
CHIP_TEXT = 24  # characters of a token that is counted
LIVE_PAGES: tuple[Page, ...] = ("map", "sentence", "plots")  # that show a sentence of one's own
SHOWN_TEXT = 90  # characters of a sequence in the list


def trouble(text: str) -> str:
    """Say what is wrong with what was asked for."""
    return f'<span class="small poor" role="alert">{escape(text)}</span>'


def ways_on(start: str, everything: str, language: Language) -> str:
    """Return links to an index from its start and to all indexes: two addresses, either of which may be empty."""
    said = ((start, plain(language, "open_from_start")), (everything, plain(language, "open_all")))
    links = [f'<a href="{escape(address)}">{text}</a>' for address, text in said if address]
    return f"<p>{' &middot; '.join(links)}</p>" if links else ""


def live_says(live: LiveSequence, shown: Shown, state: State) -> str:
    """Say what the open page shows of the live sentence, and how it was read."""
    language, page = state.language, state.page
    if page not in LIVE_PAGES:
        tabs = {each: say(language, f"page_{each}") for each in LIVE_PAGES}
        parts = [say(language, "live_elsewhere", n=len(live.tokens), **tabs)]
    else:
        is_placed = page == "map" and not shown.view(state).reason
        parts = [say(language, "live_ready" if is_placed else "live_drawn", n=len(live.tokens))]
    if live.n_dropped:
        parts.append(say(language, "live_cut", n=live.n_dropped))
    if live.joined:
        parts.append(say(language, "live_joined"))
    return " ".join(parts)


def go(**what: str | int) -> str:
    """Return the attribute by which a button shows something."""
    return f'data-go="{escape(urlencode(what))}"'


def region_card(shown: Shown, state: State) -> str:
    """List the points that were lassoed: kind, token, its sentence, and which tokens are commonest among them."""
    if not state.region:
        return ""
    language = state.language
    rows = region_rows(shown, state)
    n = sum(len(found) for found in rows.values())
    title = plain(language, "region_count", n=n, n_queries=len(rows["query"]), n_keys=len(rows["key"]))
    clear = f'<button class="link" {go(region="")}>{plain(language, "region_clear")}</button>'
    text, number = shown.index.tokens["text"], shown.index.tokens["sequence"]
    both = pd.concat([text.iloc[rows[kind]].astype(str) for kind in KINDS]).value_counts().head(MAX_TEXTS)
    common = " ".join(_chip(name, count) for name, count in both.items())
    if (album := album_of(shown.index)) is not None:
        patches = image_words.patches_of(album, rows, state, 4 * MAX_ROWS)
        return (
            f'<div class="card"><div class="between"><h2>{plain(language, "region")}</h2>{clear}</div><p>{title}</p>'
            f'<div class="scroll">{patches}</div></div>'
        )
    lines = []
    for kind in KINDS:
        for row in rows[kind][: MAX_ROWS // 2]:
            button = f'<button class="link" {go(selected=f"{kind}-{row}")}>{escape(str(text.iloc[row]))}</button>'
            lines.append(
                f'<tr><td><span class="swatch {kind}" style="background:var(--{kind})"></span>{plain(language, kind)}</td>'
                f'<td class="text">{button}</td><td class="number muted">{int(number.iloc[row])}</td></tr>'
            )
    more = n - len(lines)
    rest = f'<p class="small muted">{plain(language, "sequences_more", n=f"{more:,}")}</p>' if more > 0 else ""
    return (
        f'<div class="card"><div class="between"><h2>{plain(language, "region")}</h2>{clear}</div><p>{title}</p>'
        f'<p>{common}</p><div class="scroll"><table>{"".join(lines)}</table></div>{rest}</div>'
    )


def hits_card(scene: Scene) -> str:
    """Count the hits of a search, in all and by text, and lead to the list of their sequences."""
    language, hits = scene.state.language, scene.hits
    if hits is None or not hits.n:
        return ""
    name = "hits_in_one" if hits.n == 1 else "hits_in_one_sequence" if len(hits.sequences) == 1 else "hits_in"
    count = say(language, name, n=hits.n, n_sequences=len(hits.sequences))
    link = f'<button class="link" {go(page="sentence")}>{plain(language, "hits_list")}</button>'
    if (album := album_of(scene.shown.index)) is not None:
        return (
            f'<div class="card"><div class="between"><h2>{plain(language, "hits_card")}</h2>'
            f"{'' if scene.state.page == 'sentence' else link}</div><p>{escape(count)}</p>"
            f"{image_words.thumbnails(hits.sequences.head(MAX_IMAGES), album, scene.state, -1, with_hits=True)}</div>"
        )
    texts = hits.texts.head(MAX_TEXTS)
    chips = " ".join(_chip(text, n) for text, n in zip(texts["text"], texts["hits"], strict=True))
    return (
        f'<div class="card"><div class="between"><h2>{plain(language, "hits_card")}</h2>'
        f"{'' if scene.state.page == 'sentence' else link}</div><p>{escape(count)}</p>"
        f'<p class="small muted">{plain(language, "hits_texts")}</p><p class="chips">{chips}</p></div>'
    )


def _chip(text: object, count: int) -> str:
    name = str(text) if len(str(text)) <= CHIP_TEXT else f"{str(text)[: CHIP_TEXT - 1]}\u2026"
    return f'<span class="chip" title="{escape(str(text))}">{escape(name)} <span class="muted">{count:,}</span></span>'


def sequences_card(table: pd.DataFrame, scene: Scene, start: int, total: int) -> str:
    """List sequences, with their hits where there is a search."""
    language = scene.state.language
    title = plain(language, "sequences_title" if scene.hits is None else "sequences_hits")
    last = min(start + len(table), total)
    place = f"{start + 1 if total else 0:,} - {last:,} / {total:,}"
    head = f'<div class="between"><h2>{title}</h2><span class="small muted">{place}</span></div>'
    if (album := album_of(scene.shown.index)) is not None:
        chosen = sequence_of(scene.shown, scene.state)
        return head + image_words.thumbnails(table, album, scene.state, chosen, with_hits=scene.hits is not None)
    lines = []
    for each in table.to_dict("records"):
        body = str(each["text"])
        body = body if len(body) <= SHOWN_TEXT else body[: SHOWN_TEXT - 1] + "…"
        hits = f'<span class="chip">{each["hits"]}</span> ' if scene.hits is not None else ""
        goes = go(sequence=each["sequence"], selected="", text="", pair="")
        lines.append(f'<li><button class="link" {goes}>{hits}{escape(body) or "&middot;"}</button></li>')
    return f'{head}<ul class="plain">{"".join(lines)}</ul>'

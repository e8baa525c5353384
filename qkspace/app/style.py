"""Style: the look of the page, as CSS with one set of variables for each theme.

In: "light" or "dark". Out: CSS and figure colours. Bokeh's widgets live in shadow trees, which CSS variables reach
and selectors do not; so each widget carries one small sheet that only names variables.
"""

from __future__ import annotations

from qkspace.app.colours import KEY_COLOUR, QUERY_COLOUR

THEMES = {
    "light": {
        "page": "#F4F5F7",
        "card": "#FFFFFF",
        "plot": "#FFFFFF",
        "ink": "#1D2430",
        "muted": "#5D6778",
        "line": "#DDE1E7",
        "field": "#FFFFFF",
        "accent": "#5B4B8A",
        "accent-ink": "#FFFFFF",
        "good": "#1E7B4B",
        "fair": "#946200",
        "poor": "#B3362B",
        "grid": "#ECEEF2",
    },
    "dark": {
        "page": "#12151B",
        "card": "#1B2028",
        "plot": "#161A21",
        "ink": "#E6E9EF",
        "muted": "#9AA4B5",
        "line": "#313946",
        "field": "#232934",
        "accent": "#B7A6EE",
        "accent-ink": "#12151B",
        "good": "#5CC48D",
        "fair": "#E0B04C",
        "poor": "#F08A7E",
        "grid": "#232934",
    },
}
FONT = "Inter, 'Segoe UI', system-ui, 'Noto Sans', 'Noto Sans CJK JP', sans-serif"


def variables_css(theme: str, *, whole: bool) -> str:
    """Return the variables of a theme for the root and what Bokeh hangs beside it; `whole`: colour the browser's page too."""
    colours = {**THEMES[theme], "query": QUERY_COLOUR[theme], "key": KEY_COLOUR[theme]}
    variables = " ".join(f"--{name}: {value};" for name, value in colours.items())
    return f":root {{ {variables} {'background: var(--page);' if whole else ''} }}"


def root_css(theme: str) -> str:
    """Return the look of the page's root, in the theme's variables; everything inside inherits it."""
    return f":host {{ background: var(--page); color: var(--ink); font: 13px/1.45 {FONT}; color-scheme: {theme}; }}"


WIDGET_CSS = f"""
:host {{ color: var(--ink); font: 13px/1.4 {FONT}; }}
.bk-input-group > label, label, .bk-slider-title {{ color: var(--muted); font-size: 12px; }}
.bk-slider-value {{ color: var(--ink); font-weight: 600; }}
.bk-input {{
  background-color: var(--field); color: var(--ink); border: 1px solid var(--line); border-radius: 6px; font-size: 13px;
}}
.bk-input:focus {{ border-color: var(--accent); box-shadow: 0 0 0 2px color-mix(in srgb, var(--accent) 30%, transparent); }}
.bk-btn {{
  background: var(--field); color: var(--ink); border: 1px solid var(--line); border-radius: 6px; font-size: 13px;
}}
.bk-btn:hover {{ background: var(--field) !important; border-color: var(--accent); color: var(--accent); }}
select.bk-input {{ appearance: auto !important; background-image: none !important; }}
.noUi-target {{ background: var(--line); border: none; box-shadow: none; height: 5px; border-radius: 3px; }}
.noUi-connect {{ background: var(--accent); }}
.noUi-horizontal .noUi-handle, .noUi-handle {{
  width: 14px; height: 14px; top: -5px; right: -7px; border-radius: 50%; border: 2px solid var(--accent);
  background: var(--card); box-shadow: none; cursor: grab;
}}
.noUi-handle::before, .noUi-handle::after {{ display: none; }}
input[type=checkbox] {{ accent-color: var(--accent); }}
"""

PANEL = {
    "background": "var(--card)",
    "border": "1px solid var(--line)",
    "border-radius": "10px",
    "padding": "12px 14px",
    "box-sizing": "border-box",
}

TOOLBAR_CSS = ".bk-divider { background-color: var(--line) !important; }"

CARD_CSS = f"""
:host {{ color: var(--ink); font: 13px/1.45 {FONT}; width: 100%; }}
.bk-clearfix {{ width: 100%; }}
.card {{
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; box-sizing: border-box;
}}
h2 {{ font-size: 12px; font-weight: 600; color: var(--muted); margin: 0 0 6px; letter-spacing: .02em; }}
p {{ margin: 0 0 6px; }}
.muted {{ color: var(--muted); }}
.small {{ font-size: 12px; }}
.badge {{
  display: inline-block; border-radius: 999px; padding: 1px 9px; font-size: 12px; font-weight: 600; border: 1px solid;
}}
.good {{ color: var(--good); }} .fair {{ color: var(--fair); }} .poor {{ color: var(--poor); }}
.title {{ font-size: 18px; font-weight: 650; margin: 0 8px 0 0; }}
.between {{ display: flex; align-items: center; justify-content: space-between; gap: 8px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 12px; }}
td {{ padding: 2px 0; vertical-align: middle; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 8px; }}
td.name {{ color: var(--muted); }}
.why {{ text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }}
.entries.two {{ display: grid; grid-template-columns: 1fr 1fr; column-gap: 14px; }}
.swatch {{ display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; flex: none; }}
.swatch.key {{ border-radius: 2px; transform: rotate(45deg) scale(.86); }}
.entry {{ display: flex; align-items: center; line-height: 1.6; }}
.entry .label {{ overflow: hidden; text-overflow: ellipsis; white-space: nowrap; flex: 1; }}
.entry .count {{ color: var(--muted); font-size: 12px; font-variant-numeric: tabular-nums; padding-left: 8px; }}
.scale {{ height: 10px; border-radius: 5px; margin: 4px 0 2px; }}
.sentence {{ line-height: 1.95; overflow-wrap: anywhere; }}
.token {{ border-radius: 3px; padding: 1px 0; white-space: pre-wrap; box-decoration-break: clone; }}
.token.clicked {{ outline: 2px solid var(--ink); outline-offset: 0; font-weight: 650; }}
.token.special {{ font-size: 11px; }}
.bar {{ height: 8px; border-radius: 4px; min-width: 1px; }}
button.link, button.entry {{ border: 0; background: none; padding: 0; font: inherit; cursor: pointer; text-align: left; }}
button.link {{ color: var(--accent); }}
button.link:hover {{ text-decoration: underline; }}
button.link:focus-visible, button.entry:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 1px; }}
button.entry {{ color: inherit; width: 100%; }}
ul.plain {{ list-style: none; margin: 0; padding: 0; }}
ul.plain > li {{ padding: 3px 0; border-top: 1px solid var(--line); }}
ul.plain > li:first-child {{ border-top: 0; }}
.chip {{ display: inline-block; background: var(--field); border: 1px solid var(--line); border-radius: 8px; padding: 0 6px; }}
.scroll {{ max-height: 260px; overflow-y: auto; scrollbar-width: thin; }}
td.text {{ max-width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
details > summary {{ cursor: pointer; color: var(--muted); font-size: 12px; }}
code {{ font-size: 12px; }}
kbd {{ border: 1px solid var(--line); border-radius: 4px; padding: 0 4px; font: 11px {FONT}; background: var(--field); }}
"""

HEADER_CSS = f"""
:host {{ font: 13px/1.4 {FONT}; color: var(--ink); display: block; }}
.brand {{ font-size: 17px; font-weight: 700; letter-spacing: -.01em; margin-right: 14px; }}
.brand span {{ color: var(--accent); }}
.what {{ color: var(--muted); min-width: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }}
.what b {{ color: var(--ink); font-weight: 600; }}
.bk-clearfix {{ width: 100%; }}
.line {{ display: flex; align-items: baseline; height: 34px; line-height: 34px; overflow: hidden; }}
"""

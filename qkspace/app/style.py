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
.bk-btn.bk-active, .bk-btn.bk-active:hover {{
  background: var(--accent) !important; border-color: var(--accent); color: var(--accent-ink); box-shadow: none;
}}
.bk-btn:disabled, .bk-btn.bk-disabled, .bk-btn:disabled:hover, .bk-input:disabled {{
  background: var(--page) !important; border-color: var(--line); color: var(--muted); opacity: .55;
}}
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
button.link {{ color: var(--accent); overflow-wrap: anywhere; }}
button.link:hover {{ text-decoration: underline; }}
button.link:focus-visible, button.entry:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 1px; }}
button.entry {{ color: inherit; width: 100%; }}
ul.plain {{ list-style: none; margin: 0; padding: 0; }}
ul.plain > li {{ padding: 3px 0; border-top: 1px solid var(--line); }}
ul.plain > li:first-child {{ border-top: 0; }}
.chip {{ display: inline-block; background: var(--field); border: 1px solid var(--line); border-radius: 8px; padding: 0 6px;
  max-width: 100%;
  box-sizing: border-box; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; vertical-align: bottom; }}
.scroll {{ max-height: 260px; overflow-y: auto; scrollbar-width: thin; }}
td.text {{ max-width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
details > summary {{ cursor: pointer; color: var(--muted); font-size: 12px; }}
code {{ font-size: 12px; }}
kbd {{ border: 1px solid var(--line); border-radius: 4px; padding: 0 4px; font: 11px {FONT}; background: var(--field); }}
"""

HEADS_CSS = """
p { margin: 0; }
.kinds { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: center; font-size: 12px; line-height: 1.5; }
.kind { white-space: nowrap; }
.kind svg { vertical-align: -1px; margin-right: 3px; }
.ramp { display: inline-block; width: 130px; height: 9px; border-radius: 4px; }
"""

COMPARE_CSS = """
.heads { font-variant-numeric: tabular-nums; }
.heads th { position: sticky; top: 0; background: var(--card); text-align: right; font-weight: 400; padding: 0 0 4px 8px;
  vertical-align: bottom; box-shadow: 0 1px 0 var(--line); color: var(--muted); }
.heads th:nth-child(2), .heads td:nth-child(2) { text-align: left; padding-left: 8px; }
.heads th button { text-align: right; font-size: 12px; }
.heads th[aria-sort] button { font-weight: 650; color: var(--ink); text-decoration: underline; }
.heads td { padding: 2px 0; border-bottom: 1px solid var(--line); }
.heads tbody tr { cursor: pointer; }
.heads tbody tr:hover { background: color-mix(in srgb, var(--accent) 10%, transparent); }
.heads tr.quiet td { color: var(--muted); }
.heads tr.here { background: color-mix(in srgb, var(--accent) 18%, transparent); font-weight: 600; }
.links th { text-align: left; font-weight: 600; padding: 6px 0 2px; font-size: 12px; }
.links tr:first-child th { padding-top: 0; }
.links td { vertical-align: top; overflow-wrap: anywhere; }
.heads td:last-child, .heads th:last-child { padding-right: 4px; }
.sequences td { vertical-align: top; padding: 3px 0; border-top: 1px solid var(--line); }
.sequences tr:first-child td { border-top: 0; }
.sequences td.number { padding: 3px 10px 3px 0; }
.sequences tr.here { font-weight: 650; }
.grew { color: var(--poor); } .shrank { color: var(--query); }
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

SAID_CSS = """
:host { width: auto; }
.bk-clearfix { width: auto; overflow-wrap: anywhere; }
.poor { display: block; padding: 4px 2px 0; max-height: 84px; overflow-y: auto; }
"""

CLEAR_CSS = """
.bk-btn { background: none; border-color: transparent; color: var(--muted); padding: 2px 0; font-size: 16px; line-height: 1; }
.bk-btn:hover { background: none !important; border-color: transparent; }
.bk-btn:focus-visible { border-color: var(--accent); }
"""

_BUTTON_CSS = f"""
button {{
  background: var(--field); color: var(--ink); border: 1px solid var(--line); border-radius: 6px; padding: 5px 12px;
  font: 13px/1.4 {FONT}; cursor: pointer;
}}
button:hover {{ border-color: var(--accent); color: var(--accent); }}
button:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 1px; }}
"""

HELP_CSS = f"""{_BUTTON_CSS}
.behind {{
  position: fixed; inset: 0; background: rgb(0 0 0 / .45); display: flex; align-items: center; justify-content: center;
}}
.dialog {{
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 22px; box-sizing: border-box;
  width: min(1000px, 100vw - 32px); max-height: calc(100vh - 32px); overflow-y: auto; scrollbar-width: thin;
  box-shadow: 0 12px 40px rgb(0 0 0 / .3);
}}
.dialog:focus {{ outline: none; }}
h1 {{ font-size: 18px; font-weight: 650; margin: 0; }}
.dialog h2 {{ font-size: 13px; color: var(--ink); margin: 14px 0 6px; }}
.buttons {{ display: flex; gap: 8px; }}
.important {{ margin: 12px 0 0; padding: 8px 12px; border-left: 3px solid var(--accent); background: var(--field); }}
.halves {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); column-gap: 32px; }}
.dialog th {{ text-align: left; font-weight: 400; white-space: nowrap; padding: 4px 14px 4px 0; vertical-align: top; }}
.dialog td {{ padding: 4px 0; vertical-align: top; font-size: 13px; }}
kbd {{ display: inline-block; min-width: 12px; text-align: center; padding: 1px 4px; }}
dl {{ margin: 0; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0 0 8px; }}
"""

TOUR_CSS = f"""{_BUTTON_CSS}
.ring, .bubble, .arrow {{ position: fixed; z-index: 900; box-sizing: content-box; }}
.ring {{ border: 3px solid var(--accent); border-radius: 10px; pointer-events: none; opacity: .8; }}
.bubble {{
  width: 280px; box-sizing: border-box; background: var(--card); color: var(--ink); border: 2px solid var(--accent);
  border-radius: 10px; padding: 12px 14px; font: 13px/1.5 {FONT}; box-shadow: 0 8px 28px rgb(0 0 0 / .28);
}}
p {{ margin: 0 0 10px; }}
.foot {{ display: flex; align-items: center; gap: 8px; }}
.step {{ flex: 1; color: var(--muted); font-size: 12px; }}
.next {{ background: var(--accent); border-color: var(--accent); color: var(--accent-ink); }}
.next:hover {{ color: var(--accent-ink); }}
.arrow {{ width: 0; height: 0; border: 12px solid transparent; pointer-events: none; }}
.arrow.below {{ border-top: 0; border-bottom-color: var(--accent); transform: translateX(-12px); }}
.arrow.above {{ border-bottom: 0; border-top-color: var(--accent); transform: translate(-12px, -12px); }}
.arrow.right {{ border-left: 0; border-right-color: var(--accent); transform: translateY(-12px); }}
.arrow.left {{ border-right: 0; border-left-color: var(--accent); transform: translate(-12px, -12px); }}
"""

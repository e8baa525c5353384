/* How the attention of one sequence changed from a base checkpoint to a tuned one: lines, heat maps, all heads.

   const view = qkspaceDifferenceView(rootElement, data, options)
   view.update(data, state)  view.set({mode, layer, head, theme, selected, ...})  view.state()  view.ready()  view.destroy()

   It draws into a shadow tree of its own below rootElement and asks the network for nothing. Text of a corpus comes in as
   text only (textContent, attributes, canvas), never as markup.

   data   id: what this is of; an update with the same id adds its weights and thumbs to what is there
          base, tuned: names of the checkpoints; unit: "token" or "word"; sequence: its number
          tokens: [text]; isSpecial: [bool]; outside: whether a last key column holds what goes to none of the tokens
          heads: [heads of each layer]; levels: weights come as uint16, weight = code / levels
          weights: {"layer/head": {base, tuned: (query, key) uint16, js: (query) float32, nats}}
          thumbs: {"layer": (head, y, x) uint8: change = sign(code - 128) * (|code - 128| / 127)^2}
   An array is {dtype, shape, data}, where data is a typed array, or base64 of its bytes after deflate.

   options  what set() takes; strings: a translation of STRINGS; onChange(state): the user changed something;
            need({id, heads: [[layer, head]]} or {id, thumbs: [layer]}): these are asked for, answer by update();
            pick({sequence} or {step}): another sequence is asked for

   state  mode: "lines" | "heat" | "pair" | "all"; layer; head; selected: {side: "query" | "key", token} or null;
          threshold: least |change| of a line; hideSpecial (and the column outside), hideSelf: bool;
          theme: "light" | "dark" | "auto", as the browser prefers; trouble: why what was asked for is not shown */
globalThis.qkspaceDifferenceView = (() => {
  "use strict"

  const STRINGS = {
    lines: "Lines", heat: "Heat map", pair: "Side by side", all: "All heads",
    layer: "Layer", head: "Head", previousLayer: "Previous layer", nextLayer: "Next layer", previousHead: "Previous head",
    nextHead: "Next head", sequence: "Sequence", previousSequence: "Previous sequence", nextSequence: "Next sequence",
    threshold: "Least change", hideSpecial: "Hide special tokens",
    hideOutside: "Hide outside", hideSelf: "Hide self",
    hideSpecialHelp: "Leave out [CLS], [SEP], <s> and the like. The numbers of the others stay what they are.",
    hideOutsideHelp: "Leave out the last column: what goes to special tokens and to words that only one model has.",
    hideSelfHelp: "Leave out the attention of each token to itself. The numbers of the others stay what they are.",
    outside: "outside", outsideHelp: "What goes to special tokens and to words that only one model has",
    query: "query", key: "key", queries: "Queries: from", keys: "Keys: to", before: "base", after: "tuned", change: "change",
    more: "{tuned} attends more", less: "{tuned} attends less", widest: "widest: {n}",
    js: "JS", jsHelp: "Jensen-Shannon divergence of this query's attention in the two checkpoints, in nats",
    jsFoot: "Bar: JS of each query, by its square root; full at ln 2", rowChange: "JS {n} nats",
    linesHint: "Hover a token to see only its lines, click to keep it, Escape to let it go.",
    heatHint: "Hover a cell, or move with the arrow keys.", allHint: "Rows of a square are queries, columns keys. Click one to open it.",
    thumbScale: "full colour from {n}", thumbTip: "largest change {n}", noChange: "Of what is shown nothing changed by {n} or more.",
    noTokens: "Nothing is left to show.", loading: "Loading layer {n}, head {m} ...",
    notLoaded: "Layer {n}, head {m} is not in this view.",
    accuracy: "Changes are rounded, by {n} at most.", drawn: "Drawn: the largest {n} of {m} changes.",
    tokens: "Tokens: {n}.", words: "Words: {n}.",
  }
  const MODES = ["lines", "heat", "pair", "all"]
  const DEFAULTS = {
    mode: "lines", layer: 0, head: 0, selected: null, threshold: 0.02, hideSpecial: false, hideSelf: false, theme: "auto",
    trouble: "",
  }
  const MAX_LINES = 2000 // drawn at once: the largest changes, and the view says so
  const MAX_FOCUS = 300 // of one token
  const MAX_KEPT = 12e6 // pairs of all heads that are kept; the oldest are asked for again
  const FULL_THUMB = 0.4 // change from which a small picture has its full colour
  const ROW = 22, TALL = 24, NUMBERS = 100, BAR = 44, LN2 = Math.log(2)
  const PALETTE = {
    light: {
      card: "#ffffff", ink: "#1d2430", muted: "#5d6778", line: "#dde1e7", field: "#ffffff", accent: "#5b4b8a",
      "accent-ink": "#ffffff", grid: "#eceef2", more: "#b2182b", less: "#2166ac", bar: "#7a6a1e", middle: "#9c8ad6", high: "#3b2a7a",
    },
    dark: {
      card: "#1b2028", ink: "#e6e9ef", muted: "#9aa4b5", line: "#313946", field: "#232934", accent: "#b7a6ee",
      "accent-ink": "#12151b", grid: "#232934", more: "#f4907a", less: "#6fb1e8", bar: "#cdbb6a", middle: "#9a7be0", high: "#f2e9c8",
    },
  }

  const CSS = `
  :host { display: block; height: 100%; }
  * { box-sizing: border-box; }
  .view { position: relative; display: flex; flex-direction: column; gap: 8px; height: 100%; min-width: 0; color: var(--ink);
    background: var(--card); font: 13px/1.4 Inter, "Segoe UI", system-ui, "Noto Sans", "Noto Sans CJK JP", sans-serif; }
  .controls { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; }
  .group { display: flex; align-items: center; gap: 5px; }
  .label { color: var(--muted); font-size: 12px; white-space: nowrap; }
  button, select, input[type=number] { font: inherit; color: var(--ink); background: var(--field);
    border: 1px solid var(--line); border-radius: 6px; height: 28px; padding: 0 9px; }
  button, select { cursor: pointer; }
  input[type=number] { width: 76px; padding: 0 4px 0 8px; }
  button:hover:not(:disabled), select:hover { border-color: var(--accent); }
  button:disabled { opacity: .45; cursor: default; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
  .tabs { display: flex; }
  .tabs button { border-radius: 0; margin-left: -1px; }
  .tabs button:first-child { border-radius: 6px 0 0 6px; margin: 0; }
  .tabs button:last-child { border-radius: 0 6px 6px 0; }
  .tabs button[aria-selected=true] { background: var(--accent); color: var(--accent-ink); border-color: var(--accent);
    font-weight: 600; position: relative; }
  .step { width: 26px; padding: 0 !important; font-size: 15px; }
  input[type=range] { width: 92px; accent-color: var(--accent); margin: 0; cursor: pointer; }
  input[type=checkbox] { accent-color: var(--accent); margin: 0; }
  output { min-width: 38px; font-size: 12px; font-variant-numeric: tabular-nums; }
  label.group { cursor: pointer; font-size: 12px; }
  .stage { position: relative; flex: 1 1 0; overflow: auto; min-height: 72px; border: 1px solid var(--line); border-radius: 8px;
    scrollbar-gutter: stable; }
  .body { position: relative; min-width: 100%; }
  .body > svg { position: absolute; inset: 0; pointer-events: none; overflow: visible; }
  path { fill: none; }
  path.more { stroke: var(--more); }
  path.less { stroke: var(--less); stroke-dasharray: 7 4; }
  text { font-size: 11px; fill: var(--ink); font-variant-numeric: tabular-nums; }
  text.more { fill: var(--more); }
  text.less { fill: var(--less); }
  rect.js { fill: var(--bar); }
  rect.rail { fill: var(--line); }
  .pin { position: sticky; top: 0; left: 0; width: 0; height: 0; }
  .pin canvas { position: absolute; top: 0; left: 0; pointer-events: none; }
  .token { position: absolute; height: 20px; line-height: 18px; padding: 0 6px; border: 1px solid transparent; background: none;
    border-radius: 4px; white-space: pre; overflow: hidden; text-overflow: ellipsis; font-size: 13px; user-select: text; }
  .token.query { text-align: right; }
  .token.key { text-align: left; }
  .token.special { color: var(--muted); font-size: 12px; }
  .token.outside { color: var(--muted); font-style: italic; border: 1px dashed var(--line); }
  .token.hot { background: color-mix(in srgb, var(--accent) 16%, transparent); }
  .token.pinned { border: 1px solid var(--accent); background: color-mix(in srgb, var(--accent) 22%, transparent); font-weight: 650; }
  .heading { position: absolute; top: 5px; color: var(--muted); font-size: 12px; font-weight: 600; white-space: nowrap; }
  .trouble { color: var(--more); font-size: 12px; overflow-wrap: anywhere; }
  .note { padding: 22px; color: var(--muted); text-align: center; }
  .grid { display: grid; gap: 4px; padding: 8px; justify-content: start; align-items: center; }
  .name { color: var(--muted); font-size: 11px; text-align: center; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .thumb { padding: 0; height: auto; border-radius: 3px; line-height: 0; overflow: hidden; aspect-ratio: 1; }
  .thumb canvas { width: 100%; height: 100%; image-rendering: pixelated; }
  .thumb:hover, .thumb.open { outline: 2px solid var(--accent); outline-offset: 0; }
  .foot { display: flex; flex-wrap: wrap; gap: 4px 16px; align-items: center; color: var(--muted); font-size: 12px; }
  .foot svg { display: block; overflow: visible; }
  .ramp { display: inline-block; width: 150px; height: 10px; border-radius: 4px; border: 1px solid var(--line); }
  .chip { display: inline-block; width: 26px; height: 7px; border-radius: 2px; background: var(--bar); }
  .cell { width: 16px; height: 16px; border-radius: 2px; color: var(--card); font-weight: 700; line-height: 16px; text-align: center; }
  .cell.more { background: var(--more); }
  .cell.less { background: var(--less); }
  b.more { color: var(--more); }
  b.less { color: var(--less); }
  .tip { position: absolute; z-index: 9; pointer-events: none; max-width: 380px; padding: 6px 9px; font-size: 12px;
    background: var(--card); border: 1px solid var(--line); border-radius: 6px; box-shadow: 0 3px 14px rgb(0 0 0 / .22); }
  .tip table { border-collapse: collapse; }
  .tip td, .tip th { padding: 0 0 0 10px; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .tip th { color: var(--muted); font-weight: 400; }
  .tip td.text { padding: 0; max-width: 150px; overflow: hidden; text-overflow: ellipsis; text-align: left; white-space: pre; }
  .tip td.more { color: var(--more); font-weight: 600; }
  .tip td.less { color: var(--less); font-weight: 600; }
  .tip .title { font-weight: 650; overflow: hidden; text-overflow: ellipsis; white-space: pre; }
  .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  [hidden] { display: none !important; }`

  // ------------------------------------------------------------------------------------------------ mathematics

  /** tuned - base of codes, (query, key); no more than their rounding can be wrong. */
  const changeOf = (base, tuned, levels) => Float32Array.from(base, (code, at) => (tuned[at] - code) / levels)

  /** Places of the values largest in size, at least `least` and not 0, `most` of them at most, the largest first; and how many. */
  const largestOf = (values, least, most) => {
    const bins = new Uint32Array(4097) // a histogram finds where to cut without sorting a million values
    let count = 0
    for (const value of values) {
      const size = Math.abs(value)
      if (size > 0 && size >= least) { bins[Math.min(4096, Math.floor(size * 4096))]++; count++ }
    }
    let bin = 4096
    for (let above = bins[bin]; bin > 0 && above < most;) above += bins[--bin]
    const cut = Math.max(least, bin / 4096), places = []
    for (let at = 0; at < values.length; at++) {
      const size = Math.abs(values[at])
      if (size > 0 && size >= cut) places.push(at)
    }
    places.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b)
    return { places: places.slice(0, most), count }
  }

  const thumbChange = (code) => Math.sign(code - 128) * ((code - 128) / 127) ** 2

  const figure = (x) => (Math.abs(x) < 0.0005 ? "0" : x.toFixed(3))
  const signed = (x) => (Math.abs(x) < 0.0005 ? "0" : `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(3)}`)
  const short = (x) => `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(2).replace(/^0/, "")}`
  const brief = (x) => (x >= 0.995 ? "1.0" : x < 0.005 ? "0" : x.toFixed(2).replace(/^0/, ""))
  const signOf = (x) => (x > 0 ? "more" : x < 0 ? "less" : "")

  const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))
  const mix = (from, to, share) =>
    "#" + from.map((x, i) => Math.round(x + (to[i] - x) * share).toString(16).padStart(2, "0")).join("")
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const contrast = (a, b) => {
    const [high, low] = [luminance(parts(a)), luminance(parts(b))].sort((x, y) => y - x)
    return (high + 0.05) / (low + 0.05)
  }
  const inkOn = (colour) => (contrast(colour, "#ffffff") > contrast(colour, "#101010") ? "#ffffff" : "#101010")

  /** A token as it is shown: what is blank is made visible. */
  const visible = (text) => {
    if (text === "") return "∅"
    const shown = text.replace(/\r\n|\n|\r/g, "⏎").replace(/\t/g, "⇥").replace(/[\u0000-\u001f\u007f-\u009f]/g, "�")
    return /^[\s\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+$/.test(shown) ? "␣".repeat(Math.min(4, shown.length)) : shown
  }
  const widthOf = (text) => [...text].reduce((width, letter) => width + (letter > "\u2e80" ? 14 : 8), 16)

  // ------------------------------------------------------------------------------------------------ what comes in

  const TYPES = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array }

  /** Bokeh hands dictionaries over as Map, and arrays as its own. */
  const plain = (value) => {
    if (value instanceof Map) return Object.fromEntries([...value].map(([name, inner]) => [name, plain(inner)]))
    if (Array.isArray(value)) return value.map(plain)
    if (ArrayBuffer.isView(value)) { // parts of Bokeh's own arrays (subarray) begin at the wrong place
      return value.dtype ? new TYPES[value.dtype](value.buffer, value.byteOffset, value.length) : value
    }
    const bare = value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype
    return bare ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)])) : value
  }

  const unpack = async (array) => {
    if (typeof array.data !== "string") return { ...array, values: array.data }
    const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0))
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"))
    return { ...array, values: new TYPES[array.dtype](await new Response(stream).arrayBuffer()) }
  }

  // ------------------------------------------------------------------------------------------------ elements

  const make = (made, properties, children) => {
    for (const [key, value] of Object.entries(properties)) {
      if (key === "style") Object.assign(made.style, value)
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value)
      else if (key === "text") made.textContent = value
      else if (value !== null && value !== undefined && value !== false) {
        made.setAttribute(key, value === true ? "" : value)
      }
    }
    made.append(...children)
    return made
  }
  const element = (name, properties = {}, children = []) => make(document.createElement(name), properties, children)
  const shape = (name, properties = {}, children = []) =>
    make(document.createElementNS("http://www.w3.org/2000/svg", name), properties, children)
  const fill = (template, places) => template.replace(/\{(\w+)\}/g, (all, name) => places[name] ?? all)
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)

  // ------------------------------------------------------------------------------------------------ the view

  class View {
    constructor(root, data, options) {
      this.options = options
      this.words = { ...STRINGS, ...plain(options.strings || {}) }
      this.data = this.taken(plain(data))
      this.now = { ...DEFAULTS }
      this.hover = null // {side, unit} or {cell: [row, column]}
      this.asked = new Set()
      this.flat = "lines" // the mode that a head of the grid opens in
      this.host = element("div", { style: { height: "100%" } })
      this.tree = this.host.attachShadow({ mode: "open" })
      root.append(this.host)
      this.makeFrame()
      this.set(options)
    }

    // ---------------------------------------------------------------------------------------------- what hosts call

    state() { return { ...this.now, selected: this.now.selected && { ...this.now.selected } } }

    set(changes) {
      const known = Object.entries(plain(changes)).filter(([name, value]) => name in DEFAULTS && value !== undefined)
      this.now = this.checked({ ...this.now, ...Object.fromEntries(known) })
      this.refresh()
    }

    update(given, changes = {}) {
      const more = plain(given), old = this.data
      const sameThing = more.id === old.id
      this.data = sameThing ? this.added(old, more) : this.taken(more)
      if (!sameThing) {
        this.hover = null
        this.stage.scrollTo(0, 0)
      }
      this.asked.clear()
      if (!sameThing) this.now.selected = null
      const drawn = sameThing && this.painter?.added && !Object.keys(more.weights || {}).length && !Object.keys(changes).length
      if (drawn) this.painter.added() // a layer of small pictures came: the others stay as they are
      else this.set(changes)
    }

    /** Resolves when everything that is there is unpacked and drawn. */
    async ready() {
      for (let last; last !== this.work;) { last = this.work; await last }
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
    }

    destroy() {
      this.gone = true
      this.sizes.disconnect()
      this.observer?.disconnect()
      this.scheme.removeEventListener("change", this.onScheme)
      this.host.remove()
    }

    // ---------------------------------------------------------------------------------------------- data

    taken(given) {
      return { ...given, weights: { ...given.weights }, thumbs: { ...given.thumbs } }
    }

    added(old, more) {
      const fresh = more.weights || {}, weights = { ...old.weights, ...fresh }
      const kept = Math.max(1, Math.floor(MAX_KEPT / (old.tokens.length * (old.tokens.length + 1))))
      const oldest = Object.keys(weights).filter((name) => !(name in fresh) && name !== `${this.now.layer}/${this.now.head}`)
      for (const name of oldest.slice(0, Math.max(0, Object.keys(weights).length - kept))) delete weights[name]
      return { ...old, weights, thumbs: { ...old.thumbs, ...more.thumbs } }
    }

    /** What is stored under a name, unpacked; undefined while that takes time, null where it is not there. */
    array(kind, name) {
      const given = this.data[kind][name]
      if (!given) return null
      if (given.ready) return given.ready
      if (!given.work) {
        const names = kind === "weights" ? ["base", "tuned", "js"] : ["picture"]
        const arrays = kind === "weights" ? names.map((part) => given[part]) : [given]
        if (arrays.every((array) => typeof array.data !== "string")) {
          given.ready = Object.fromEntries(names.map((part, i) => [part, { ...arrays[i], values: arrays[i].data }]))
          return given.ready
        }
        given.work = Promise.all(arrays.map(unpack)).then((found) => {
          given.ready = Object.fromEntries(names.map((part, i) => [part, found[i]]))
          if (!this.gone) this.refresh()
        })
        this.work = Promise.all([this.work, given.work]).then(() => undefined)
      }
      return undefined
    }

    /** State with only what there is. */
    checked(state) {
      const { data } = this
      const layer = state.layer in data.heads ? state.layer : 0
      const head = state.head >= 0 && state.head < data.heads[layer] ? state.head : 0
      const { selected } = state, n = data.tokens.length
      const limit = selected && selected.side === "key" ? n + (data.outside ? 1 : 0) : n
      const pinned = selected && selected.token >= 0 && selected.token < limit ? selected : null
      return { ...state, layer, head, selected: pinned, mode: MODES.includes(state.mode) ? state.mode : "lines" }
    }

    /** The user changed something. */
    change(changes) {
      this.set(changes)
      this.options.onChange?.(this.state())
    }

    /** Ask for heads, or for the small pictures of one layer after another: each costs the server the layer's attention. */
    ask(what) {
      const name = what.thumbs ? "thumbs" : JSON.stringify(what)
      if (this.asked.has(name) || !this.options.need) return
      this.asked.add(name)
      queueMicrotask(() => { if (!this.gone) this.options.need({ id: this.data.id, ...what }) })
    }

    /** The head that is shown: base, tuned, change (query, key) and js, and the rows and columns that are left; or null, with
        a note on the stage. */
    shown() {
      const { data, now, words } = this, name = `${now.layer}/${now.head}`
      const found = this.array("weights", name)
      if (!found) {
        const missing = found === null && !this.options.need
        if (found === null) this.ask({ heads: [[now.layer, now.head]] })
        return this.note(fill(missing ? words.notLoaded : words.loading, { n: now.layer, m: now.head }))
      }
      const n = data.tokens.length, width = n + (data.outside ? 1 : 0)
      if (!found.change) {
        const scale = (codes) => Float32Array.from(codes, (code) => code / data.levels)
        found.change = changeOf(found.base.values, found.tuned.values, data.levels)
        found.before = scale(found.base.values)
        found.after = scale(found.tuned.values)
      }
      const kept = (size) => Array.from({ length: size }, (_, i) => i).filter((i) => !(now.hideSpecial && (data.isSpecial[i] || i === n)))
      const rows = kept(n), columns = kept(width)
      if (!rows.length || !columns.length) return this.note(words.noTokens)
      return { ...found, js: found.js.values, width, rows, columns, visible: this.visibleChange(found, rows, columns, width) }
    }

    /** The change of the pairs that are left, (row, column). */
    visibleChange(found, rows, columns, width) {
      const out = new Float32Array(rows.length * columns.length)
      rows.forEach((i, r) => columns.forEach((j, c) => {
        out[r * columns.length + c] = this.now.hideSelf && i === j ? 0 : found.change[i * width + j]
      }))
      return out
    }

    text(i) { return i === this.data.tokens.length ? this.words.outside : visible(this.data.tokens[i]) }

    note(text) {
      this.stage.replaceChildren(element("div", { class: "note", role: "status", text }))
      return null
    }

    // ---------------------------------------------------------------------------------------------- frame and controls

    makeFrame() {
      const { words } = this
      this.canvas = element("canvas", { "aria-hidden": "true" })
      this.stage = element("div", { class: "stage" })
      this.tabs = element("div", { class: "tabs", role: "tablist" }, MODES.map((mode) => element("button", {
        type: "button", role: "tab", "data-mode": mode, text: words[mode], onclick: () => this.change({ mode }),
        onkeydown: (event) => this.tabKey(event, mode),
      })))
      this.top = element("div", { class: "controls" })
      this.choices = element("div", { class: "controls" })
      this.foot = element("div", { class: "foot" })
      this.said = element("div", { class: "unseen", "aria-live": "polite" })
      this.tip = element("div", { class: "tip", role: "tooltip", hidden: true })
      this.trouble = element("div", { class: "trouble", role: "status" })
      this.box = element("div", { class: "view" }, [this.top, this.choices, this.trouble, this.stage, this.foot, this.said, this.tip])
      this.tree.append(element("style", { text: CSS }), this.box)
      this.makeControls()
      this.listen()
    }

    arrow(text, title, onclick) {
      return element("button", { type: "button", class: "step", text, title, "aria-label": title, onclick })
    }

    /** A select between two buttons that step. */
    stepper(name, title, titles) {
      const select = element("select", {
        "aria-label": title, "data-role": name, onchange: () => this.change({ [name]: Number(select.value) }),
      })
      const step = (by) => this.change({ [name]: this.now[name] + by })
      const back = this.arrow("‹", titles[0], () => step(-1)), forth = this.arrow("›", titles[1], () => step(1))
      const group = element("div", { class: "group" }, [element("span", { class: "label", text: title }), back, select, forth])
      return { select, back, forth, group }
    }

    makeControls() {
      const { words, options } = this
      this.layers = this.stepper("layer", words.layer, [words.previousLayer, words.nextLayer])
      this.heads = this.stepper("head", words.head, [words.previousHead, words.nextHead])
      this.number = element("input", {
        type: "number", min: 0, step: 1, "aria-label": words.sequence, "data-role": "sequence",
        onchange: () => { if (this.number.value !== "") options.pick?.({ sequence: Number(this.number.value) }) },
      })
      this.picker = element("div", { class: "group" }, [
        element("span", { class: "label", text: words.sequence }),
        this.arrow("‹", words.previousSequence, () => options.pick?.({ step: -1 })), this.number,
        this.arrow("›", words.nextSequence, () => options.pick?.({ step: 1 }))])
      this.picker.hidden = !options.pick
      this.slider = element("input", {
        type: "range", min: 0, max: 100, step: 1, "aria-label": words.threshold, "data-role": "threshold",
        oninput: () => this.change({ threshold: Math.round((this.slider.value / 100) ** 2 * 1000) / 1000 }),
      })
      this.least = element("output")
      this.sliderGroup = element("label", { class: "group" }, [element("span", { class: "label", text: words.threshold }), this.slider, this.least])
      this.boxes = Object.fromEntries(["hideSpecial", "hideSelf"].map((name) => {
        const input = element("input", { type: "checkbox", "data-role": name, onchange: () => this.change({ [name]: input.checked }) })
        const label = element("span", { text: words[name] })
        return [name, { input, label, group: element("label", { class: "group", title: words[`${name}Help`] }, [input, label]) }]
      }))
      this.top.append(this.tabs, this.layers.group, this.heads.group)
      this.choices.append(this.picker, this.sliderGroup, this.boxes.hideSpecial.group, this.boxes.hideSelf.group)
    }

    tabKey(event, mode) {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
      if (!by) return
      event.preventDefault()
      event.stopPropagation()
      const next = MODES[(MODES.indexOf(mode) + by + MODES.length) % MODES.length]
      this.change({ mode: next })
      this.tabs.querySelector(`[data-mode=${next}]`).focus()
    }

    listen() {
      this.sizes = new ResizeObserver(() => {
        if (this.stage.clientWidth === this.width) { this.paint(); return }
        this.width = this.stage.clientWidth
        this.refresh()
      })
      this.sizes.observe(this.stage)
      this.stage.addEventListener("scroll", () => this.paint())
      this.stage.addEventListener("pointermove", (event) => this.painter?.move?.(event))
      this.stage.addEventListener("pointerleave", () => { if (this.hover?.cell) this.setHover(null) })
      this.stage.addEventListener("keydown", (event) => this.painter?.press?.(event))
      this.box.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return
        this.setHover(null)
        if (this.now.selected) { event.stopPropagation(); this.change({ selected: null }) }
      })
      this.scheme = matchMedia("(prefers-color-scheme: dark)")
      this.onScheme = () => this.refresh()
      this.scheme.addEventListener("change", this.onScheme)
    }

    applyTheme() {
      const { theme } = this.now
      this.dark = theme === "dark" || (theme !== "light" && this.scheme.matches)
      const name = this.dark ? "dark" : "light"
      this.colours = PALETTE[name]
      for (const [key, colour] of Object.entries(this.colours)) this.box.style.setProperty(`--${key}`, colour)
      this.box.style.colorScheme = name
      this.box.dataset.theme = name
    }

    showControls() {
      const { now, data, words } = this
      for (const tab of this.tabs.children) {
        const on = tab.dataset.mode === now.mode
        tab.setAttribute("aria-selected", String(on))
        tab.tabIndex = on ? 0 : -1
      }
      const numbers = (stepper, n, chosen) => {
        if (stepper.select.children.length !== n) {
          stepper.select.replaceChildren(...Array.from({ length: n }, (_, i) => element("option", { value: i, text: i })))
        }
        stepper.select.value = String(chosen)
        stepper.back.disabled = chosen === 0
        stepper.forth.disabled = chosen === n - 1
      }
      numbers(this.layers, data.heads.length, now.layer)
      numbers(this.heads, data.heads[now.layer], now.head)
      this.layers.group.hidden = this.heads.group.hidden = now.mode === "all"
      this.sliderGroup.hidden = now.mode !== "lines"
      this.slider.value = Math.round(Math.sqrt(now.threshold) * 100)
      this.least.textContent = now.threshold ? figure(now.threshold) : "0"
      for (const [name, { input, group }] of Object.entries(this.boxes)) {
        input.checked = now[name]
        group.hidden = now.mode === "all"
      }
      const { label, group } = this.boxes.hideSpecial
      label.textContent = data.outside ? words.hideOutside : words.hideSpecial
      group.title = data.outside ? words.hideOutsideHelp : words.hideSpecialHelp
      group.hidden ||= !data.outside && !data.isSpecial.some(Boolean)
      this.trouble.textContent = now.trouble
      this.trouble.hidden = !now.trouble
      this.number.value = data.sequence
    }

    // ---------------------------------------------------------------------------------------------- drawing

    refresh() {
      if (this.gone) return
      this.applyTheme()
      this.observer?.disconnect()
      this.showControls()
      this.tip.hidden = true
      if (this.now.mode !== "all") this.flat = this.now.mode
      const within = this.tree.activeElement
      const kept = within?.dataset.side ? { side: within.dataset.side, unit: Number(within.dataset.unit) } : null
      const wasStage = within === this.stage
      const scroll = [this.stage.scrollLeft, this.stage.scrollTop]
      this.painter = null
      for (const name of ["tabindex", "role", "aria-label"]) this.stage.removeAttribute(name)
      this.painter = { lines: linesPainter, heat: heatPainter, pair: heatPainter, all: allPainter }[this.now.mode](this)
      if (this.painter?.press) this.stage.tabIndex = 0
      this.stage.scrollTo(scroll[0], scroll[1])
      this.foot.replaceChildren(...(this.painter?.foot?.() || []))
      if (kept) this.token(kept.side, kept.unit)?.focus({ preventScroll: true })
      else if (wasStage) this.stage.focus({ preventScroll: true })
      this.mark()
      this.paint()
    }

    lay(width, height, children) {
      this.stage.replaceChildren(element("div", { class: "body", style: { width: `${width}px`, height: `${height}px` } }, children))
    }

    paint() {
      if (this.waiting || this.gone || !this.painter?.draw) return
      this.waiting = requestAnimationFrame(() => {
        this.waiting = null
        if (!this.gone && this.painter?.draw) this.paintNow()
      })
    }

    paintNow() {
      const { stage, canvas } = this, ratio = globalThis.devicePixelRatio || 1
      const width = stage.clientWidth, height = stage.clientHeight
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      canvas.style.width = `${width}px`
      canvas.style.height = `${height}px`
      const pen = canvas.getContext("2d")
      pen.scale(ratio, ratio)
      this.painter.draw(pen, width, height)
    }

    // ---------------------------------------------------------------------------------------------- tokens

    tokenButton(side, unit, style, js) {
      const { data, words } = this, text = this.text(unit), outside = unit === data.tokens.length
      const what = outside ? words.outsideHelp : text
      const drift = side === "query" ? `, ${fill(words.rowChange, { n: figure(js) })}` : ""
      const look = outside ? " outside" : data.isSpecial[unit] ? " special" : ""
      const button = element("button", {
        type: "button", class: `token ${side}${look}`, text, title: what, dir: "auto", style, "data-side": side, "data-unit": unit,
        "aria-pressed": "false", "aria-label": `${words[side]} ${unit + 1}: ${text}${drift}`,
        onclick: () => this.clickToken(side, unit), onkeydown: (event) => this.tokenKey(event, side, unit),
        onpointerenter: (event) => this.enter(side, unit, event), onfocus: (event) => this.enter(side, unit, event),
        onpointerleave: () => this.setHover(null), onblur: () => this.setHover(null),
      })
      return button
    }

    token(side, unit) { return this.stage.querySelector(`.token[data-side=${side}][data-unit="${unit}"]`) }

    clickToken(side, unit) {
      const { selected } = this.now
      const off = selected && selected.side === side && selected.token === unit
      this.change({ selected: off ? null : { side, token: unit } })
    }

    tokenKey(event, side, unit) {
      if (!event.key.startsWith("Arrow") && event.key !== "Home" && event.key !== "End") return
      event.preventDefault()
      event.stopPropagation()
      const all = (which) => [...this.stage.querySelectorAll(`.token[data-side=${which}]`)]
      const own = all(side), at = own.findIndex((token) => Number(token.dataset.unit) === unit)
      const other = all(side === "query" ? "key" : "query")
      const target = {
        ArrowDown: own[at + 1], ArrowUp: own[at - 1], Home: own[0], End: own[own.length - 1],
        ArrowLeft: other[Math.min(at, other.length - 1)], ArrowRight: other[Math.min(at, other.length - 1)],
      }[event.key]
      if (target) { this.rove(target); target.focus() }
    }

    rove(target) {
      for (const token of this.stage.querySelectorAll(`.token[data-side=${target.dataset.side}][tabindex="0"]`)) token.tabIndex = -1
      target.tabIndex = 0
    }

    enter(side, unit, event) {
      this.setHover({ side, unit })
      const box = event.currentTarget.getBoundingClientRect()
      this.showTip(this.painter?.tip?.(side, unit), box.left + box.width / 2, box.bottom + 4)
    }

    setHover(hover) {
      if (!hover) this.tip.hidden = true
      if (same(hover, this.hover)) return
      this.hover = hover
      this.mark()
      this.paint()
    }

    focus() {
      const { selected } = this.now
      if (selected) return { side: selected.side, unit: selected.token }
      return this.hover?.side ? this.hover : null
    }

    /** Show on the tokens which are pinned and which are pointed at. */
    mark() {
      for (const token of this.stage.querySelectorAll(".token.pinned, .token.hot")) {
        token.classList.remove("pinned", "hot")
        token.setAttribute("aria-pressed", "false")
      }
      const { selected } = this.now
      const pinned = selected && this.token(selected.side, selected.token)
      pinned?.classList.add("pinned")
      pinned?.setAttribute("aria-pressed", "true")
      if (this.hover?.side) this.token(this.hover.side, this.hover.unit)?.classList.add("hot")
      this.painter?.mark?.()
    }

    showTip(children, x, y) {
      if (!children) { this.tip.hidden = true; return }
      this.tip.replaceChildren(...children)
      this.tip.hidden = false
      const box = this.box.getBoundingClientRect(), tip = this.tip.getBoundingClientRect()
      const left = Math.max(2, Math.min(x - box.left - tip.width / 2, box.width - tip.width - 2))
      const below = y - box.top + tip.height + 2 < box.height
      const top = below ? y - box.top : Math.max(2, y - box.top - tip.height - 34)
      this.tip.style.left = `${left}px`
      this.tip.style.top = `${top}px`
    }

    // ---------------------------------------------------------------------------------------------- tooltips and footnotes

    title(text) { return element("div", { class: "title", text }) }

    /** A table of pairs: [text, place in (query, key)]. */
    pairTable(found, entries) {
      const { words } = this
      const head = ["", words.before, words.after, words.change].map((text) => element("th", { text }))
      const rows = entries.map(([text, at]) => element("tr", {}, [
        element("td", { class: "text", text }), element("td", { text: figure(found.before[at]) }),
        element("td", { text: `→ ${figure(found.after[at])}` }),
        element("td", { class: signOf(found.change[at]), text: signed(found.change[at]) })]))
      return element("table", {}, [element("tr", {}, head), ...rows])
    }

    pairTip(found, i, j) {
      return [this.title(`${this.text(i)} → ${this.text(j)}`), this.pairTable(found, [["", i * found.width + j]]),
        element("div", { class: "label", text: `${this.words.query}: ${fill(this.words.rowChange, { n: figure(found.js[i]) })}` })]
    }

    tokenTip(found, side, unit, places) {
      const other = (at) => (side === "query" ? at % found.width : Math.floor(at / found.width))
      const js = side === "query" ? [element("div", { class: "label", text: fill(this.words.rowChange, { n: figure(found.js[unit]) }) })] : []
      const table = places.length ? [this.pairTable(found, places.slice(0, 6).map((at) => [this.text(other(at)), at]))]
        : [element("div", { class: "label", text: fill(this.words.noChange, { n: figure(this.now.threshold) }) })]
      return [this.title(this.text(unit)), ...js, ...table]
    }

    footnote(text) { return element("span", { text }) }

    /** What red and blue are: lines, whole and dashed, or cells, of which blue ones have a minus sign. */
    legend(cells = false) {
      const line = (sign) => element("span", { class: "group" }, [
        cells ? element("span", { class: `cell ${sign}`, text: sign === "more" ? "+" : "−" })
          : shape("svg", { width: 34, height: 8 }, [shape("path", { class: sign, d: "M0 4H34", "stroke-width": 2.5 })]),
        element("b", { class: sign, text: fill(this.words[sign], { tuned: this.data.tuned, base: this.data.base }) })])
      return [line("more"), line("less")]
    }

    barNote() { return element("span", { class: "group", title: this.words.jsHelp }, [element("span", { class: "chip" }), this.words.jsFoot]) }

    facts() {
      const { words, data } = this, digits = Math.ceil(Math.log10(data.levels))
      const error = (Math.ceil(10 ** digits / data.levels) / 10 ** digits).toFixed(digits)
      return [this.footnote(fill(data.unit === "word" ? words.words : words.tokens, { n: data.tokens.length })),
        this.footnote(fill(words.accuracy, { n: error }))]
    }

    /** A scale of colours, between two texts. */
    ramp(colours, from, to) {
      return element("span", { class: "group" }, [
        from, element("span", { class: "ramp", style: { background: `linear-gradient(90deg, ${colours.join(", ")})` } }), to])
    }

    /** Colours of -64 to 64, blue over the card to red: shares of the largest change, by their square root. */
    diverging() {
      const [card, more, less] = [this.colours.card, this.colours.more, this.colours.less].map(parts)
      return Array.from({ length: 129 }, (_, i) => mix(card, i < 64 ? less : more, Math.abs(i - 64) / 64))
    }
  }

  // ------------------------------------------------------------------------------------------------ lines

  const linesPainter = (view) => {
    const found = view.shown()
    if (!found) return null
    const { words, now } = view, { rows, columns, js } = found
    const texts = [...new Set([...rows, ...columns])].map((i) => widthOf(view.text(i)))
    const room = view.stage.clientWidth, width = Math.max(520, Math.min(room, 1100)), start = Math.max(0, (room - width) / 2)
    const text = Math.min(Math.max(116, texts.reduce((a, b) => Math.max(a, b), 0)), 170, width * 0.19), top = 28
    const x0 = start + NUMBERS + BAR + text, x1 = start + width - NUMBERS - text
    const height = top + ROW * Math.max(rows.length, columns.length) + 8
    const order = { query: new Map(rows.map((i, at) => [i, at])), key: new Map(columns.map((j, at) => [j, at])) }
    const middle = (at) => top + at * ROW + ROW / 2
    const place = (side, at) => ({ left: `${side === "query" ? x0 - text : x1}px`, top: `${top + at * ROW + 1}px`, width: `${text}px` })
    const { places, count } = largestOf(found.visible, Math.max(now.threshold, 1e-6), MAX_LINES)
    const whole = places.map((at) => rows[Math.floor(at / columns.length)] * found.width + columns[at % columns.length])
    const most = whole.length ? Math.abs(found.change[whole[0]]) : 1

    const line = (at, alone) => { // of one token alone, weak ones are to be seen too
      const i = Math.floor(at / found.width), j = at % found.width, size = Math.min(1, Math.abs(found.change[at]) / most)
      const [y0, y1] = [middle(order.query.get(i)), middle(order.key.get(j))]
      return shape("path", {
        class: signOf(found.change[at]), d: `M${x0 + 2} ${y0}L${x1 - 2} ${y1}`, "data-query": i, "data-key": j,
        "stroke-width": (0.8 + 3.2 * size).toFixed(2), "stroke-opacity": (alone ? 0.5 + 0.5 * size : 0.2 + 0.8 * size).toFixed(2),
      })
    }
    /** What changed for a token, the largest first. */
    const ofToken = ({ side, unit }) => {
      const others = side === "query" ? columns : rows, at = (k) => (side === "query" ? unit * found.width + k : k * found.width + unit)
      const values = Float32Array.from(others, (k) => (now.hideSelf && k === unit ? 0 : found.change[at(k)]))
      return largestOf(values, Math.max(now.threshold, 1e-6), MAX_FOCUS).places.map((k) => at(others[k]))
    }
    const figures = (side, at) => {
      const other = side === "query" ? "key" : "query"
      const unit = other === "key" ? at % found.width : Math.floor(at / found.width)
      const x = other === "key" ? x1 + text + 4 : x0 - text - BAR - 6
      return shape("text", {
        class: signOf(found.change[at]), x, y: middle(order[other].get(unit)) + 4, "text-anchor": other === "key" ? "start" : "end",
        text: `${brief(found.before[at])} → ${brief(found.after[at])}`,
      })
    }
    const bars = rows.flatMap((i, at) => {
      const long = (BAR - 8) * Math.min(1, Math.sqrt(Math.max(0, js[i]) / LN2)), right = x0 - text - 4
      return [shape("rect", { class: "rail", x: right - BAR + 8, y: middle(at) - 4, width: BAR - 8, height: 8, rx: 2 }),
        shape("rect", { class: "js", x: right - long, y: middle(at) - 4, width: long, height: 8, rx: 2 })]
    })
    const every = shape("g", { class: "every" }, [...whole].reverse().map((at) => line(at, false))) // the largest on top
    const only = shape("g", { class: "only" })
    const picture = shape("svg", { width: Math.max(width, room), height, "aria-hidden": "true" }, [...bars, every, only])
    const heading = (name, style, title) => element("div", { class: "heading", text: words[name], style, title })
    const column = (side, units) => units.map((unit, at) => view.tokenButton(side, unit, place(side, at), js[unit]))
    const buttons = { query: column("query", rows), key: column("key", columns) }
    for (const list of Object.values(buttons)) list.forEach((button, at) => { button.tabIndex = at ? -1 : 0 })
    view.lay(Math.max(width, room), height, [picture,
      heading("js", { right: `calc(100% - ${x0 - text - 4}px)` }, words.jsHelp),
      heading("queries", { right: `calc(100% - ${x0 - 6}px)` }), heading("keys", { left: `${x1 + 6}px` }),
      ...buttons.query, ...buttons.key])
    if (!count) view.stage.append(element("div", { class: "note", text: fill(words.noChange, { n: figure(now.threshold) }) }))

    const mark = () => {
      const focus = view.focus(), there = focus && order[focus.side]?.has(focus.unit)
      const own = there ? ofToken(focus) : []
      every.style.display = there ? "none" : ""
      only.replaceChildren(...[...own].reverse().map((at) => line(at, true)), ...own.map((at) => figures(focus.side, at)))
    }
    return {
      mark,
      tip: (side, unit) => {
        const pinned = now.selected
        if (!pinned || pinned.side === side) return view.tokenTip(found, side, unit, ofToken({ side, unit }))
        return side === "key" ? view.pairTip(found, pinned.token, unit) : view.pairTip(found, unit, pinned.token)
      },
      foot: () => [...view.legend(), ...(count ? [view.footnote(fill(words.widest, { n: figure(most) }))] : []), view.barNote(),
        ...view.facts(), ...(count > places.length ? [view.footnote(fill(words.drawn, { n: places.length, m: count }))] : []),
        view.footnote(words.linesHint)],
    }
  }

  // ------------------------------------------------------------------------------------------------ heat maps

  const LEFT_BAR = 26 // of the divergence, beside the names of the rows

  /** One map of the change, or two of the weights side by side; both scroll as one, and only cells in sight are drawn. */
  const heatPainter = (view) => {
    const found = view.shown()
    if (!found) return null
    const { words, colours, now } = view, { rows, columns, width } = found, pair = now.mode === "pair"
    const names = (units, least, most) => Math.min(most, units.reduce((a, i) => Math.max(a, widthOf(view.text(i)) * 0.92), least))
    const aside = names(rows, 50, 130) + LEFT_BAR, above = names(columns, 40, 100) + (pair ? 18 : 0)
    const panes = pair ? 2 : 1, gap = pair ? 14 : 0
    const pane = Math.floor((view.stage.clientWidth - gap) / panes)
    const cell = Math.max(13, Math.min(46, Math.floor((pane - aside - 6) / columns.length))), tall = Math.max(13, Math.min(cell, TALL))
    const most = Math.max(1e-6, (pair ? [found.before, found.after] : [found.visible])
      .reduce((a, values) => values.reduce((b, x) => Math.max(b, Math.abs(x)), a), 0))
    const spread = view.diverging(), strong = sequential(colours)
    const whole = [aside + columns.length * cell + 4 + (panes - 1) * (pane + gap), above + rows.length * tall + 4]
    view.lay(Math.max(whole[0], 1), whole[1], [element("div", { class: "pin" }, [view.canvas])])
    view.stage.setAttribute("role", "group")
    view.stage.setAttribute("aria-label", `${words[now.mode]}. ${words.heatHint}`)
    const dropped = (i, j) => now.hideSelf && i === j

    const colourOf = (values, at) => {
      if (pair) return strong[Math.round(64 * Math.min(1, values[at] / most))]
      const share = Math.sqrt(Math.min(1, Math.abs(values[at]) / most))
      return spread[64 + Math.round(64 * share) * Math.sign(values[at])]
    }
    const sign = (pen, value, x, y, ink) => { // what is less has a bar, where a number has no room
      if (pair || value >= 0 || Math.abs(value) < most * 0.06) return
      pen.fillStyle = ink
      pen.fillRect(x + cell * 0.28, y + tall / 2 - 1, cell * 0.44, 1.6)
    }
    const drawCells = (pen, values, box, seen) => {
      for (let r = seen.rows[0]; r < seen.rows[1]; r++) {
        for (let c = seen.columns[0]; c < seen.columns[1]; c++) {
          const at = rows[r] * width + columns[c], x = box.x + c * cell, y = box.y + r * tall
          const colour = dropped(rows[r], columns[c]) ? colours.grid : colourOf(values, at)
          pen.fillStyle = colour
          pen.fillRect(x, y, cell - 1, tall - 1)
          if (dropped(rows[r], columns[c])) continue
          const value = values[at], says = Math.abs(value) >= 0.005 && cell >= 32
          if (says) {
            pen.fillStyle = inkOn(colour)
            pen.textAlign = "center"
            pen.font = "10.5px Inter, system-ui, sans-serif"
            pen.fillText(pair ? brief(value) : short(value), x + (cell - 1) / 2, y + tall / 2)
          } else sign(pen, value, x, y, inkOn(colour))
        }
      }
    }
    const clip = (pen, x, y, w, h, draw) => {
      pen.save()
      pen.beginPath()
      pen.rect(x, y, Math.max(0, w), Math.max(0, h))
      pen.clip()
      draw()
      pen.restore()
    }
    const named = (pen, unit, hot) => {
      const out = unit === view.data.tokens.length
      pen.fillStyle = hot ? colours.accent : out || view.data.isSpecial[unit] ? colours.muted : colours.ink
      pen.font = `${hot ? "650 " : out ? "italic " : ""}12px Inter, "Segoe UI", system-ui, "Noto Sans CJK JP", sans-serif`
    }
    const clipped = (pen, text, room) => {
      if (pen.measureText(text).width <= room) return text
      let letters = [...text]
      while (letters.length > 1 && pen.measureText(`${letters.join("")}…`).width > room) letters = letters.slice(0, -1)
      return `${letters.join("")}…`
    }
    const drawNames = (pen, left, box, seen, height) => {
      const cellAt = view.hover?.cell, chosen = (side, unit) => now.selected?.side === side && now.selected.token === unit
      clip(pen, left, above, aside, height - above, () => {
        for (let r = seen.rows[0]; r < seen.rows[1]; r++) {
          const y = box.y + r * tall + tall / 2, i = rows[r]
          const long = (LEFT_BAR - 8) * Math.min(1, Math.sqrt(Math.max(0, found.js[i]) / LN2))
          pen.fillStyle = colours.line
          pen.fillRect(left + 3, y - 4, LEFT_BAR - 8, 8)
          pen.fillStyle = colours.bar
          pen.fillRect(left + 3 + (LEFT_BAR - 8) - long, y - 4, long, 8)
          named(pen, i, cellAt?.[0] === r || chosen("query", i))
          pen.textAlign = "right"
          pen.fillText(clipped(pen, view.text(i), aside - LEFT_BAR - 8), left + aside - 6, y)
        }
      })
      clip(pen, left + aside, 0, pane - aside, above, () => {
        for (let c = seen.columns[0]; c < seen.columns[1]; c++) {
          pen.save()
          pen.translate(box.x + c * cell + cell / 2, above - 5)
          pen.rotate(-Math.PI / 2)
          named(pen, columns[c], cellAt?.[1] === c || chosen("key", columns[c]))
          pen.textAlign = "left"
          pen.fillText(clipped(pen, view.text(columns[c]), above - (pair ? 26 : 8)), 0, 0)
          pen.restore()
        }
      })
    }
    /** Which rows and columns are in sight. */
    const sight = (height) => {
      const { scrollLeft, scrollTop } = view.stage, inner = pane - aside
      const range = (from, room, size, n) => [Math.max(0, Math.floor(from / size)), Math.max(0, Math.min(n, Math.ceil((from + room) / size)))]
      return { rows: range(scrollTop, height - above, tall, rows.length), columns: range(scrollLeft, inner, cell, columns.length) }
    }
    const frame = (pen, box) => {
      const at = view.hover?.cell
      if (!at) return
      pen.strokeStyle = colours.ink
      pen.lineWidth = 2
      pen.strokeRect(box.x + at[1] * cell - 1, box.y + at[0] * tall - 1, cell + 1, tall + 1)
    }
    const draw = (pen, _, height) => {
      const seen = sight(height)
      pen.textBaseline = "middle"
      for (let k = 0; k < panes; k++) {
        const left = k * (pane + gap), box = { x: left + aside - view.stage.scrollLeft, y: above - view.stage.scrollTop }
        clip(pen, left + aside, above, pane - aside, height - above, () => {
          drawCells(pen, pair ? [found.before, found.after][k] : found.change, box, seen)
          frame(pen, box)
        })
        drawNames(pen, left, box, seen, height)
        if (!pair) continue
        pen.fillStyle = colours.muted
        pen.font = "600 12px Inter, system-ui, sans-serif"
        pen.textAlign = "left"
        pen.fillText(clipped(pen, k ? view.data.tuned : view.data.base, pane - aside - 6), left + aside, 10)
      }
    }
    const show = (row, column, x, y) => {
      view.setHover({ cell: [row, column] })
      view.showTip(view.pairTip(found, rows[row], columns[column]), x, y)
    }
    const move = (event) => {
      const box = view.stage.getBoundingClientRect(), x = event.clientX - box.left - 1, y = event.clientY - box.top - 1
      const k = panes > 1 && x >= pane + gap ? 1 : 0, inside = x - k * (pane + gap)
      const row = Math.floor((y + view.stage.scrollTop - above) / tall), column = Math.floor((inside + view.stage.scrollLeft - aside) / cell)
      const off = inside < aside || inside >= pane || y < above || row < 0 || row >= rows.length || column < 0 || column >= columns.length
      if (off) view.setHover(null)
      else show(row, column, event.clientX, event.clientY + 16)
    }
    const press = (event) => {
      const by = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key]
      if (!by) return
      event.preventDefault()
      event.stopPropagation()
      const at = view.hover?.cell || [-by[0], -by[1]]
      const row = Math.min(rows.length - 1, Math.max(0, at[0] + by[0])), column = Math.min(columns.length - 1, Math.max(0, at[1] + by[1]))
      const { stage } = view, inner = pane - aside
      stage.scrollTop = Math.min(row * tall, Math.max(stage.scrollTop, (row + 1) * tall - (stage.clientHeight - above)))
      stage.scrollLeft = Math.min(column * cell, Math.max(stage.scrollLeft, (column + 1) * cell - inner))
      const box = stage.getBoundingClientRect()
      show(row, column, box.left + aside + (column + 0.5) * cell - stage.scrollLeft, box.top + above + (row + 1) * tall - stage.scrollTop + 4)
      view.said.textContent = view.tip.textContent
    }
    const signs = Array.from({ length: 17 }, (_, i) => spread[64 + Math.round(64 * Math.sqrt(Math.abs(i - 8) / 8)) * Math.sign(i - 8)])
    return {
      draw, move, press,
      foot: () => [
        ...(pair ? [view.ramp([colours.card, colours.middle, colours.high], "0", figure(most))]
          : [...view.legend(true), view.ramp(signs, signed(-most), signed(most))]),
        view.footnote(`${words.queries} ↓   ${words.keys} →`), view.barNote(), ...view.facts(), view.footnote(words.heatHint)],
    }
  }

  /** Colours of weights, 0 to 64. */
  const sequential = (colours) => {
    const [low, middle, high] = [colours.card, colours.middle, colours.high].map(parts)
    return Array.from({ length: 65 }, (_, i) => (i < 32 ? mix(low, middle, i / 32) : mix(middle, high, (i - 32) / 32)))
  }

  // ------------------------------------------------------------------------------------------------ all heads

  const allPainter = (view) => {
    const { data, words, now } = view, most = data.heads.reduce((a, b) => Math.max(a, b), 1)
    const size = Math.max(30, Math.min(112, Math.floor((view.stage.clientWidth - 92) / most) - 4))
    const named = (text) => element("div", { class: "name", text })
    const children = [named(""), ...Array.from({ length: most }, (_, head) => named(size < 44 ? head : `${words.head} ${head}`))]
    const colours = view.diverging()
    view.observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting && paintThumb(view, target, colours)) view.observer.unobserve(target)
      }
    }, { root: view.stage, rootMargin: "120px" })
    data.heads.forEach((n, layer) => {
      children.push(named(`${words.layer} ${layer}`))
      for (let head = 0; head < most; head++) children.push(head < n ? thumb(view, layer, head, size) : named(""))
    })
    view.stage.replaceChildren(element("div", { class: "grid", style: { gridTemplateColumns: `64px repeat(${most}, ${size}px)` } }, children))
    const watch = () => {
      view.observer.disconnect()
      for (const button of view.stage.querySelectorAll(".thumb:not([data-painted])")) view.observer.observe(button)
    }
    watch()
    const signs = Array.from({ length: 17 }, (_, i) => colours[64 + Math.round(64 * Math.sqrt(Math.abs(i - 8) / 8)) * Math.sign(i - 8)])
    return {
      added: watch,
      foot: () => [...view.legend(true), view.ramp(signs, signed(-FULL_THUMB), signed(FULL_THUMB)),
        view.footnote(fill(words.thumbScale, { n: FULL_THUMB })), ...view.facts().slice(0, 1), view.footnote(words.allHint)],
    }
  }

  const thumb = (view, layer, head, size) => {
    const { words, now } = view, name = `${words.layer} ${layer}, ${words.head.toLowerCase()} ${head}`
    const open = layer === now.layer && head === now.head
    const button = element("button", {
      type: "button", class: `thumb${open ? " open" : ""}`, "aria-label": name, "data-layer": layer, "data-head": head,
      style: { width: `${size}px` }, onclick: () => view.change({ mode: view.flat, layer, head }),
      onpointerenter: (event) => {
        const largest = button.dataset.largest ? [element("div", { class: "label", text: fill(words.thumbTip, { n: button.dataset.largest }) })] : []
        view.showTip([view.title(name), ...largest], event.clientX, event.clientY + 18)
      },
      onpointerleave: () => { view.tip.hidden = true },
    }, [element("canvas")])
    return button
  }

  /** Draw a head's small picture; true once that is done. */
  const paintThumb = (view, button, colours) => {
    const layer = Number(button.dataset.layer), head = Number(button.dataset.head), found = view.array("thumbs", String(layer))
    if (found === null) view.ask({ thumbs: [layer] })
    if (!found) return false
    const { shape: [, height, width], values } = found.picture, canvas = button.firstChild
    const codes = values.subarray(head * width * height, (head + 1) * width * height)
    canvas.width = width
    canvas.height = height
    const context = canvas.getContext("2d"), image = context.createImageData(width, height)
    let largest = 0
    codes.forEach((code, i) => {
      const change = thumbChange(code), share = Math.min(1, Math.sqrt(Math.abs(change) / FULL_THUMB))
      if (Math.abs(change) > Math.abs(largest)) largest = change
      image.data.set([...parts(colours[64 + Math.round(64 * share) * Math.sign(change)]), 255], 4 * i)
    })
    context.putImageData(image, 0, 0)
    button.dataset.largest = `${largest > 0 ? "+" : largest < 0 ? "−" : ""}${Math.abs(largest).toFixed(2)}`
    button.dataset.painted = "true"
    return true
  }

  // ------------------------------------------------------------------------------------------------ the function

  const open = (root, data, options = {}) => {
    const view = new View(root, data, options)
    return {
      update: (more, changes) => view.update(more, changes), set: (changes) => view.set(changes), state: () => view.state(),
      ready: () => view.ready(), destroy: () => view.destroy(),
    }
  }
  open.maths = { changeOf, largestOf, thumbChange, contrast, visible, figure, signed }
  open.palette = PALETTE
  open.strings = STRINGS
  return open
})()

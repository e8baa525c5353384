/* The attention of one sequence: lines, heat map, all heads as small pictures, and neurons.

   const view = qkspaceAttentionView(rootElement, data, options)
   view.update(data)  view.set({mode, layer, heads, theme, selected, ...})  view.state()  view.ready()  view.destroy()

   It draws into a shadow tree of its own below rootElement, sets no style outside it and asks the network for nothing.

   data   queryTokens: [text]; keyTokens: [text], the same where left out (cross-attention: they differ)
          isSpecial, isSink: [bool] a query token (isSink: the first one where left out); keyIsSpecial, keyIsSink: likewise
          words, keyWords: [number or null] the word of each token, or null
          sentenceB: first token of the second sentence, or null
          nSource: where the query tokens ask those of another sequence (cross-attention) how many these are, or null; it
                  tells the two apart also where they have the same tokens
          layers: [number of each layer in the model]; heads: [heads of each layer]
          levels: weights come as uint8, q = round(levels * sqrt(weight)); back by (q / levels)^2. Off by at most
                  sqrt(weight) / levels + 1 / (4 levels^2): by 0.004 where levels is 255
          attention: [array (head, query, key) uint8 or null where not loaded] a layer
          thumbs: [array (head, y, x) uint8, made in the same way, or null] a layer
          valueNorms: [array (head or key head, key) or null] a layer
          query, key: [array (head or key head, token, d) or null] a layer; scales: [number] a layer
          causal: bool or [bool] a layer; windows: [number or null] a layer
          id: what this is of. An update with the same id and the same tokens adds what it has to what is there.
   An array is a typed array in C order, or {dtype: "uint8" | "float16" | "float32", shape, data}, where data is a typed
   array (float16: its bits as uint16) or base64 of the bytes after deflate ({encoding: "deflate-raw" or "gzip"}).

   options  mode, layer, heads, selected, theme, threshold, topK, ... : as in set(); strings: a translation of STRINGS
            height: pixels that the picture may take before it scrolls, or "fill": all of rootElement
            onChange(state): the user changed something; needLayer(layer): its attention is asked for, answer by update()

   state  mode: "lines" | "heat" | "model" | "neurons"; layer: a number in data.layers; heads: [numbers], null: all;
          head: the one of the neurons; selected: {side: "query" | "key", token} or null; threshold; topK (0: all);
          valueWeighted, hideSpecial, hideSink, mergeWords: bool; pair: "all" | "aa" | "ab" | "ba" | "bb";
          theme: "light" | "dark", or "auto": the page's own CSS variables (--card, --ink, ...) where it has them, else
          what the browser prefers */
globalThis.qkspaceAttentionView = (() => {
  "use strict"

  const STRINGS = {
    lines: "Lines", heat: "Heat map", model: "All heads", neurons: "Neurons",
    layer: "Layer", head: "Head", heads: "Heads", previousLayer: "Previous layer", nextLayer: "Next layer",
    allHeads: "All", noHeads: "None", headHelp: "Click: on or off. Double-click: only this head; again: all.",
    threshold: "Least weight", topK: "Per query", all: "all", strongest: "strongest {n}",
    valueWeighted: "Weigh by values", hideSpecial: "Hide special tokens", hideSink: "Hide first token",
    mergeWords: "Whole words", pair: "Sentences", pairAll: "all",
    valueWeightedHelp: "Each weight times the length of the value it passes on, then every row made to sum to 1",
    hideSpecialHelp: "Take away [CLS], [SEP], <s> and the like; what is left of every row is made to sum to 1",
    hideSinkHelp: "Take away the first token, where many heads put what they do not use; rows are made to sum to 1",
    mergeWordsHelp: "Pieces of a word become one: what the pieces receive is summed, what they give is averaged",
    pairHelp: "Only attention from the first to the second part of the arrow",
    query: "query", key: "key", queries: "Queries: from", keys: "Keys: to",
    noHead: "No head is chosen. Click a coloured square above, or All.",
    noTokens: "Nothing is left to show: every token of this choice is hidden.",
    loading: "Loading layer {n} ...", notLoaded: "The attention of layer {n} is not in this view.",
    broken: "The attention of layer {n} could not be read: {why}",
    noVectors: "The query and key vectors of this layer are not in this view, only its attention. Give them "
      + "(queries=, keys=) to see its neurons.",
    neuronHint: "Query: “{token}”. Click another token to open its query.",
    neuronDiffers: "The model's own attention differs by up to {n}: it adds something to q · k, such as a position term.",
    linesHint: "Hover a token to see only its lines, click to keep it, Escape to let it go.",
    modelHint: "Each square is a head: rows are queries, columns keys. Click one to open it.",
    bandQuery: "q", bandKey: "k", bandProduct: "q × k", logit: "scale · (q · k)", softmax: "softmax",
    average: "mean of {n} heads", accuracy: "Weights are rounded, by {n} at most.", tokens: "Tokens: {n}.", words: "Words: {n}.",
    linesShown: "Drawn: the strongest {n} of {m} lines.", attendsTo: "attends most to", attendedBy: "is attended to most by",
    mean: "mean", dimension: "dimension {n}", token: "token {n}", svg: "Save SVG", svgHelp: "Save this picture as SVG",
    positive: "positive", negative: "negative", scale: "0 to {n}",
  }
  const MODES = ["lines", "heat", "model", "neurons"]
  const PAIRS = { all: null, aa: [0, 0], ab: [0, 1], ba: [1, 0], bb: [1, 1] }
  const DEFAULTS = {
    mode: "lines", layer: null, heads: null, head: null, selected: null, threshold: 0.02, topK: 0, valueWeighted: false,
    hideSpecial: false, hideSink: false, mergeWords: false, pair: "all", theme: "auto",
  }
  const OPTIONS = ["valueWeighted", "hideSpecial", "hideSink", "mergeWords"]
  const MAX_LINES = 12000 // drawn at once; the strongest, and the view says so
  const QUICK_LINES = 1500 // while the picture scrolls
  const THUMB = 48 // pixels of a small picture, at most
  const ROW = 22
  const PALETTE = {
    light: {
      card: "#FFFFFF", ink: "#1D2430", muted: "#5D6778", line: "#DDE1E7", field: "#FFFFFF", accent: "#5B4B8A",
      "accent-ink": "#FFFFFF", query: "#1F6FB5", key: "#D9622B", grid: "#ECEEF2",
    },
    dark: {
      card: "#1B2028", ink: "#E6E9EF", muted: "#9AA4B5", line: "#313946", field: "#232934", accent: "#B7A6EE",
      "accent-ink": "#12151B", query: "#62A9E8", key: "#F5A06B", grid: "#232934",
    },
  }
  const SIGNS = { light: ["#1B7837", "#762A83"], dark: ["#7FD694", "#D79AE6"] } // PRGn: told apart by the colour-blind

  const CSS = `
  :host { display: block; height: 100%; }
  * { box-sizing: border-box; }
  .view { position: relative; display: flex; flex-direction: column; gap: 8px; color: var(--ink); background: var(--card);
    font: 13px/1.4 Inter, "Segoe UI", system-ui, "Noto Sans", "Noto Sans CJK JP", sans-serif; min-width: 0; }
  .view.fill { height: 100%; }
  .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; }
  .group { display: flex; align-items: center; gap: 5px; }
  .label { color: var(--muted); font-size: 12px; white-space: nowrap; }
  .push { margin-left: auto; }
  button, select { font: inherit; color: var(--ink); background: var(--field); border: 1px solid var(--line);
    border-radius: 6px; height: 28px; padding: 0 9px; cursor: pointer; }
  button:hover:not(:disabled), select:hover { border-color: var(--accent); }
  button:disabled { opacity: .45; cursor: default; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
  .tabs { display: flex; }
  .tabs button { border-radius: 0; margin-left: -1px; }
  .tabs button:first-child { border-radius: 6px 0 0 6px; margin: 0; }
  .tabs button:last-child { border-radius: 0 6px 6px 0; }
  .tabs button[aria-selected=true] { background: var(--accent); color: var(--accent-ink); border-color: var(--accent);
    font-weight: 600; position: relative; }
  .step { width: 28px; padding: 0; font-size: 15px; }
  .chips { display: flex; flex-wrap: wrap; gap: 3px; }
  .chip { width: 24px; height: 22px; padding: 0; border-radius: 4px; font-size: 11px; font-weight: 600; border-width: 2px;
    font-variant-numeric: tabular-nums; }
  .chip[aria-pressed=false] { background: transparent !important; color: var(--muted) !important; }
  .small { height: 22px; font-size: 12px; padding: 0 7px; }
  input[type=range] { width: 92px; accent-color: var(--accent); margin: 0; cursor: pointer; }
  input[type=checkbox] { accent-color: var(--accent); margin: 0; }
  .range output { min-width: 34px; font-variant-numeric: tabular-nums; font-size: 12px; }
  label.group { cursor: pointer; font-size: 12px; }
  label.group:has(input:disabled) { opacity: .45; }
  .stage { position: relative; overflow: auto; border: 1px solid var(--line); border-radius: 8px; min-height: 72px; scrollbar-gutter: stable; }
  .view.fill { padding: 12px; }
  .fill .stage { flex: 1 1 0; }
  .body { position: relative; min-width: 100%; }
  .pin { position: sticky; top: 0; left: 0; width: 0; height: 0; }
  .pin canvas { position: absolute; top: 0; left: 0; pointer-events: none; }
  .token { position: absolute; height: 20px; line-height: 18px; padding: 0 6px; border: 1px solid transparent; background: none;
    border-radius: 4px; white-space: pre; overflow: hidden; text-overflow: ellipsis; user-select: text; font-size: 13px; }
  .token.left { text-align: right; }
  .token.right { text-align: left; }
  .token.special { color: var(--muted); font-size: 12px; }
  .token.hot { background: color-mix(in srgb, var(--accent) 16%, transparent); }
  .token.pinned { border-color: var(--accent); background: color-mix(in srgb, var(--accent) 22%, transparent); font-weight: 650; }
  .token.down { writing-mode: vertical-rl; text-orientation: sideways; transform: rotate(180deg); text-align: left; line-height: 1; padding: 5px 0; }
  .across, .aside { position: sticky; z-index: 2; background: var(--card); }
  .across { top: 0; }
  .aside { left: 0; z-index: 1; }
  .corner { position: sticky; left: 0; top: 0; z-index: 3; background: var(--card); color: var(--muted); font-size: 11px; }
  .heading { position: absolute; color: var(--muted); font-size: 12px; font-weight: 600; white-space: nowrap; }
  .heading.q { color: color-mix(in srgb, var(--query) 80%, var(--ink)); }
  .heading.k { color: color-mix(in srgb, var(--key) 70%, var(--ink)); }
  .hint { font-size: 13px; }
  .note { padding: 22px; color: var(--muted); text-align: center; }
  .grid { display: grid; gap: 4px; padding: 8px; justify-content: start; align-items: center; }
  .grid .name { color: var(--muted); font-size: 11px; text-align: center; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .thumb { padding: 0; height: auto; border-radius: 3px; line-height: 0; overflow: hidden; aspect-ratio: 1; }
  .thumb canvas { width: 100%; height: 100%; image-rendering: pixelated; }
  .thumb:hover, .thumb.open { outline: 2px solid var(--accent); outline-offset: 0; }
  .foot { display: flex; flex-wrap: wrap; gap: 4px 14px; color: var(--muted); font-size: 12px; align-items: center; }
  .ramp { display: inline-block; width: 90px; height: 9px; border-radius: 4px; border: 1px solid var(--line); }
  .tip { position: absolute; z-index: 9; pointer-events: none; background: var(--card); border: 1px solid var(--line);
    border-radius: 6px; box-shadow: 0 3px 14px rgb(0 0 0 / .22); padding: 6px 9px; font-size: 12px; max-width: 340px; }
  .tip table { border-collapse: collapse; }
  .tip td { padding: 0 8px 0 0; font-variant-numeric: tabular-nums; }
  .tip td.text { max-width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: pre; }
  .tip .columns { column-width: 92px; max-height: 190px; column-fill: auto; }
  .tip .entry { display: flex; align-items: center; gap: 5px; white-space: nowrap; font-variant-numeric: tabular-nums;
    break-inside: avoid; }
  .swatch { width: 9px; height: 9px; border-radius: 2px; flex: none; }
  [hidden] { display: none !important; }`

  // ------------------------------------------------------------------------------------------------ mathematics
  // Matrices are Float32Array in C order; units are lists of tokens, each shown as one.

  /** Weights of the codes 0 to 255. */
  const codebook = (levels) => Float32Array.from({ length: 256 }, (_, code) => (code / levels) ** 2)

  const quantise = (weights, levels) => Uint8Array.from(weights, (weight) => Math.round(Math.sqrt(weight) * levels))

  const dequantise = (codes, levels) => {
    const table = codebook(levels), out = new Float32Array(codes.length)
    for (let i = 0; i < out.length; i++) out[i] = table[codes[i]]
    return out
  }

  /** Rows made to sum to 1; a row of zeros stays. */
  const renormalise = (matrix, nKeys) => {
    const out = Float32Array.from(matrix)
    for (let start = 0; start < out.length; start += nKeys) {
      let sum = 0
      for (let j = start; j < start + nKeys; j++) sum += out[j]
      if (sum > 0) for (let j = start; j < start + nKeys; j++) out[j] /= sum
    }
    return out
  }

  /** Each column times a number: a value's norm, or 0 where a key is hidden. */
  const scaleColumns = (matrix, factors) => matrix.map((weight, at) => weight * factors[at % factors.length])

  /** Units of n tokens: the tokens of a word together where words are given; hidden ones left out. */
  const unitsOf = (n, words, hidden) => {
    const units = []
    let last = null
    for (let token = 0; token < n; token++) {
      if (hidden && hidden[token]) { last = null; continue }
      const word = words ? words[token] : null
      if (word !== null && word !== undefined && word >= 0 && word === last) units[units.length - 1].push(token)
      else units.push([token])
      last = word !== undefined && word >= 0 ? word : null
    }
    return units
  }

  /** Columns of a unit summed, rows averaged (rows of zeros, whose keys are all hidden, do not count). */
  const gather = (matrix, nKeys, rows, columns) => {
    const out = new Float32Array(rows.length * columns.length)
    if (rows.length * nKeys === matrix.length && columns.length === nKeys) { out.set(matrix); return out } // all stand alone
    rows.forEach((tokens, r) => {
      const counted = tokens.length === 1 ? tokens : tokens.filter((i) => rowSum(matrix, nKeys, i) > 0)
      for (const i of counted) {
        columns.forEach((keys, c) => {
          let sum = 0
          for (const j of keys) sum += matrix[i * nKeys + j]
          out[r * columns.length + c] += sum / counted.length
        })
      }
    })
    return out
  }

  const rowSum = (matrix, nKeys, i) => {
    let sum = 0
    for (let j = i * nKeys; j < (i + 1) * nKeys; j++) sum += matrix[j]
    return sum
  }

  /** Of a matrix as the model gave it, what is shown. */
  const transform = (matrix, nKeys, { norms = null, hidden = null, rows, columns }) => {
    let out = matrix
    if (norms) out = scaleColumns(out, norms)
    if (hidden && hidden.some(Boolean)) out = scaleColumns(out, hidden.map((is) => (is ? 0 : 1)))
    if (out !== matrix) out = renormalise(out, nKeys)
    return gather(out, nKeys, rows, columns)
  }

  /** Units on one side of a pair of sentences: part 0 before sentenceB, part 1 from it on. */
  const onSide = (units, sentenceB, part) => units.filter((tokens) => (tokens[0] >= sentenceB ? 1 : 0) === part)

  /** Places of a row's weights of at least the threshold, the k strongest (0: all), strongest first. */
  const strongestOf = (row, threshold, k) => {
    const places = []
    for (let j = 0; j < row.length; j++) if (row[j] > 0 && row[j] >= threshold) places.push(j)
    places.sort((a, b) => row[b] - row[a] || a - b)
    return k > 0 ? places.slice(0, k) : places
  }

  const average = (matrices) => {
    const out = new Float32Array(matrices[0].length)
    for (const matrix of matrices) for (let i = 0; i < out.length; i++) out[i] += matrix[i] / matrices.length
    return out
  }

  /** A picture of at most `side` by `side`, each pixel the largest weight that falls into it. */
  const pool = (matrix, nRows, nColumns, side) => {
    const height = Math.min(side, nRows), width = Math.min(side, nColumns), out = new Float32Array(height * width)
    for (let i = 0; i < nRows; i++) {
      const y = Math.floor((i * height) / nRows) * width
      for (let j = 0; j < nColumns; j++) {
        const at = y + Math.floor((j * width) / nColumns)
        if (matrix[i * nColumns + j] > out[at]) out[at] = matrix[i * nColumns + j]
      }
    }
    return { width, height, pixels: out }
  }

  /** scale * q . k for one query and every key of (key, d). */
  const logitsOf = (query, keys, d, scale) => {
    const out = new Float32Array(keys.length / d)
    for (let j = 0; j < out.length; j++) {
      let sum = 0
      for (let x = 0; x < d; x++) sum += query[x] * keys[j * d + x]
      out[j] = scale * sum
    }
    return out
  }

  const softmax = (logits, allowed) => {
    let most = -Infinity, sum = 0
    logits.forEach((logit, j) => { if (allowed(j) && logit > most) most = logit })
    const out = Float32Array.from(logits, (logit, j) => (allowed(j) ? Math.exp(logit - most) : 0))
    for (const weight of out) sum += weight
    return sum > 0 ? out.map((weight) => weight / sum) : out
  }

  /** float16, as its bits, to float32. */
  const fromHalf = (bits) => Float32Array.from(bits, (half) => {
    const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023
    if (exponent === 0) return sign * fraction * 2 ** -24
    if (exponent === 31) return fraction ? NaN : sign * Infinity
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
  })

  /** Colours of heads, any number: hues by the golden angle, lightness in turn, so that neighbours differ in both (OKLCH). */
  const headColour = (head, dark) => {
    const light = (dark ? [0.76, 0.85, 0.67] : [0.52, 0.64, 0.42])[(head + Math.floor(head / 21)) % 3]
    const hue = ((head * 137.508 + 250) * Math.PI) / 180, chroma = dark ? 0.13 : 0.15
    const a = chroma * Math.cos(hue), b = chroma * Math.sin(hue)
    const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3
    return hex([
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ].map((x) => {
      const inside = Math.min(1, Math.max(0, x))
      return 255 * (inside <= 0.0031308 ? 12.92 * inside : 1.055 * inside ** (1 / 2.4) - 0.055)
    }))
  }

  const hex = (rgb) => "#" + rgb.map((x) => Math.round(x).toString(16).padStart(2, "0")).join("")
  const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))
  const mix = (from, to, share) => hex(from.map((x, i) => x + (to[i] - x) * share))
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

  const number = (weight) => {
    if (weight >= 0.9995) return weight.toFixed(2)
    if (weight >= 0.0995) return weight.toFixed(2).replace(/^0/, "")
    return weight < 0.0005 ? "0" : weight.toFixed(3).replace(/^0/, "")
  }

  const figure = (weight) => number(weight).replace(/^\./, "0.")

  const maths = {
    quantise, dequantise, renormalise, scaleColumns, unitsOf, gather, transform, onSide, strongestOf, average, pool, logitsOf,
    softmax, fromHalf, headColour, contrast, visible, number,
  }

  // ------------------------------------------------------------------------------------------------ what comes in

  /** Bokeh hands dictionaries over as Map. */
  const plain = (value) => {
    if (value instanceof Map) return Object.fromEntries([...value].map(([name, inner]) => [name, plain(inner)]))
    if (Array.isArray(value)) return value.map(plain)
    const bare = value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype
    return bare ? Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plain(inner)])) : value
  }

  const TYPES = { uint8: Uint8Array, float16: Uint16Array, float32: Float32Array }

  /** An array of data as a typed array: uint8 as it is, all others as float32. A promise only where bytes are packed. */
  const unpack = (array) => {
    if (ArrayBuffer.isView(array)) return array
    if (Array.isArray(array)) return Float32Array.from(array)
    const finish = (values) => (array.dtype === "float16" ? fromHalf(values) : values)
    if (array.data instanceof ArrayBuffer) return finish(new TYPES[array.dtype](array.data))
    if (typeof array.data !== "string") return finish(array.data)
    const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0))
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(array.encoding || "deflate-raw"))
    return new Response(stream).arrayBuffer().then((buffer) => finish(new TYPES[array.dtype](buffer)))
  }

  const PER_LAYER = ["attention", "thumbs", "valueNorms", "query", "key"]
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b)

  /** data with what was left out filled in. */
  const complete = (given) => {
    const data = { ...given }
    const empty = data.layers.map(() => null)
    data.levels = data.levels || 255
    for (const name of PER_LAYER) data[name] = data[name] ? [...data[name]] : [...empty]
    const isNumber = data.nSource !== null && data.nSource !== undefined
    data.cross = isNumber || (Boolean(data.keyTokens) && !same(data.keyTokens, data.queryTokens))
    data.keyTokens = data.keyTokens || data.queryTokens
    const first = (tokens) => tokens.map((_, i) => i === 0)
    data.isSpecial = data.isSpecial || data.queryTokens.map(() => false)
    data.isSink = data.isSink || first(data.queryTokens)
    data.words = data.words || null
    data.keyIsSpecial = data.keyIsSpecial || (data.cross ? data.keyTokens.map(() => false) : data.isSpecial)
    data.keyIsSink = data.keyIsSink || (data.cross ? first(data.keyTokens) : data.isSink)
    data.keyWords = data.keyWords || (data.cross ? null : data.words)
    return data
  }

  /** Old data with what an update adds, where it is of the same thing; else the new. */
  const merged = (old, given) => {
    const more = plain(given)
    const sameThing = !more.queryTokens || (more.id === old.id && same(more.queryTokens, old.queryTokens)
      && same(more.keyTokens || more.queryTokens, old.keyTokens) && same(more.layers, old.layers))
    if (!sameThing) return complete(more)
    const data = { ...old }
    for (const name of PER_LAYER) if (more[name]) data[name] = old[name].map((was, i) => more[name][i] ?? was)
    if (more.levels) data.levels = more.levels
    return data
  }

  // ------------------------------------------------------------------------------------------------ pens
  // The same drawing goes to the screen and into a file.

  class CanvasPen {
    constructor(context) { this.context = context; this.paths = new Map() }

    line(x0, y0, x1, y1, colour, alpha, width) {
      const step = Math.ceil(alpha * 20), name = `${colour}/${step}/${width}`
      let entry = this.paths.get(name)
      if (!entry) this.paths.set(name, (entry = { path: new Path2D(), colour, alpha: step / 20, width }))
      entry.path.moveTo(x0, y0)
      entry.path.lineTo(x1, y1)
    }

    rect(x, y, width, height, colour, alpha = 1) {
      this.context.globalAlpha = alpha
      this.context.fillStyle = colour
      this.context.fillRect(x, y, width, height)
    }

    frame(x, y, width, height, colour) {
      this.context.globalAlpha = 1
      this.context.strokeStyle = colour
      this.context.lineWidth = 1
      this.context.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1)
    }

    text(text, x, y, colour, { size = 11, align = "left" } = {}) {
      this.context.globalAlpha = 1
      this.context.fillStyle = colour
      this.context.font = `${size}px Inter, "Segoe UI", system-ui, sans-serif`
      this.context.textAlign = align
      this.context.textBaseline = "middle"
      this.context.fillText(text, x, y)
    }

    end() { // weak lines first, so that strong ones lie on top
      for (const { path, colour, alpha, width } of [...this.paths.values()].sort((a, b) => a.alpha - b.alpha)) {
        this.context.globalAlpha = alpha
        this.context.strokeStyle = colour
        this.context.lineWidth = width
        this.context.stroke(path)
      }
      this.context.globalAlpha = 1
    }
  }

  const xml = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`)
  const short = (x) => String(Math.round(x * 100) / 100)

  class SvgPen {
    constructor(width, height, background) {
      this.out = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${short(width)} ${short(height)}" `
        + `width="${short(width)}" height="${short(height)}" font-family="Inter, 'Segoe UI', 'Noto Sans', sans-serif">`
        + `<rect width="100%" height="100%" fill="${background}"/>`]
    }

    line(x0, y0, x1, y1, colour, alpha, width) {
      this.out.push(`<path d="M${short(x0)} ${short(y0)}L${short(x1)} ${short(y1)}" stroke="${colour}" `
        + `stroke-opacity="${short(alpha)}" stroke-width="${width}"/>`)
    }

    rect(x, y, width, height, colour, alpha = 1) {
      this.out.push(`<rect x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}" `
        + `fill="${colour}" fill-opacity="${short(alpha)}"/>`)
    }

    frame(x, y, width, height, colour) {
      this.out.push(`<rect x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}" `
        + `fill="none" stroke="${colour}"/>`)
    }

    text(text, x, y, colour, { size = 11, align = "left", down = false } = {}) {
      const anchor = { left: "start", right: "end", center: "middle" }[align]
      const turn = down ? ` transform="rotate(-90 ${short(x)} ${short(y)})"` : ""
      this.out.push(`<text x="${short(x)}" y="${short(y)}" fill="${colour}" font-size="${size}" text-anchor="${anchor}" `
        + `dominant-baseline="central"${turn}>${xml(text)}</text>`)
    }

    end() { this.out.push("</svg>") }
    toString() { return this.out.join("\n") }
  }

  // ------------------------------------------------------------------------------------------------ elements

  const element = (name, properties = {}, children = []) => {
    const made = document.createElement(name)
    for (const [key, value] of Object.entries(properties)) {
      if (key === "style") Object.assign(made.style, value)
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value)
      else if (key === "class") made.className = value
      else if (key === "text") made.textContent = value
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value)
    }
    made.append(...children)
    return made
  }

  const fill = (template, n, m) => template.replace("{n}", n).replace("{m}", m).replace("{token}", n).replace("{why}", m)

  // ------------------------------------------------------------------------------------------------ the view

  class View {
    constructor(root, data, options) {
      this.options = options
      this.words = { ...STRINGS, ...(options.strings || {}) }
      this.data = complete(plain(data))
      this.now = { ...DEFAULTS }
      this.hover = null // {side, unit, cell}
      this.unpacked = new Map()
      this.matrices = new Map()
      this.asked = new Set()
      this.observer = null
      this.host = element("div", { style: { height: options.height === "fill" ? "100%" : "auto" } })
      this.tree = this.host.attachShadow({ mode: "open" })
      root.append(this.host)
      this.makeFrame()
      const given = Object.fromEntries(Object.keys(DEFAULTS).filter((name) => name in options).map((n) => [n, options[n]]))
      this.set(given)
    }

    // ---------------------------------------------------------------------------------------------- what hosts call

    state() {
      const { heads, selected } = this.now
      return { ...this.now, heads: heads && [...heads], selected: selected && { ...selected } }
    }

    set(changes) {
      const next = { ...this.now, ...Object.fromEntries(Object.entries(plain(changes)).filter(([name]) => name in DEFAULTS)) }
      this.now = this.checked(next)
      this.refresh()
    }

    update(given) {
      const old = this.data
      this.data = merged(old, given)
      const moved = !same(old.queryTokens, this.data.queryTokens) || !same(old.keyTokens, this.data.keyTokens)
        || old.id !== this.data.id
      if (moved) this.now.selected = null
      this.unpacked.clear()
      this.matrices.clear()
      this.asked.clear()
      this.hover = null
      this.now = this.checked(this.now)
      this.refresh()
    }

    /** Resolves when everything that was asked for is unpacked and drawn. */
    async ready() {
      for (let last; last !== this.drawing;) { last = this.drawing; await last }
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
    }

    destroy() {
      this.gone = true
      clearTimeout(this.rest)
      this.sizes.disconnect()
      this.observer?.disconnect()
      this.scheme.removeEventListener("change", this.onScheme)
      this.host.remove()
    }

    // ---------------------------------------------------------------------------------------------- state

    /** State with only what data can show. */
    checked(state) {
      const { data } = this
      const at = Math.max(0, data.layers.indexOf(state.layer))
      const layer = data.layers[at], n = data.heads[at]
      let heads = state.heads && state.heads.filter((head) => head >= 0 && head < n)
      if (heads && ((state.heads.length && !heads.length) || heads.length === n)) heads = null
      const head = state.head !== null && state.head < n ? state.head : heads && heads.length ? heads[0] : 0
      const { selected } = state
      const tokens = selected && (selected.side === "key" ? data.keyTokens : data.queryTokens)
      const pinned = selected && tokens[selected.token] !== undefined ? { side: selected.side, token: selected.token } : null
      const mode = MODES.includes(state.mode) ? state.mode : "lines"
      const pair = this.pairable() && state.pair in PAIRS ? state.pair : "all"
      return { ...state, layer, heads, head, mode, pair, selected: pinned }
    }

    pairable() { return this.data.sentenceB !== null && this.data.sentenceB !== undefined && !this.data.cross }

    at() { return this.data.layers.indexOf(this.now.layer) }
    nHeads() { return this.data.heads[this.at()] }
    active() { return this.now.heads || Array.from({ length: this.nHeads() }, (_, head) => head) }

    /** The user changed something. */
    change(changes) {
      this.set(changes)
      this.options.onChange?.(this.state())
    }

    // ---------------------------------------------------------------------------------------------- units and weights

    hidden(side) {
      const { data, now } = this
      const special = side === "query" ? data.isSpecial : data.keyIsSpecial
      const sink = side === "query" ? data.isSink : data.keyIsSink
      return special.map((is, i) => (now.hideSpecial && is) || (now.hideSink && Boolean(sink[i])))
    }

    /** The rows and columns that are shown, as lists of tokens. */
    makeUnits() {
      const { data, now } = this
      const plainTokens = now.mode === "neurons"
      const make = (side, tokens, words) => {
        const hidden = plainTokens ? null : this.hidden(side)
        const units = unitsOf(tokens.length, now.mergeWords && !plainTokens ? words : null, hidden)
        const parts = plainTokens ? null : PAIRS[now.pair]
        return parts ? onSide(units, data.sentenceB, parts[side === "query" ? 0 : 1]) : units
      }
      const units = { query: make("query", data.queryTokens, data.words), key: make("key", data.keyTokens, data.keyWords) }
      this.units = units
      this.texts = {
        query: units.query.map((unit) => unit.map((i) => data.queryTokens[i]).join("")),
        key: units.key.map((unit) => unit.map((i) => data.keyTokens[i]).join("")),
      }
    }

    unitOf(side, token) { return this.units[side].findIndex((unit) => unit.includes(token)) }

    pinned() {
      const { selected } = this.now
      const unit = selected ? this.unitOf(selected.side, selected.token) : -1
      return unit < 0 ? null : { side: selected.side, unit }
    }

    focus() { return this.pinned() || (this.hover && this.hover.unit >= 0 ? this.hover : null) }

    /** An array of a layer, unpacked once; undefined while that takes time, null where there is none. */
    array(name, at) {
      const place = `${name}/${at}`
      if (this.unpacked.has(place)) return this.unpacked.get(place)
      const given = this.data[name][at]
      if (given === null || given === undefined) return null
      let made
      try { made = unpack(given) } catch (error) { made = Promise.reject(error) }
      this.unpacked.set(place, undefined)
      if (!(made instanceof Promise)) { this.unpacked.set(place, made); return made }
      const { data } = this
      const done = made.then(
        (values) => { if (this.data === data) this.unpacked.set(place, values) },
        (error) => { if (this.data === data) { this.unpacked.set(place, null); this.fault = error.message } },
      ).then(() => { if (!this.gone && this.data === data) return this.refresh() })
      this.drawing = Promise.all([this.drawing, done]).then(() => undefined)
      return undefined
    }

    /** The weights of a head as shown: (row, column); undefined or null as `array`. */
    matrix(at, head, keep = true) {
      const place = `${at}/${head}`
      if (this.matrices.has(place)) return this.matrices.get(place)
      const codes = this.array("attention", at)
      const weighted = this.now.valueWeighted && this.now.mode !== "neurons"
      const norms = weighted && this.data.valueNorms[at] ? this.array("valueNorms", at) : null
      if (!codes || norms === undefined) return codes ? undefined : codes
      const nQueries = this.data.queryTokens.length, nKeys = this.data.keyTokens.length
      const whole = dequantise(codes.subarray(head * nQueries * nKeys, (head + 1) * nQueries * nKeys), this.data.levels)
      const made = transform(whole, nKeys, {
        norms: norms && this.ofHead(norms, at, head, nKeys),
        hidden: this.now.mode === "neurons" ? null : this.hidden("key"),
        rows: this.units.query, columns: this.units.key,
      })
      if (keep) this.matrices.set(place, made)
      return made
    }

    /** The part of a head in an array of heads or key heads. */
    ofHead(values, at, head, size) {
      const kvHead = Math.floor((head * (values.length / size)) / this.data.heads[at])
      return values.subarray(kvHead * size, (kvHead + 1) * size)
    }

    /** The matrices of the chosen heads; null and a note on the stage where they cannot be shown. */
    shown(heads = this.active()) {
      const at = this.at()
      const [rows, columns] = [this.units.query.length, this.units.key.length]
      if (!heads.length) return this.note(this.words.noHead)
      if (!rows || !columns) return this.note(this.words.noTokens)
      const first = this.matrix(at, heads[0])
      if (!first) return this.missing(at, first)
      return heads.map((head) => this.matrix(at, head))
    }

    missing(at, found) {
      const layer = this.data.layers[at]
      if (found === undefined) return this.note(fill(this.words.loading, layer))
      if (this.fault) return this.note(fill(this.words.broken, layer, this.fault))
      if (!this.options.needLayer) return this.note(fill(this.words.notLoaded, layer))
      this.ask(layer)
      return this.note(fill(this.words.loading, layer))
    }

    ask(layer) {
      if (this.asked.has(layer) || !this.options.needLayer) return
      this.asked.add(layer)
      queueMicrotask(() => { if (!this.gone) this.options.needLayer(layer) })
    }

    note(text) {
      this.stage.replaceChildren(element("div", { class: "note", role: "status", text }))
      this.painter = null
      return null
    }

    // ---------------------------------------------------------------------------------------------- frame and controls

    makeFrame() {
      const { words } = this
      this.canvas = element("canvas", { "aria-hidden": "true" })
      this.stage = element("div", { class: "stage" })
      if (this.options.height !== "fill") this.stage.style.maxHeight = `${this.options.height || 560}px`
      this.tabs = element("div", { class: "tabs", role: "tablist" }, MODES.map((mode) => element("button", {
        type: "button", role: "tab", "data-mode": mode, text: words[mode], onclick: () => this.change({ mode }),
        onkeydown: (event) => this.tabKey(event, mode),
      })))
      this.bar = element("div", { class: "bar" })
      this.chips = element("div", { class: "bar" })
      this.choices = element("div", { class: "bar" })
      this.hint = element("div", { class: "hint", role: "status" })
      this.foot = element("div", { class: "foot" })
      this.tip = element("div", { class: "tip", role: "tooltip", hidden: true })
      const fills = this.options.height === "fill" ? " fill" : ""
      this.box = element("div", { class: `view${fills}` }, [
        this.bar, this.chips, this.choices, this.hint, this.stage, this.foot, this.tip])
      this.tree.append(element("style", { text: CSS }), this.box)
      this.makeBar()
      this.makeChoices()
      this.listen()
    }

    makeBar() {
      const { words } = this
      const step = (by) => this.change({ layer: this.data.layers[this.at() + by] })
      this.layerSelect = element("select", {
        "aria-label": words.layer, "data-role": "layer", onchange: () => this.change({ layer: Number(this.layerSelect.value) }),
      })
      this.headSelect = element("select", {
        "aria-label": words.head, "data-role": "head", onchange: () => this.change({ head: Number(this.headSelect.value) }),
      })
      const arrow = (text, title, by) =>
        element("button", { type: "button", class: "step", text, title, "aria-label": title, onclick: () => step(by) })
      this.back = arrow("‹", words.previousLayer, -1)
      this.forth = arrow("›", words.nextLayer, 1)
      const label = (text) => element("span", { class: "label", text })
      this.layerGroup = element("div", { class: "group" }, [label(words.layer), this.back, this.layerSelect, this.forth])
      this.headGroup = element("div", { class: "group" }, [label(words.head), this.headSelect])
      this.saver = element("button", {
        type: "button", class: "push", text: words.svg, title: words.svgHelp, "data-role": "svg", onclick: () => this.save(),
      })
      this.bar.append(this.tabs, this.layerGroup, this.headGroup, this.saver)
    }

    makeChoices() {
      const { words } = this
      const range = (name, title, max, step, read) => {
        const input = element("input", { type: "range", min: 0, max, step, "aria-label": title, "data-role": name })
        input.addEventListener("input", () => this.change({ [name]: read(Number(input.value)) }))
        const output = element("output")
        const group = element("label", { class: "group range" }, [element("span", { class: "label", text: title }), input, output])
        return { input, output, group }
      }
      this.thresholdRange = range("threshold", words.threshold, 100, 1, (x) => Math.round((x / 100) ** 2 * 1000) / 1000)
      this.topRange = range("topK", words.topK, 20, 1, (x) => (x === 20 ? 0 : x + 1))
      this.boxes = Object.fromEntries(OPTIONS.map((name) => {
        const input = element("input", {
          type: "checkbox", "data-role": name, onchange: () => this.change({ [name]: input.checked }),
        })
        const group = element("label", { class: "group", title: words[`${name}Help`] }, [input, words[name]])
        return [name, { input, group }]
      }))
      const arrows = { all: words.pairAll, aa: "A → A", ab: "A → B", ba: "B → A", bb: "B → B" }
      this.pairSelect = element("select", {
        class: "small", "aria-label": words.pair, "data-role": "pair", onchange: () => this.change({ pair: this.pairSelect.value }),
      }, Object.entries(arrows).map(([value, text]) => element("option", { value, text })))
      this.pairGroup = element("label", { class: "group", title: words.pairHelp }, [
        element("span", { class: "label", text: words.pair }), this.pairSelect])
      this.choices.append(this.thresholdRange.group, this.topRange.group, ...OPTIONS.map((name) => this.boxes[name].group),
        this.pairGroup)
    }

    tabKey(event, mode) {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
      if (!by) return
      event.preventDefault()
      const next = MODES[(MODES.indexOf(mode) + by + MODES.length) % MODES.length]
      this.change({ mode: next })
      this.tabs.querySelector(`[data-mode=${next}]`).focus()
    }

    listen() {
      this.sizes = new ResizeObserver(() => {
        if (this.stage.clientWidth !== this.width) { this.width = this.stage.clientWidth; this.refresh() } else this.paint()
      })
      this.sizes.observe(this.stage)
      this.stage.addEventListener("scroll", () => { // first what is quick, and all once the scrolling rests
        this.scrolling = true
        this.paint()
        clearTimeout(this.rest)
        this.rest = setTimeout(() => { this.scrolling = false; this.paint() }, 160)
      })
      this.stage.addEventListener("pointermove", (event) => this.painter?.move?.(event))
      this.stage.addEventListener("pointerleave", () => { if (this.hover) this.setHover(null) })
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
      const ofPage = getComputedStyle(this.host)
      const given = (name) => theme === "auto" && ofPage.getPropertyValue(`--${name}`).trim()
      const pen = (this.probe ||= document.createElement("canvas").getContext("2d"))
      const asHex = (colour) => { pen.fillStyle = "#808080"; pen.fillStyle = colour; return pen.fillStyle.slice(0, 7) }
      let name = theme === "auto" ? (this.scheme?.matches ? "dark" : "light") : theme
      if (given("card")) name = luminance(parts(asHex(given("card")))) < 0.3 ? "dark" : "light"
      this.dark = name === "dark"
      this.colours = {}
      for (const [key, own] of Object.entries(PALETTE[this.dark ? "dark" : "light"])) {
        if (given(key)) this.box.style.removeProperty(`--${key}`)
        else this.box.style.setProperty(`--${key}`, own)
        this.colours[key] = given(key) ? asHex(given(key)) : own
      }
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
      const options = (select, numbers, chosen) => {
        select.replaceChildren(...numbers.map((n) => element("option", { value: n, text: n })))
        select.value = String(chosen)
      }
      options(this.layerSelect, data.layers, now.layer)
      options(this.headSelect, Array.from({ length: this.nHeads() }, (_, head) => head), now.head)
      this.back.disabled = this.at() === 0
      this.forth.disabled = this.at() === data.layers.length - 1
      const flat = now.mode === "lines" || now.mode === "heat"
      this.layerGroup.hidden = now.mode === "model"
      this.headGroup.hidden = now.mode !== "neurons"
      this.chips.hidden = !flat
      this.choices.hidden = now.mode === "neurons"
      this.saver.hidden = !flat
      this.thresholdRange.group.hidden = this.topRange.group.hidden = now.mode !== "lines"
      this.thresholdRange.input.value = Math.round(Math.sqrt(now.threshold) * 100)
      this.thresholdRange.output.textContent = now.threshold ? figure(now.threshold) : "0"
      this.topRange.input.value = now.topK ? Math.min(19, now.topK - 1) : 20
      this.topRange.output.textContent = now.topK || words.all
      this.showOptions()
    }

    showOptions() {
      const { now, data } = this
      for (const name of OPTIONS) this.boxes[name].input.checked = now[name]
      this.boxes.valueWeighted.group.hidden = !data.valueNorms.some(Boolean)
      this.boxes.hideSpecial.group.hidden = ![...data.isSpecial, ...data.keyIsSpecial].some(Boolean)
      const pieces = (given) => unitsOf(given ? given.length : 0, given, null).some((unit) => unit.length > 1)
      this.boxes.mergeWords.group.hidden = !pieces(data.words) && !pieces(data.keyWords)
      this.pairGroup.hidden = !this.pairable()
      this.pairSelect.value = now.pair
    }

    showChips() {
      const { words } = this, on = new Set(this.active()), n = this.nHeads()
      if (this.chipRow?.children.length !== n || this.chipTheme !== this.dark) {
        this.chipTheme = this.dark
        this.chipRow = element("div", { class: "chips", role: "group", "aria-label": words.heads },
          Array.from({ length: n }, (_, head) => this.chip(head)))
        const whole = (text, heads) =>
          element("button", { type: "button", class: "small", text, onclick: () => this.change({ heads }) })
        this.chips.replaceChildren(element("div", { class: "group" }, [element("span", { class: "label", text: words.heads }),
          whole(words.allHeads, null), whole(words.noHeads, [])]), this.chipRow)
      }
      for (const [head, chip] of [...this.chipRow.children].entries()) chip.setAttribute("aria-pressed", String(on.has(head)))
    }

    chip(head) {
      const colour = headColour(head, this.dark)
      return element("button", {
        type: "button", class: "chip", text: head, title: `${this.words.head} ${head}. ${this.words.headHelp}`, "data-head": head,
        "aria-label": `${this.words.head} ${head}`, style: { background: colour, borderColor: colour, color: inkOn(colour) },
        onclick: (event) => this.clickHead(head, event.detail),
      })
    }

    /** A click toggles; the second click of a double-click isolates, or brings all back where it was isolated before. */
    clickHead(head, clicks) {
      if (clicks >= 2 && this.beforeClick) {
        const alone = this.beforeClick.length === 1 && this.beforeClick[0] === head
        this.beforeClick = null
        this.change({ heads: alone ? null : [head], head })
        return
      }
      const heads = this.active()
      this.beforeClick = heads
      const next = heads.includes(head) ? heads.filter((h) => h !== head) : [...heads, head].sort((a, b) => a - b)
      this.change({ heads: next })
    }

    // ---------------------------------------------------------------------------------------------- drawing

    refresh() {
      if (this.gone) return
      this.applyTheme()
      const { now } = this // what the weights depend on, as a name: they are kept while it stays
      const basis = JSON.stringify([now.layer, OPTIONS.map((name) => now[name]), now.pair, now.mode === "neurons"])
      if (basis !== this.basis) this.matrices.clear()
      this.basis = basis
      this.observer?.disconnect()
      this.makeUnits()
      this.showControls()
      this.showChips()
      this.tip.hidden = true
      const within = this.tree.activeElement?.dataset
      const kept = within && within.side ? { side: within.side, unit: Number(within.unit) } : null
      const scroll = [this.stage.scrollLeft, this.stage.scrollTop]
      this.stage.style.cursor = ""
      this.painter = null
      this.painter = { lines: linesPainter, heat: heatPainter, model: modelPainter, neurons: neuronPainter }[this.now.mode](this)
      this.stage.scrollTo(scroll[0], scroll[1])
      this.foot.replaceChildren(...(this.painter?.foot?.() || []))
      this.hint.textContent = this.painter?.hint || ""
      this.hint.hidden = !this.hint.textContent
      if (kept) this.token(kept.side, kept.unit)?.focus({ preventScroll: true })
      this.mark()
      this.paint()
    }

    /** Make the stage a body of a size, with the canvas behind what lies on it. */
    lay(width, height, children) {
      const pin = element("div", { class: "pin" }, [this.canvas])
      this.body = element("div", { class: "body", style: { width: `${width}px`, height: `${height}px` } }, [pin, ...children])
      this.stage.replaceChildren(this.body)
    }

    paint() {
      if (this.waiting || this.gone) return
      this.waiting = requestAnimationFrame(() => { this.waiting = null; if (!this.gone) this.paintNow() })
    }

    paintNow() {
      if (!this.painter?.draw) return
      const { stage, canvas } = this, ratio = globalThis.devicePixelRatio || 1
      const width = stage.clientWidth, height = stage.clientHeight
      canvas.width = Math.round(width * ratio)
      canvas.height = Math.round(height * ratio)
      canvas.style.width = `${width}px`
      canvas.style.height = `${height}px`
      const context = canvas.getContext("2d")
      context.scale(ratio, ratio)
      context.translate(-stage.scrollLeft, -stage.scrollTop)
      const pen = new CanvasPen(context)
      this.painter.draw(pen, { left: stage.scrollLeft, top: stage.scrollTop, width, height })
      pen.end()
    }

    save() {
      const pen = this.svg()
      if (!pen) return
      const address = URL.createObjectURL(new Blob([pen], { type: "image/svg+xml" }))
      const link = element("a", { href: address, download: `attention-layer${this.now.layer}.svg` })
      this.tree.append(link)
      link.click()
      link.remove()
      setTimeout(() => URL.revokeObjectURL(address), 10000)
    }

    /** The picture of the whole sequence, as it stands, as the text of an SVG file; null where there is none. */
    svg() {
      if (!this.painter?.size) return null
      const [width, height] = this.painter.size()
      const pen = new SvgPen(width, height, this.colours.card)
      this.painter.draw(pen, { left: 0, top: 0, width, height })
      this.painter.label(pen)
      pen.end()
      return pen.toString()
    }

    // ---------------------------------------------------------------------------------------------- tokens

    tokenButton(side, unit, look, style) {
      const { data } = this
      const special = side === "query" ? data.isSpecial : data.keyIsSpecial
      const text = this.texts[side][unit], shown = visible(text), at = this.units[side][unit][0]
      const button = element("button", {
        type: "button", class: `token ${look}${special[at] ? " special" : ""}`, text: shown, title: text === shown ? text : shown,
        "data-side": side, "data-unit": unit, "aria-pressed": "false", dir: "auto",
        "aria-label": `${this.words[side]} ${at + 1}: ${shown}`, style,
        onclick: () => this.clickToken(side, unit),
        onpointerenter: (event) => this.enter(side, unit, event), onfocus: (event) => this.enter(side, unit, event),
        onpointerleave: () => this.setHover(null), onblur: () => this.setHover(null),
        onkeydown: (event) => this.tokenKey(event, side, unit),
      })
      button.tabIndex = unit === 0 ? 0 : -1
      return button
    }

    token(side, unit) { return this.stage.querySelector(`.token[data-side=${side}][data-unit="${unit}"]`) }

    clickToken(side, unit) {
      if (this.now.mode === "neurons" && !this.data.cross) side = "query" // either column opens a token's query
      const pinned = this.pinned()
      const off = pinned && pinned.side === side && pinned.unit === unit && this.now.mode !== "neurons"
      this.change({ selected: off ? null : { side, token: this.units[side][unit][0] } })
    }

    tokenKey(event, side, unit) {
      const across = this.painter?.across
      const forward = across && side === "key" ? "ArrowRight" : "ArrowDown"
      const backward = across && side === "key" ? "ArrowLeft" : "ArrowUp"
      let next = null
      if (event.key === forward) next = [side, unit + 1]
      else if (event.key === backward) next = [side, unit - 1]
      else if (event.key === "Home") next = [side, 0]
      else if (event.key === "End") next = [side, this.units[side].length - 1]
      else if (event.key.startsWith("Arrow")) next = [side === "query" ? "key" : "query", unit]
      if (!next) return
      event.preventDefault()
      event.stopPropagation()
      const target = this.token(next[0], Math.min(next[1], this.units[next[0]].length - 1))
      if (target) { this.rove(target); target.focus() }
    }

    rove(target) {
      for (const token of this.stage.querySelectorAll(`.token[data-side=${target.dataset.side}][tabindex="0"]`)) token.tabIndex = -1
      target.tabIndex = 0
    }

    enter(side, unit, event) {
      this.setHover({ side, unit })
      const box = event.currentTarget.getBoundingClientRect()
      const outwards = this.painter?.outwards?.(side)
      this.showTip(this.painter?.tip?.(side, unit), box.left + box.width / 2, box.bottom + 4)
      if (!outwards || this.tip.hidden) return
      const whole = this.box.getBoundingClientRect(), tip = this.tip.getBoundingClientRect()
      const room = outwards < 0 ? box.left - whole.left - tip.width - 6 : box.right - whole.left + 6
      if (room < 0 || room + tip.width > whole.width) return
      this.tip.style.left = `${room}px`
      this.tip.style.top = `${Math.min(box.top - whole.top, whole.height - tip.height - 2)}px`
    }

    setHover(hover) {
      if (!hover) this.tip.hidden = true
      if (same(hover, this.hover)) return
      this.hover = hover
      this.mark()
      this.paint()
    }

    /** Show on the tokens which are pinned and which are pointed at. */
    mark() {
      const pinned = this.painter?.chosen?.() || this.pinned(), { hover } = this
      for (const token of this.stage.querySelectorAll(".token.pinned, .token.hot")) {
        token.classList.remove("pinned", "hot")
        token.setAttribute("aria-pressed", "false")
      }
      if (pinned) {
        const token = this.token(pinned.side, pinned.unit)
        token?.classList.add("pinned")
        token?.setAttribute("aria-pressed", "true")
      }
      if (hover?.unit >= 0) this.token(hover.side, hover.unit)?.classList.add("hot")
      if (hover?.cell) for (const [side, unit] of [["query", hover.cell[0]], ["key", hover.cell[1]]]) {
        this.token(side, unit)?.classList.add("hot")
      }
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

    // ---------------------------------------------------------------------------------------------- tooltips

    bold(text) { return element("b", { text }) }

    /** The weights of one pair: one line a head. */
    pairTip(row, column, matrices) {
      const heads = this.active(), nColumns = this.units.key.length
      const weights = matrices.map((matrix) => matrix[row * nColumns + column])
      const title = `${visible(this.texts.query[row])} → ${visible(this.texts.key[column])}`
      const mean = weights.reduce((a, b) => a + b, 0) / weights.length
      const entries = heads.map((head, i) => element("div", { class: "entry" }, [
        element("span", { class: "swatch", style: { background: headColour(head, this.dark) } }),
        element("span", { class: "label", text: `${this.words.head} ${head}` }), figure(weights[i])]))
      const summary = heads.length > 1 ? [element("div", { class: "label", text: `${this.words.mean} ${figure(mean)}` })] : []
      return [this.bold(title), ...summary, element("div", { class: "columns" }, entries)]
    }

    /** The strongest partners of a token. */
    tokenTip(side, unit, matrices) {
      const { words } = this, nColumns = this.units.key.length, heads = this.active()
      const other = side === "query" ? "key" : "query"
      const at = (partner) => (side === "query" ? unit * nColumns + partner : partner * nColumns + unit)
      const means = this.units[other].map((_, partner) => matrices.reduce((sum, m) => sum + m[at(partner)], 0) / matrices.length)
      const best = strongestOf(means, 0.0005, 5)
      const rows = best.map((partner) => {
        const of = matrices.map((m) => m[at(partner)]), top = of.indexOf(Math.max(...of))
        const cells = [element("td", { class: "text", text: visible(this.texts[other][partner]) }),
          element("td", { text: figure(means[partner]) })]
        if (heads.length > 1) cells.push(element("td", { class: "label", text: `${words.head} ${heads[top]}: ${figure(of[top])}` }))
        return element("tr", {}, cells)
      })
      const place = element("span", { class: "label", text: ` ${fill(words.token, this.units[side][unit][0] + 1)}` })
      const verb = element("div", { class: "label", text: side === "query" ? words.attendsTo : words.attendedBy })
      return [this.bold(visible(this.texts[side][unit])), place, verb, element("table", {}, rows)]
    }

    // ---------------------------------------------------------------------------------------------- below the picture

    footnote(text) { return element("span", { text }) }

    facts() {
      const { words, data } = this, [rows, columns] = [this.units.query.length, this.units.key.length]
      const n = rows === columns ? rows : `${rows} × ${columns}`
      const error = Math.ceil((1 / data.levels + 1 / (4 * data.levels ** 2)) * 1000) / 1000
      return [this.footnote(fill(this.now.mergeWords ? words.words : words.tokens, n)),
        this.footnote(fill(words.accuracy, error))]
    }

    ramp(from, to, text) {
      return element("span", { class: "group" }, [
        element("span", { class: "ramp", style: { background: `linear-gradient(90deg, ${from}, ${to})` } }), text])
    }
  }

  // ------------------------------------------------------------------------------------------------ lines

  /** The lines to draw: head, row, column and weight, by the threshold and the k strongest of each row and head. */
  const linksOf = (view, matrices) => {
    const nColumns = view.units.key.length, links = []
    matrices.forEach((matrix, i) => {
      for (let row = 0; row < view.units.query.length; row++) {
        const weights = matrix.subarray(row * nColumns, (row + 1) * nColumns)
        for (const column of strongestOf(weights, view.now.threshold, view.now.topK)) {
          links.push({ i, row, column, weight: weights[column] })
        }
      }
    })
    return links
  }

  /** About how wide the longest token of some sides is, in pixels. */
  const longest = (view, ...sides) => Math.max(...sides.flatMap((side) => view.texts[side].map((text) =>
    [...visible(text)].reduce((width, letter) => width + (letter > "\u2e80" ? 14 : 8), 16))))

  const linesPainter = (view) => {
    const matrices = view.shown()
    if (!matrices) return null
    const heads = view.active(), { units, words } = view
    const width = Math.max(440, Math.min(view.stage.clientWidth, 1100)), left = Math.max(0, (view.stage.clientWidth - width) / 2)
    const boxes = Math.max(40, Math.min(150, width * 0.15)), top = 28
    const text = Math.min(Math.max(70, longest(view, "query", "key")), 170, width * 0.19)
    const x0 = left + boxes + text, x1 = left + width - boxes - text
    const height = top + ROW * Math.max(units.query.length, units.key.length) + 8
    const middle = (unit) => top + unit * ROW + ROW / 2
    const place = (side, unit) => ({
      left: `${side === "query" ? x0 - text : x1}px`, top: `${top + unit * ROW + 1}px`, width: `${text}px`,
    })
    const column = (side) => units[side].map((_, unit) =>
      view.tokenButton(side, unit, side === "query" ? "left" : "right", place(side, unit)))
    const heading = (side, look, style) => element("div", { class: `heading ${look}`, text: words[side], style })
    view.lay(Math.max(width, view.stage.clientWidth), height, [
      heading("queries", "q", { right: `calc(100% - ${x0 - 6}px)`, top: "5px" }),
      heading("keys", "k", { left: `${x1 + 6}px`, top: "5px" }), ...column("query"), ...column("key")])
    const colours = heads.map((head) => headColour(head, view.dark))
    const links = linksOf(view, matrices)
    const strongest = [...links].sort((a, b) => b.weight - a.weight).slice(0, MAX_LINES)

    const apart = Math.min(2, 14 / heads.length), shift = (i) => (i - (heads.length - 1) / 2) * apart // so that heads do not hide heads

    const lines = (pen, region) => {
      const focus = view.focus()
      const of = focus ? links.filter((link) => (focus.side === "query" ? link.row : link.column) === focus.unit) : strongest
      const strength = (weight) => (focus ? weight ** 0.7 : weight / Math.sqrt(Math.max(1, heads.length / 2)))
      let left = view.scrolling && !focus ? QUICK_LINES : Infinity
      for (const { i, row, column: to, weight } of of) {
        const y0 = middle(row) + shift(i), y1 = middle(to) + shift(i)
        if (Math.max(y0, y1) < region.top || Math.min(y0, y1) > region.top + region.height) continue
        if (left-- <= 0) break
        pen.line(x0 + 2, y0, x1 - 2, y1, colours[i], Math.min(1, Math.max(0.05, strength(weight))), 1.5)
      }
    }

    /** Per head, a box beside each token of the other side, as strong as its weight; and their mean in figures. */
    const weightsBeside = (pen) => {
      const focus = view.focus()
      if (!focus) return
      const other = focus.side === "query" ? "key" : "query", n = units.key.length
      const size = Math.min(12, (boxes - 36) / heads.length), whole = size * heads.length
      units[other].forEach((_, unit) => {
        const at = focus.side === "query" ? focus.unit * n + unit : unit * n + focus.unit
        const start = other === "key" ? x1 + text + 3 : x0 - text - 3 - whole, y = top + unit * ROW + 5
        let sum = 0
        matrices.forEach((matrix, i) => {
          sum += matrix[at]
          pen.rect(start + i * size, y, Math.max(0.5, size - (size > 4 ? 1 : 0)), ROW - 10, colours[i], Math.min(1, matrix[at]))
        })
        const mean = sum / heads.length
        if (mean < 0.0095) return
        const x = other === "key" ? start + whole + 5 : start - 5
        pen.text(number(mean), x, middle(unit), view.colours.ink, { align: other === "key" ? "left" : "right" })
      })
    }
    return {
      draw: (pen, region) => { lines(pen, region); weightsBeside(pen) },
      size: () => [Math.max(width, view.stage.clientWidth), height],
      label: (pen) => {
        for (const [side, x, align] of [["query", x0 - 6, "right"], ["key", x1 + 6, "left"]]) {
          units[side].forEach((_, unit) => {
            pen.text(visible(view.texts[side][unit]), x, middle(unit), view.colours.ink, { size: 13, align })
          })
        }
      },
      outwards: (side) => (view.focus()?.side === side ? (side === "query" ? -1 : 1) : 0),
      tip: (side, unit) => {
        const pinned = view.pinned()
        if (!pinned || pinned.side === side) return view.tokenTip(side, unit, matrices)
        return side === "key" ? view.pairTip(pinned.unit, unit, matrices) : view.pairTip(unit, pinned.unit, matrices)
      },
      foot: () => [view.footnote(words.linesHint), ...view.facts(),
        ...(links.length > MAX_LINES ? [view.footnote(fill(words.linesShown, MAX_LINES, links.length))] : [])],
    }
  }

  // ------------------------------------------------------------------------------------------------ heat map

  const heatPainter = (view) => {
    const matrices = view.shown()
    if (!matrices) return null
    const { units, words, colours } = view, heads = view.active()
    const nRows = units.query.length, nColumns = units.key.length
    const mean = average(matrices), most = Math.max(mean.reduce((a, b) => Math.max(a, b), 0), 1e-6)
    const aside = Math.min(140, Math.max(54, longest(view, "query"))), above = Math.min(110, Math.max(44, longest(view, "key")))
    const cell = Math.max(18, Math.min(46, Math.floor((view.stage.clientWidth - aside - 6) / nColumns)))
    const tall = Math.min(cell, 30), width = aside + nColumns * cell + 2, height = above + nRows * tall + 2
    const rowButtons = units.query.map((_, unit) => view.tokenButton("query", unit, "left", {
      left: 0, top: `${unit * tall + (tall - 20) / 2}px`, width: `${aside - 2}px`, height: `${Math.min(20, tall)}px`,
    }))
    const columnButtons = units.key.map((_, unit) => view.tokenButton("key", unit, "down", {
      left: `${aside + unit * cell + (cell - 20) / 2}px`, top: 0, width: "20px", height: `${above - 2}px`,
    }))
    const corner = element("div", { class: "corner", style: { width: `${aside}px`, height: `${above}px`, marginTop: `-${above}px` } })
    view.lay(width, height, [
      element("div", { class: "across", style: { height: `${above}px`, width: `${width}px` } }, columnButtons),
      corner,
      element("div", { class: "aside", style: { width: `${aside}px`, height: `${nRows * tall}px` } }, rowButtons)])
    const low = parts(colours.card), high = parts(view.dark ? "#F2E9C8" : "#3B2A7A")
    const middle = parts(view.dark ? "#9A7BE0" : "#9C8AD6")
    const shade = (share) => (share < 0.5 ? mix(low, middle, share * 2) : mix(middle, high, share * 2 - 1))
    const shades = Array.from({ length: 65 }, (_, i) => shade(i / 64)), inks = shades.map(inkOn)

    const cells = (pen, region) => {
      const first = Math.max(0, Math.floor((region.top - above) / tall)), start = Math.max(0, Math.floor((region.left - aside) / cell))
      const last = Math.min(nRows, Math.ceil((region.top + region.height - above) / tall))
      const end = Math.min(nColumns, Math.ceil((region.left + region.width - aside) / cell))
      if (last > first && end > start) {
        pen.rect(aside + start * cell - 1, above + first * tall - 1, (end - start) * cell + 1, (last - first) * tall + 1, colours.grid)
      }
      for (let row = first; row < last; row++) {
        for (let column = start; column < end; column++) {
          const weight = mean[row * nColumns + column], step = Math.round(64 * Math.min(1, weight / most))
          const x = aside + column * cell, y = above + row * tall
          pen.rect(x, y, cell - 1, tall - 1, shades[step])
          if (cell >= 30 && weight >= 0.0095) {
            pen.text(number(weight), x + (cell - 1) / 2, y + tall / 2, inks[step], { align: "center" })
          }
        }
      }
    }

    const marks = (pen) => {
      const pinned = view.pinned(), across = (row) => pen.frame(aside, above + row * tall - 1, nColumns * cell + 1, tall + 1, colours.accent)
      const down = (column) => pen.frame(aside + column * cell - 1, above, cell + 1, nRows * tall, colours.accent)
      for (const at of [pinned, view.hover]) {
        if (at?.unit >= 0) (at.side === "query" ? across : down)(at.unit)
        if (at?.cell) { across(at.cell[0]); down(at.cell[1]) }
      }
    }

    const move = (event) => {
      const stage = view.stage.getBoundingClientRect(), [x, y] = [event.clientX - stage.left - 1, event.clientY - stage.top - 1]
      if (event.target.closest?.(".token")) return
      const row = Math.floor((y + view.stage.scrollTop - above) / tall), column = Math.floor((x + view.stage.scrollLeft - aside) / cell)
      if (x < aside || y < above || row < 0 || row >= nRows || column < 0 || column >= nColumns) { view.setHover(null); return }
      view.setHover({ side: "query", unit: -1, cell: [row, column] })
      view.showTip(view.pairTip(row, column, matrices), event.clientX, event.clientY + 16)
    }
    return {
      across: true, move,
      draw: (pen, region) => { cells(pen, region); marks(pen) },
      size: () => [width, height],
      label: (pen) => {
        units.query.forEach((_, i) => {
          pen.text(visible(view.texts.query[i]), aside - 6, above + (i + 0.5) * tall, colours.ink, { size: 12, align: "right" })
        })
        units.key.forEach((_, i) => {
          pen.text(visible(view.texts.key[i]), aside + (i + 0.5) * cell, above - 6, colours.ink, { size: 12, down: true })
        })
      },
      tip: (side, unit) => view.tokenTip(side, unit, matrices),
      foot: () => [
        view.footnote(`${words.queries} ↓   ${words.keys} →`),
        view.footnote(heads.length === 1 ? `${words.head} ${heads[0]}` : fill(words.average, heads.length)),
        view.ramp(colours.card, `${hex(middle)}, ${hex(high)}`, fill(words.scale, figure(most))), ...view.facts()],
    }
  }

  // ------------------------------------------------------------------------------------------------ all heads

  const modelPainter = (view) => {
    const { data, words, units } = view
    if (!units.query.length || !units.key.length) return view.note(words.noTokens)
    const most = Math.max(...data.heads), room = view.stage.clientWidth - 74
    const size = Math.max(30, Math.min(112, Math.floor(room / most) - 4))
    const named = (text) => element("div", { class: "name", text })
    const children = [named(""), ...Array.from({ length: most }, (_, head) => named(size < 44 ? head : `${words.head} ${head}`))]
    const [ink, low] = [parts(view.dark ? "#F2E9C8" : "#3B2A7A"), parts(view.colours.card)]
    view.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting && paintThumb(view, entry.target, low, ink)) view.observer.unobserve(entry.target)
    }, { root: view.stage, rootMargin: "200px" })
    data.layers.forEach((layer, at) => {
      children.push(named(`${words.layer} ${layer}`))
      for (let head = 0; head < most; head++) {
        if (head >= data.heads[at]) { children.push(named("")); continue }
        const name = `${words.layer} ${layer}, ${words.head.toLowerCase()} ${head}`
        const open = layer === view.now.layer && view.now.heads?.length === 1 && view.now.heads[0] === head
        const thumb = element("button", {
          type: "button", class: `thumb${open ? " open" : ""}`, "aria-label": name, title: "", "data-at": at, "data-head": head,
          style: { width: `${size}px` }, onclick: () => view.change({ mode: "lines", layer, heads: [head], head }),
          onpointerenter: (event) => view.showTip([view.bold(name)], event.clientX, event.clientY + 18),
          onpointerleave: () => { view.tip.hidden = true },
        }, [element("canvas")])
        children.push(thumb)
      }
    })
    view.stage.replaceChildren(element("div", {
      class: "grid", style: { gridTemplateColumns: `64px repeat(${most}, ${size}px)` } }, children))
    for (const thumb of view.stage.querySelectorAll(".thumb")) view.observer.observe(thumb)
    return { foot: () => [view.footnote(words.modelHint), ...view.facts()] }
  }

  /** Draw a head's small picture; true once that is done. Strong weights count fully, weak ones by their square root. */
  const paintThumb = (view, button, low, high) => {
    const at = Number(button.dataset.at), head = Number(button.dataset.head)
    const matrix = view.matrix(at, head, false)
    let picture = null
    if (matrix) picture = pool(matrix, view.units.query.length, view.units.key.length, THUMB)
    else if (matrix === null) picture = givenThumb(view, at, head)
    if (!picture) return false
    const canvas = button.firstChild, { width, height, pixels } = picture
    canvas.width = width
    canvas.height = height
    const context = canvas.getContext("2d"), image = context.createImageData(width, height)
    pixels.forEach((weight, i) => {
      const share = Math.sqrt(Math.min(1, weight))
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = low[c] + (high[c] - low[c]) * share
      image.data[4 * i + 3] = 255
    })
    context.putImageData(image, 0, 0)
    button.dataset.painted = "true"
    return true
  }

  const givenThumb = (view, at, head) => {
    const given = view.data.thumbs[at]
    if (!given) { view.ask(view.data.layers[at]); return null }
    const codes = view.array("thumbs", at)
    if (!codes) return null
    const [, height, width] = given.shape
    return { width, height, pixels: dequantise(codes.subarray(head * width * height, (head + 1) * width * height), view.data.levels) }
  }

  // ------------------------------------------------------------------------------------------------ neurons

  /** One head's vectors and, for the chosen query, what they make. */
  const neuronsOf = (view, chosen) => {
    const { data, now } = view, at = view.at()
    const [query, key] = [view.array("query", at), view.array("key", at)]
    if (query === null || key === null) return view.note(view.fault || view.words.noVectors)
    if (query === undefined || key === undefined) return view.note(fill(view.words.loading, now.layer))
    const nQueries = data.queryTokens.length, nKeys = data.keyTokens.length
    const d = query.length / nQueries / data.heads[at]
    const queries = view.ofHead(query, at, now.head, nQueries * d), keys = view.ofHead(key, at, now.head, nKeys * d)
    const own = queries.subarray(chosen * d, (chosen + 1) * d)
    const logits = logitsOf(own, keys, d, data.scales?.[at] ?? 1 / Math.sqrt(d))
    const causal = Array.isArray(data.causal) ? data.causal[at] : data.causal, window = data.windows?.[at] ?? Infinity
    const allowed = (j) => (!causal || j <= chosen) && (data.cross || Math.abs(j - chosen) < window)
    const products = Float32Array.from(keys, (x, i) => x * own[i % d])
    return { d, queries, keys, products, logits, weights: softmax(logits, allowed), allowed }
  }

  const largest = (values) => values.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-9)

  const neuronPainter = (view) => {
    const { words, colours, units } = view, pinned = view.pinned()
    const chosen = pinned && (pinned.side === "query" || !view.data.cross) ? pinned.unit : 0
    const found = neuronsOf(view, chosen)
    if (!found) return null
    const width = Math.max(540, Math.min(view.stage.clientWidth, 1500)), top = 30  // narrower, it scrolls
    const text = Math.max(76, Math.min(118, width * 0.15)), gap = Math.max(8, Math.min(14, width * 0.018))
    const figure = Math.max(92, Math.min(112, width * 0.1)), band = (width - 2 * text - 2 * figure - 6 * gap - 16) / 3
    const x = { query: 8, q: text + 12, key: text + 12 + band + gap }
    x.k = x.key + text + 4
    x.product = x.k + band + gap
    x.logit = x.product + band + gap
    x.softmax = x.logit + figure + gap
    const n = Math.max(units.query.length, units.key.length), height = top + n * ROW + 8
    const place = (at, unit) => ({ left: `${at}px`, top: `${top + unit * ROW + 1}px`, width: `${text}px` })
    const heading = (name, at, look = "") => element("div", { class: `heading ${look}`, text: words[name], style: { left: `${at}px`, top: "5px" } })
    const bar = element("div", { class: "across", style: { height: `${top}px`, width: `${width}px` } }, [
      heading("query", x.query + 6, "q"), heading("bandQuery", x.q, "q"), heading("key", x.key + 6, "k"), heading("bandKey", x.k, "k"),
      heading("bandProduct", x.product), heading("logit", x.logit), heading("softmax", x.softmax)])
    view.lay(width, height, [bar,
      ...units.query.map((_, unit) => view.tokenButton("query", unit, "left", place(x.query, unit))),
      ...units.key.map((_, unit) => view.tokenButton("key", unit, "left", place(x.key, unit)))])
    const { d, queries, keys, products, logits, weights, allowed } = found
    const card = parts(colours.card), signs = SIGNS[view.dark ? "dark" : "light"].map(parts)
    const tints = signs.map((sign) => Array.from({ length: 33 }, (_, i) => mix(card, sign, i / 32)))
    const bands = [[queries, x.q, largest(queries)], [keys, x.k, largest(keys)], [products, x.product, largest(products)]]
    const strongest = largest(Float32Array.from(logits).filter((_, j) => allowed(j)))

    const drawBand = (pen, values, start, most, unit) => {
      const y = top + unit * ROW + 3, wide = band / d
      pen.rect(start - 1, y - 1, band + 2, ROW - 4, colours.line)
      for (let i = 0; i < d; i++) {
        const value = values[unit * d + i], step = Math.round(32 * Math.sqrt(Math.abs(value) / most))
        pen.rect(start + i * wide, y, wide + 0.3, ROW - 6, tints[value < 0 ? 1 : 0][step])
      }
    }
    const figures = (pen, unit) => {
      const y = top + unit * ROW, half = (figure - 40) / 2, middle = x.logit + half
      if (!allowed(unit)) { pen.text("–", x.softmax, y + ROW / 2, colours.muted); return }
      const long = (Math.abs(logits[unit]) / strongest) * half
      pen.rect(logits[unit] < 0 ? middle - long : middle, y + 5, long, ROW - 10, hex(signs[logits[unit] < 0 ? 1 : 0]))
      pen.text(logits[unit].toFixed(2), x.logit + figure, y + ROW / 2, colours.ink, { align: "right" })
      pen.rect(x.softmax, y + 5, (figure - 34) * weights[unit], ROW - 10, colours.accent)
      pen.text(number(weights[unit]), x.softmax + figure, y + ROW / 2, colours.ink, { align: "right" })
    }
    const draw = (pen, region) => {
      const first = Math.max(0, Math.floor((region.top - top) / ROW)), last = Math.ceil((region.top + region.height - top) / ROW)
      pen.rect(0, top + chosen * ROW, x.key - gap / 2, ROW, colours.accent, 0.14)
      for (let unit = first; unit < last; unit++) {
        if (unit < units.query.length) drawBand(pen, queries, x.q, bands[0][2], unit)
        if (unit >= units.key.length) continue
        drawBand(pen, keys, x.k, bands[1][2], unit)
        drawBand(pen, products, x.product, bands[2][2], unit)
        figures(pen, unit)
      }
    }
    const move = (event) => {
      if (event.target.closest?.(".token")) return
      const box = view.stage.getBoundingClientRect(), px = event.clientX - box.left - 1 + view.stage.scrollLeft
      const unit = Math.floor((event.clientY - box.top - 1 + view.stage.scrollTop - top) / ROW)
      const hit = bands.find(([, start]) => px >= start && px < start + band)
      const values = hit && hit[0].subarray(unit * d, (unit + 1) * d)
      if (!values?.length || event.clientY - box.top < top) { view.tip.hidden = true; return }
      const i = Math.min(d - 1, Math.floor(((px - hit[1]) / band) * d))
      view.showTip([`${fill(words.dimension, i)}: ${values[i].toPrecision(3)}`], event.clientX, event.clientY + 16)
    }
    return {
      draw, move, chosen: () => ({ side: "query", unit: chosen }),
      hint: fill(words.neuronHint, visible(view.texts.query[chosen])),
      foot: () => neuronFoot(view, chosen, weights, signs),
    }
  }

  const neuronFoot = (view, chosen, weights, signs) => {
    const { words } = view, matrix = view.matrix(view.at(), view.now.head)
    const nKeys = view.units.key.length
    const off = matrix ? weights.reduce((most, w, j) => Math.max(most, Math.abs(w - matrix[chosen * nKeys + j])), 0) : 0
    return [view.ramp(hex(signs[1]), `${view.colours.card}, ${hex(signs[0])}`, `${words.negative}, ${words.positive}`),
      ...(off > 0.03 ? [view.footnote(fill(words.neuronDiffers, off.toFixed(2)))] : [])]
  }

  // ------------------------------------------------------------------------------------------------ the function

  const make = (root, data, options = {}) => {
    const view = new View(root, data, options)
    return {
      update: (more) => view.update(more), set: (changes) => view.set(changes), state: () => view.state(),
      ready: () => view.ready(), svg: () => view.svg(), destroy: () => view.destroy(),
    }
  }
  make.maths = maths
  make.strings = STRINGS
  return make
})()

/* The attention of one head over one image: heat map, strongest arrow, flow, and all heads of the layer, small.

   const view = qkspaceImageView(root, strings, tell)
   view.update(data)  view.set(state)  view.destroy()  view.el

   It draws into `root`, in a shadow tree or not, and writes texts as texts: names of files and labels may hold anything.

   data   id; picture: address of the picture; width, height: its pixels; rows, columns, nPrefix, patchWidth, patchHeight;
          tokens: [text of each token]; name; number, total: which of the images; and once a layer
          layer; heads: [numbers]; attention: (head, query, key) uint16, round(65535 * sqrt(weight))
   state  layer, head, selected: {side: "query" | "key", token} or null, flow
   tell   is told what the visitor does: {selected}, {head}, {layer}, {flow} or {step: -1 | 1} */
globalThis.qkspaceImageView = (() => {
  "use strict"
  const HEAT = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"]
    .map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)))
  const heat = (share) => {  // inferno, between its anchors
    const at = Math.max(0, Math.min(1, share)) * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(at))
    return HEAT[i].map((c, k) => Math.round(c + (at - i) * (HEAT[i + 1][k] - c)))
  }
  const CSS = `
    .view { position: absolute; inset: 0; display: flex; flex-direction: column; gap: 8px; color: var(--ink); outline: none;
      font: 13px/1.4 Inter, "Segoe UI", system-ui, "Noto Sans", "Noto Sans CJK JP", sans-serif; }
    .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 10px; }
    .name { flex: 1 1 140px; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
    .muted, .said, .foot { color: var(--muted); }
    button { background: var(--field); color: var(--ink); border: 1px solid var(--line); border-radius: 6px; padding: 3px 9px;
      font: inherit; cursor: pointer; }
    button:hover { border-color: var(--accent); color: var(--accent); }
    button:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
    button[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--accent-ink); }
    .pair { display: inline-flex; } .pair button:first-child { border-radius: 6px 0 0 6px; border-right: 0; }
    .pair button:last-child { border-radius: 0 6px 6px 0; }
    label { display: inline-flex; align-items: center; gap: 6px; color: var(--muted); font-size: 12px; }
    input[type=checkbox] { accent-color: var(--accent); margin: 0; }
    input[type=range] { accent-color: var(--accent); width: 90px; margin: 0; }
    .body { flex: 1; min-height: 0; display: flex; gap: 14px; flex-direction: column; }
    .body.wide { flex-direction: row; }
    .stage { flex: 1; min-height: 0; min-width: 0; display: flex; flex-direction: column; align-items: center; gap: 4px; }
    .stage > svg { display: block; flex: none; cursor: crosshair; }
    .said { align-self: stretch; text-align: center; font-variant-numeric: tabular-nums; min-height: 19px; }
    .said b { color: var(--ink); font-weight: 600; }
    .heads { display: flex; flex-wrap: wrap; gap: 8px; align-content: flex-start; justify-content: center; overflow: auto;
      scrollbar-width: thin; flex: none; }
    .wide .heads { justify-content: flex-start; }
    .head { padding: 3px; display: block; font-size: 12px; line-height: 1.3; }
    .head[aria-pressed=true] { background: var(--field); color: var(--ink); box-shadow: 0 0 0 2px var(--accent); }
    .head span { display: flex; justify-content: space-between; gap: 4px; padding: 0 1px; font-variant-numeric: tabular-nums; }
    .head span > i { color: var(--muted); font-style: normal; }
    .title { flex: 1 0 100%; display: flex; line-height: 1.25; gap: 8px; align-items: center; color: var(--muted); font-size: 12px; }
    .scale { display: inline-flex; align-items: center; gap: 6px; font-size: 12px; color: var(--muted); white-space: nowrap; }
    .scale > i { width: 90px; height: 9px; border-radius: 5px;
      background: linear-gradient(90deg, ${HEAT.map((c) => `rgb(${c})`).join(", ")}); }
    .tip { position: fixed; z-index: 50; pointer-events: none; background: var(--card); color: var(--ink);
      border: 1px solid var(--line); border-radius: 6px; padding: 3px 8px; font-size: 12px; white-space: nowrap;
      box-shadow: 0 3px 12px rgb(0 0 0 / .25); font-variant-numeric: tabular-nums; }
    [hidden] { display: none !important; }`
  const SVG = "http://www.w3.org/2000/svg"
  const make = (name, attributes = {}, ...children) => {
    const el = ["svg", "image", "path", "rect", "circle", "g", "text", "line", "title"].includes(name)
      ? document.createElementNS(SVG, name) : document.createElement(name)
    for (const [key, value] of Object.entries(attributes)) {
      if (key == "text") el.textContent = value
      else if (key.startsWith("on")) el.addEventListener(key.slice(2), value)
      else if (value != null && value !== false) el.setAttribute(key, value)
    }
    el.append(...children)
    return el
  }
  const percent = (w) => `${(100 * w).toFixed(w < 0.0995 ? 2 : 1)} %`
  const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, name) => values[name])

  return (root, strings, tell) => {
    let data = null, layers = new Map(), hovered = null, strengths = [0.62, 0.55], least = 0, is_bare = false
    let state = {layer: 0, head: 0, selected: null, flow: false}
    const say = (name, values = {}) => fill(strings[name] ?? name, values)
    const bar = make("div", {class: "bar"}), stage = make("div", {class: "stage"}), heads = make("div", {class: "heads"})
    const body = make("div", {class: "body"}, stage, heads)
    const tip = make("div", {class: "tip", hidden: true, role: "status"})
    const all = make("div", {class: "view", tabindex: 0, "data-keys": "own", "aria-label": say("aria")}, bar, body, tip)
    const style = make("style", {text: CSS})
    root.append(style, all)

    // ------------------------------------------------------------------------------------------ numbers

    const n = () => data.tokens.length
    const is_patch = (token) => token >= data.nPrefix
    const cell = (token) => [Math.floor((token - data.nPrefix) / data.columns), (token - data.nPrefix) % data.columns]
    const known = () => layers.get(state.layer)
    const weights_of = (head) => {  // (query, key) of one head, null where it is not here
      const layer = known(), at = layer ? layer.heads.indexOf(head) : -1
      if (at < 0) return null
      const size = n() * n()
      return layer.attention.subarray(at * size, (at + 1) * size)
    }
    const weight = (matrix, query, key) => (matrix[query * n() + key] / 65535) ** 2
    const row_of = (matrix, {side, token}) =>
      Float64Array.from({length: n()}, (_, i) => side == "query" ? weight(matrix, token, i) : weight(matrix, i, token))
    const largest = (values, from = 0) => {
      let best = from
      for (let i = from; i < values.length; i++) if (values[i] > values[best]) best = i
      return best
    }
    const from_here = () => is_bare ? data.nPrefix : 0  // the first token that an arrow may lead to or from
    const strongest = (matrix) => {  // the patch that attends most to another one
      let best = data.nPrefix, most = -1
      for (let i = data.nPrefix; i < n(); i++) for (let j = data.nPrefix; j < n(); j++) {
        if (i != j && matrix[i * n() + j] > most) { most = matrix[i * n() + j]; best = i }
      }
      return {side: "query", token: best}
    }
    const chosen = () => {
      if (state.selected) return state.selected
      const matrix = weights_of(state.head)
      return matrix ? strongest(matrix) : {side: "query", token: data.nPrefix}
    }
    const name = (token) => data.tokens[token]

    // ------------------------------------------------------------------------------------------ drawing

    const overlay = (values) => {  // the heat map, a pixel a patch, as an address; from 0 to the largest of the patches
      const canvas = document.createElement("canvas")
      canvas.width = data.columns
      canvas.height = data.rows
      const most = values[largest(values, data.nPrefix)] || 1
      const image = new ImageData(data.columns, data.rows)
      for (let i = data.nPrefix; i < n(); i++) image.data.set([...heat(values[i] / most), 255], 4 * (i - data.nPrefix))
      canvas.getContext("2d").putImageData(image, 0, 0)
      return canvas.toDataURL()
    }
    const over = (href, width, height, opacity) => make("image", {
      href, width, height, opacity, preserveAspectRatio: "none", style: "image-rendering: pixelated",
    })

    const button = (text, act, pressed, title) => make("button", {
      text, type: "button", onclick: act, title, "aria-label": text.length < 2 ? title : null, "aria-pressed": pressed == null ? null : String(pressed),
    })
    const draw_bar = () => {
      const {side} = chosen()
      const turn = (to) => () => choose({side: to, token: chosen().token})
      const opacity = make("input", {
        type: "range", min: 0, max: 1, step: 0.02, value: strengths[+state.flow], "aria-label": say("opacity"),
        oninput: (event) => { strengths[+state.flow] = Number(event.target.value); draw_stage() },
      })
      const floor = make("input", {
        type: "range", min: 0, max: 0.5, step: 0.005, value: least, "aria-label": say("least"),
        oninput: (event) => { least = Number(event.target.value); draw_stage() },
      })
      const bare = make("input", {type: "checkbox", onchange: (event) => { is_bare = event.target.checked; draw() }})
      bare.checked = is_bare
      bar.replaceChildren(
        button("\u2039", () => tell({step: -1}), null, say("previous")),
        button("\u203a", () => tell({step: 1}), null, say("next")),
        make("span", {class: "name", text: data.name, title: data.name}),
        make("span", {class: "muted", text: say("number", {i: data.number + 1, n: data.total})}),
        make("span", {class: "pair"},
          button(say("heat"), () => flow(false), !state.flow, say("heat_help")),
          button(say("flow"), () => flow(true), state.flow, say("flow_help"))),
        make("span", {class: "pair"},
          button(say("from"), turn("query"), side == "query", say("from_help")),
          button(say("to"), turn("key"), side == "key", say("to_help"))),
        ...(data.nPrefix ? [make("label", {title: say("bare_help", {names: data.tokens.slice(0, data.nPrefix).join(", ")})}, bare, say("bare"))] : []),
        make("label", {}, say(state.flow ? "veil" : "opacity"), opacity),
        ...(state.flow ? [make("label", {}, say("least"), floor, make("span", {class: "least", text: percent(least)}))] : []),
      )
    }

    let geometry = null
    const fitted = (is_wide, box) => {  // how large the small pictures of all heads are: as large as leaves the image its room
      const count = known()?.heads.length ?? 1, tall = data.height / data.width, label = 34
      for (let side = is_wide ? 190 : 124; ; side -= 6) {
        const across = is_wide
          ? Math.ceil(count / Math.max(1, Math.floor((box.height - 66) / (side * tall + label))))
          : Math.max(1, Math.floor((box.width + 8) / (side + 16)))
        const taken = is_wide ? across * (side + 16) : Math.ceil(count / across) * (side * tall + label) + 30
        if (taken <= (is_wide ? 0.3 * box.width : 0.25 * box.height) || side <= 52) {
          return {side, taken: Math.min(taken, is_wide ? 0.4 * box.width : 0.34 * box.height)}
        }
      }
    }
    const measure = () => {  // pixels of the window a pixel of the picture
      const box = body.getBoundingClientRect(), margin = data.nPrefix ? 70 : 8
      const is_wide = box.width > 1.18 * box.height && box.width > 760
      const {side, taken} = fitted(is_wide, box)
      body.classList.toggle("wide", is_wide)
      heads.style.width = is_wide ? `${taken}px` : "auto"
      heads.style.maxHeight = is_wide ? "none" : `${taken}px`
      const across = box.width - margin - 10 - (is_wide ? taken + 14 : 0)
      const down = box.height - 82 - (is_wide ? 0 : taken + 14)
      const scale = Math.max(0.2, Math.min(across / data.width, down / data.height))
      geometry = {margin, scale, width: data.width * scale, height: data.height * scale, side}
    }
    const middle = (token) => {  // of a token's cell, in the drawing
      const {margin, scale} = geometry
      if (!is_patch(token)) return [margin / 2 - 5, 34 + token * 74]
      const [row, column] = cell(token)
      return [margin + (column + 0.5) * data.patchWidth * scale, 4 + (row + 0.5) * data.patchHeight * scale]
    }
    const box_of = (token) => {
      const {scale} = geometry, [x, y] = middle(token)
      const [w, h] = is_patch(token) ? [data.patchWidth * scale, data.patchHeight * scale] : [52, 52]
      return {x: x - w / 2, y: y - h / 2, width: w, height: h}
    }
    const frame = (token, colour, wide = 2.5) => {
      const box = box_of(token)
      return [make("rect", {...box, fill: "none", stroke: "#fff", "stroke-width": wide + 2.5, rx: 2}),
              make("rect", {...box, fill: "none", stroke: colour, "stroke-width": wide, rx: 2})]
    }
    const arrow = (from, to, {colour, wide, opacity = 1, casing = null, head = 5}) => {  // from middle to middle
      const [x0, y0] = middle(from), [x1, y1] = middle(to)
      const length = Math.hypot(x1 - x0, y1 - y0)
      const [u, v] = [(x1 - x0) / length, (y1 - y0) / length]
      const [bx, by] = [x1 - head * 1.5 * u, y1 - head * 1.5 * v]
      const tipped = `M${x1} ${y1} L${bx - head * 0.75 * v} ${by + head * 0.75 * u} L${bx + head * 0.75 * v} ${by - head * 0.75 * u} Z`
      const line = `M${x0} ${y0} L${bx} ${by}`
      const cased = casing ? [
        make("path", {d: line, stroke: casing, "stroke-width": wide + 2.5, fill: "none"}),
        make("path", {d: tipped, stroke: casing, "stroke-width": 3, fill: casing, "stroke-linejoin": "round"}),
      ] : []
      return make("g", {opacity}, ...cased,
        make("path", {d: line, stroke: colour, "stroke-width": wide, fill: "none"}), make("path", {d: tipped, fill: colour}))
    }
    const grid = () => {
      const {margin, scale} = geometry
      const [w, h] = [data.patchWidth * scale, data.patchHeight * scale]
      let d = ""
      for (let i = 0; i <= data.columns; i++) d += `M${margin + i * w} 4 v${data.rows * h}`
      for (let i = 0; i <= data.rows; i++) d += `M${margin} ${4 + i * h} h${data.columns * w}`
      return make("path", {d, stroke: "#fff", "stroke-opacity": 0.28, "stroke-width": 1, fill: "none"})
    }
    const prefix_cells = (values, most) => Array.from({length: data.nPrefix}, (_, token) => {
      const box = box_of(token), share = values ? values[token] / (most || 1) : 0
      const [r, g, b] = heat(share)
      const is_light = 0.3 * r + 0.6 * g + 0.1 * b > 130
      return make("g", {},
        make("rect", {...box, rx: 6, fill: values ? `rgb(${r},${g},${b})` : "var(--field)", stroke: "var(--line)"}),
        make("text", {x: box.x + 26, y: box.y + 22, "text-anchor": "middle", "font-size": 11, "font-weight": 600,
                      fill: values ? (is_light ? "#000" : "#fff") : "var(--ink)", text: name(token)}),
        make("text", {x: box.x + 26, y: box.y + 38, "text-anchor": "middle", "font-size": 11,
                      fill: values ? (is_light ? "#000" : "#fff") : "var(--muted)", text: values ? percent(values[token]) : ""}))
    })

    const draw_heat = (matrix, now) => {
      const values = row_of(matrix, now), top = largest(values, from_here())
      const most = values[largest(values, data.nPrefix)]
      const {width, height, margin, scale} = geometry
      const layer = over(overlay(values), data.columns * data.patchWidth * scale, data.rows * data.patchHeight * scale, strengths[0])
      layer.setAttribute("x", margin)
      layer.setAttribute("y", 4)
      const [query, key] = now.side == "query" ? [now.token, top] : [top, now.token]
      const marks = [...frame(key, "var(--key)"), ...frame(query, "var(--query)")]
      if (query == key) {
        const [x, y] = middle(query)
        marks.push(make("circle", {cx: x, cy: y, r: 4, fill: "#fff", stroke: "#000"}))
      } else marks.push(arrow(query, key, {colour: "#fff", wide: 2, casing: "rgb(0 0 0 / .75)", head: 7}))
      return {parts: [layer, grid(), ...prefix_cells(values, most), ...marks], values, top, most, width, height}
    }
    const draw_flow = (matrix, now) => {
      const {margin, width, height} = geometry
      const veil = make("rect", {x: margin, y: 4, width, height, fill: "var(--card)", opacity: strengths[1]})
      const tops = Array.from({length: n()}, (_, token) => {
        const values = row_of(matrix, {side: now.side, token}), best = largest(values, from_here())
        return {token, best, weight: values[best]}
      }).slice(from_here())
      const most = Math.max(...tops.map((each) => each.weight)) || 1
      const parts = [], focus = hovered ?? now.token
      const order = [...tops].sort((a, b) => a.weight - b.weight)
      let drawn = 0
      for (const {token, best, weight: w} of order) {
        if (w < least) continue
        drawn += 1
        const [from, to] = now.side == "query" ? [token, best] : [best, token]
        const touches = token == focus || best == focus
        const opacity = touches ? 1 : 0.2 + 0.7 * Math.sqrt(w / most)
        const colour = token == focus ? "var(--query)" : best == focus ? "var(--key)" : "var(--accent)"
        const [x, y] = middle(token)
        if (from == to) parts.push(make("circle", {cx: x, cy: y, r: 4, fill: colour, opacity}))
        else if (!is_patch(best)) parts.push(make("rect", {x: x - 4, y: y - 4, width: 8, height: 8, fill: colour, opacity}))
        else parts.push(arrow(from, to, {
          colour, wide: touches ? 2.4 : 1 + 1.4 * w / most, opacity, head: touches ? 6 : 4.5, casing: touches ? "var(--card)" : null,
        }))
      }
      const values = row_of(matrix, now), best = largest(values, from_here())
      return {
        parts: [veil, grid(), ...prefix_cells(null, 1), ...parts, ...frame(now.token, now.side == "query" ? "var(--query)" : "var(--key)")],
        values, top: best, most, drawn, of: tops.length,
      }
    }

    const shares = (values, now) => {  // what the line below the picture says
      const top = largest(values), patch_top = largest(values, data.nPrefix)
      const parts = [say(now.side == "query" ? "top_of" : "top_to", {token: name(now.token), top: name(top), weight: percent(values[top])})]
      if (top != patch_top) parts.push(say("top_patch", {top: name(patch_top), weight: percent(values[patch_top])}))
      parts.push(say("itself", {weight: percent(values[now.token])}))
      if (is_patch(now.token)) {
        const [row, column] = cell(now.token)
        let in_row = 0, in_column = 0
        for (let i = data.nPrefix; i < n(); i++) {
          const [r, c] = cell(i)
          if (r == row) in_row += values[i]
          if (c == column) in_column += values[i]
        }
        if (now.side == "query") parts.push(say("lines", {row: percent(in_row), column: percent(in_column)}))
      }
      if (now.side == "key") parts.push(say("received", {sum: values.reduce((a, b) => a + b, 0).toFixed(2)}))
      return parts.join(" \u00b7 ")
    }

    const at = (event) => {  // the token under the mouse
      const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top
      for (let token = 0; token < data.nPrefix; token++) {
        const b = box_of(token)
        if (x >= b.x && x <= b.x + b.width && y >= b.y && y <= b.y + b.height) return token
      }
      const column = Math.floor((x - geometry.margin) / (data.patchWidth * geometry.scale))
      const row = Math.floor((y - 4) / (data.patchHeight * geometry.scale))
      if (column < 0 || row < 0 || column >= data.columns || row >= data.rows) return null
      return data.nPrefix + row * data.columns + column
    }
    let svg = null, drawn_values = null
    const draw_stage = () => {
      const now = chosen(), matrix = weights_of(state.head)
      measure()
      const {margin, width, height} = geometry
      const picture = make("image", {href: data.picture, x: margin, y: 4, width, height, preserveAspectRatio: "none"})
      const down = Math.max(height + 8, data.nPrefix * 74 + 8)
      svg = make("svg", {width: margin + width + 6, height: down, role: "img", "aria-label": data.name}, picture)
      if (!matrix) {
        stage.replaceChildren(svg, make("div", {class: "said", text: say("loading", {layer: state.layer})}))
        return
      }
      const found = state.flow ? draw_flow(matrix, now) : draw_heat(matrix, now)
      drawn_values = found.values
      svg.append(...found.parts)
      svg.addEventListener("mousemove", point)
      svg.addEventListener("mouseleave", leave)
      svg.addEventListener("click", (event) => { const token = at(event); if (token != null) choose({side: now.side, token}) })
      const scale = state.flow
        ? make("span", {class: "scale", text: say("flow_legend", {n: found.drawn, of: found.of, most: percent(found.most)})})
        : make("span", {class: "scale"}, "0", make("i"), percent(found.most), ` ${say("scale")}`)
      stage.replaceChildren(svg, make("div", {class: "said", text: shares(found.values, now)}), scale)
    }
    const point = (event) => {
      const token = at(event)
      tip.hidden = token == null
      if (token != null) {
        const values = drawn_values, rank = values.reduce((k, v) => k + (v > values[token]), 1)
        const now = chosen()
        const arrows = now.side == "query" ? `${name(now.token)} \u2192 ${name(token)}` : `${name(token)} \u2192 ${name(now.token)}`
        tip.textContent = `${arrows}: ${percent(values[token])} \u00b7 ${say("rank", {rank, n: n()})}`
        tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`
        tip.style.top = `${event.clientY + 16 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 8 : event.clientY + 16}px`
      }
      if (state.flow && token != hovered) { hovered = token; draw_stage() }
    }
    const leave = () => {
      tip.hidden = true
      if (hovered != null) { hovered = null; if (state.flow) draw_stage() }
    }
    const draw_heads = () => {
      const layer = known(), now = chosen()
      if (!layer || !geometry) { heads.replaceChildren(); return }
      const {side} = geometry, height = side * data.height / data.width
      const small = layer.heads.map((head) => {
        const values = row_of(weights_of(head), now), top = largest(values, from_here())
        const across = side * data.columns * data.patchWidth / data.width, down = height * data.rows * data.patchHeight / data.height
        const picture = make("svg", {width: side, height}, make("image", {href: data.picture, width: side, height, preserveAspectRatio: "none"}),
          over(overlay(values), across, down, 0.82))
        if (is_patch(now.token)) {
          const [row, column] = cell(now.token)
          picture.append(make("rect", {
            x: column * across / data.columns, y: row * down / data.rows, width: across / data.columns, height: down / data.rows,
            fill: "none", stroke: now.side == "query" ? "var(--query)" : "var(--key)", "stroke-width": 1.5,
          }))
        }
        const el = button("", () => tell({head}), head == state.head, say("head_help", {layer: state.layer, head, top: name(top), weight: percent(values[top])}))
        el.className = "head"
        el.append(picture, make("span", {}, `L${state.layer}H${head}`, make("i", {text: percent(values[top])})))
        return el
      })
      const move = (by) => button(by < 0 ? "\u2191" : "\u2193", () => tell({layer: state.layer + by}), null, say(by < 0 ? "layer_up" : "layer_down"))
      const title = make("div", {class: "title"}, say("heads", {layer: state.layer}))
      if (state.layer > 0) title.append(move(-1))
      if (state.layer < data.nLayers - 1) title.append(move(1))
      heads.replaceChildren(title, ...small)
    }
    const draw = () => {
      if (!data) return
      draw_bar()
      draw_stage()
      draw_heads()
    }

    // ------------------------------------------------------------------------------------------ what the visitor does

    const choose = (selected) => { state = {...state, selected}; draw(); tell({selected}) }
    const flow = (on) => { state = {...state, flow: on}; draw(); tell({flow: on}) }
    all.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target instanceof HTMLInputElement || !data) return
      const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}
      if (!(event.key in moves)) return
      const {side, token} = chosen()
      const [row, column] = is_patch(token) ? cell(token) : [0, -1]
      const [r, c] = [row + moves[event.key][0], column + moves[event.key][1]]
      if (r >= 0 && c >= 0 && r < data.rows && c < data.columns) choose({side, token: data.nPrefix + r * data.columns + c})
      event.preventDefault()
      event.stopPropagation()
    })
    const resized = new ResizeObserver(() => draw())
    resized.observe(all)
    return {
      el: all,
      update(more) {
        if (data?.id !== more.id) layers = new Map()
        data = {...(data?.id === more.id ? data : {}), ...more}
        if (more.attention) layers.set(more.layer, {heads: more.heads, attention: more.attention})
      },
      set(more) { state = {...state, ...more}; hovered = null; draw() },
      destroy() { resized.disconnect(); all.remove(); style.remove() },
    }
  }
})()

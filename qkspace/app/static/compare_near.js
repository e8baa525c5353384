// Find the point nearest to the mouse on this map, as a click would (compare_select.nearest), and mark its unit on both maps;
// where both are one, mark it at both its places.
const overlay = place.data.overlay[0]
const radius = pixels * Math.abs(plot.x_range.end - plot.x_range.start) / plot.inner_width
let best = null
const seek = (own) => {
  let least = radius * radius
  for (const name of overlay ? ["tuned", "base"] : [side]) for (const kind of ["query", "key"]) {
    const {x, y, number} = points[`${name}_${own ? "own_" : ""}${kind}`].data
    if (x == null) continue
    for (let i = 0; i < x.length; i++) {
      const d = (x[i] - cb_obj.x) ** 2 + (y[i] - cb_obj.y) ** 2
      const index = own ? number[i] : i
      if (d < least && index >= 0) {
        least = d
        best = {kind, index}
      }
    }
  }
}
seek(true)
if (best == null) seek(false)
const was = near[side].data
if (best == null) {
  if (was.x.length) {
    for (const each of ["base", "tuned"]) near[each].data = {x: [], y: [], kind: [], index: [], label: []}
    line.data = {x0: [], y0: [], x1: [], y1: []}
  }
} else if (was.kind[0] != best.kind || was.index[0] != best.index || was.label[0] != "") {
  const {kind, index} = best
  const [base, tuned] = ["base", "tuned"].map((name) => {
    const {x, y} = points[`${name}_${kind}`].data
    return {x: x[index], y: y[index]}
  })
  const text = tokens.data.text[index], label = text.length > 24 ? text.slice(0, 23) + "\u2026" : text
  const marked = (places, label) => ({
    x: places.map((at) => at.x), y: places.map((at) => at.y), kind: places.map(() => kind),
    index: places.map(() => index), label: places.map(() => label),
  })
  near.base.data = marked([base], side == "base" ? "" : label)
  near.tuned.data = marked(overlay ? [tuned, base] : [tuned], side == "tuned" ? "" : label)
  line.data = overlay ? {x0: [base.x], y0: [base.y], x1: [tuned.x], y1: [tuned.y]} : {x0: [], y0: [], x1: [], y1: []}
}

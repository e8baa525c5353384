// Draw a matrix in space: `solid` (query, key, height, top, left, right) as boxes or as dots on stalks, seen from `camera`, or
// from where a drag has come to. What lies far is drawn first. Words stand along the two near edges, as many as have room, and
// a scale at the far corner. Places are in halves of the frame's height, so that the frame stays as it is while one turns; and
// what is drawn is not told to the server, which knows it already.
const WORDS = "11px Inter, Segoe UI, Noto Sans, sans-serif", LINE = 13  // pixels that a line of words takes
const draw_space = ({plot, camera, solid, faces, stems, tips, labels, box}) => {
  if (plot.tags.length < 6 || plot.properties.inner_width.is_unset) return  // it is called again once there is room
  const wide = Math.max(plot.inner_width, 1), tall = Math.max(plot.inner_height, 1)
  const bars = camera.data.bars[0], {yaw, pitch} = plot.turning?.last ?? {yaw: camera.data.yaw[0], pitch: camera.data.pitch[0]}
  const d = solid.data, [asking, answering, colours, short_asking, short_answering, axes] = plot.tags
  const n = answering.length, m = asking.length, most = Math.max(...d.height, 1e-6), high = 0.5 * Math.max(n, m) / most
  const y = yaw * Math.PI / 180, p = Math.max(5, Math.min(85, pitch)) * Math.PI / 180
  const right = [Math.cos(y), Math.sin(y)], back = [-Math.sin(y), Math.cos(y)]
  const around = 0.5 * Math.hypot(n, m), low = -around * Math.sin(p), top = -low + 0.5 * Math.max(n, m) * Math.cos(p)
  const room = Math.max((1.18 * around + 0.5) * tall / wide, (top - low) * 0.62), middle = (low + top) / 2
  const seen = (u, v, h) => [
    (u * right[0] + v * right[1]) / room,
    ((u * back[0] + v * back[1]) * Math.sin(p) + h * high * Math.cos(p) - middle) / room,
  ]
  const place = (key, query) => [key - (n - 1) / 2, (m - 1) / 2 - query]
  const depth = (u, v) => u * back[0] + v * back[1]
  const order = Array.from(d.height.keys()).map((i) => [i, ...place(d.key[i], d.query[i])])
  order.sort((a, b) => depth(b[1], b[2]) - depth(a[1], a[2]))
  const polygons = {xs: [], ys: [], colour: []}, stalks = {xs: [], ys: []}
  const dots = {x: [], y: [], colour: [], asks: [], answers: [], share: []}
  const polygon = (corners, colour) => {
    const at = corners.map((corner) => seen(...corner))
    polygons.xs.push(at.map((c) => c[0]))
    polygons.ys.push(at.map((c) => c[1]))
    polygons.colour.push(colour)
  }
  const half = 0.36, su = right[1] > 0 ? 1 : -1, sv = right[0] > 0 ? -1 : 1  // which sides of a box look at the visitor
  for (const [i, u, v] of order) {
    const h = d.height[i], [x0, x1, y0, y1] = [u - half, u + half, v - half, v + half]
    const [x, y_] = [u + su * half, v + sv * half]
    if (bars) {
      polygon([[x, y0, 0], [x, y1, 0], [x, y1, h], [x, y0, h]], d.right[i])
      polygon([[x0, y_, 0], [x1, y_, 0], [x1, y_, h], [x0, y_, h]], d.left[i])
      polygon([[x0, y0, h], [x1, y0, h], [x1, y1, h], [x0, y1, h]], d.top[i])
    } else {
      const [a, b] = [seen(u, v, 0), seen(u, v, h)]
      stalks.xs.push([a[0], b[0]])
      stalks.ys.push([a[1], b[1]])
    }
    const tip = seen(u, v, h)
    dots.x.push(tip[0])
    dots.y.push(tip[1])
    dots.colour.push(d.top[i])
    dots.asks.push(asking[d.query[i]])
    dots.answers.push(answering[d.key[i]])
    dots.share.push((100 * d.height[i]).toFixed(1) + " %")
  }
  const names = {x: [], y: [], text: [], colour: [], align: []}, taken = []  // and the pixels that words lie on
  const pen = plot.pen ??= document.createElement("canvas").getContext("2d")
  pen.font = WORDS
  const width = (text) => pen.measureText(text).width
  const write = (at, text, kind, align) => {
    const x = at[0] * tall / 2, y = at[1] * tall / 2, w = width(text), x0 = align == "left" ? x : x - w
    const lies = [x0 - 3, x0 + w + 3, y - LINE / 2, y + LINE / 2]
    if (taken.some((b) => b[0] < lies[1] && lies[0] < b[1] && b[2] < lies[3] && lies[2] < b[3])) return
    taken.push(lies)
    names.x.push(at[0])
    names.y.push(at[1])
    names.text.push(text)
    names.colour.push(colours[kind])
    names.align.push(align)
  }
  const near_v = sv * (m / 2 + 0.3), near_u = su * (n / 2 + 0.3)
  const side = (du, dv) => seen(du, dv, 0)[0] >= 0 ? "left" : "right"  // words run outwards
  const edge = (words, at, kind, align) => {  // every word, or every second, third ... as the step between two has room for
    const [a, b] = [at(0), at(1)], dx = Math.abs(b[0] - a[0]) * tall / 2, dy = Math.abs(b[1] - a[1]) * tall / 2
    const widest = Math.max(...words.map(width)) + 8
    const every = Math.ceil(Math.max(1, Math.min(LINE / Math.max(dy, 1e-6), widest / Math.max(dx, 1e-6))))
    words.forEach((text, i) => i % every || write(at(i), text, kind, align))
  }
  const corner = seen(near_u, near_v, 0)  // where both edges meet: below it stands what they are
  for (const [kind, align] of [["key", side(0, near_v)], ["query", side(near_u, 0)]]) {
    const at = [corner[0] + (align == "left" ? 20 : -20) / tall, corner[1] - 3.2 * LINE / tall]
    write(at, axes[kind], kind, align)
  }
  edge(short_answering, (key) => seen(place(key, 0)[0], near_v, 0), "key", side(0, near_v))
  edge(short_asking, (query) => seen(near_u, place(0, query)[1], 0), "query", side(near_u, 0))
  const [far_u, far_v] = [-su * n / 2, -sv * m / 2], lines = {xs: [], ys: []}
  const line = (a, b) => {
    const ends = [seen(...a), seen(...b)]
    lines.xs.push(ends.map((e) => e[0]))
    lines.ys.push(ends.map((e) => e[1]))
  }
  const unit = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5].find((each) => most / each <= 5.5) ?? 0.5
  for (let h = 0; h <= most * 1.001; h += unit) {
    line([far_u, -far_v, h], [far_u, far_v, h])
    line([far_u, far_v, h], [-far_u, far_v, h])
    const outer = [[far_u, -far_v], [-far_u, far_v]].map((c) => seen(...c, h)).sort((a, b) => b[0] - a[0])[0]
    write([outer[0] + 0.02 * (n + m) / room, outer[1]], Math.round(100 * h) + " %", "scale", "left")
  }
  line([far_u, far_v, 0], [far_u, far_v, most])
  line([far_u, -far_v, 0], [far_u, -far_v, most])
  line([-far_u, far_v, 0], [-far_u, far_v, most])
  for (const [source, data] of [[faces, polygons], [stems, stalks], [tips, dots], [labels, names], [box, lines]]) {
    Object.assign(source.data, data)
    source.change.emit()
  }
  if (plot.x_range.end != wide / tall) plot.x_range.setv({start: -wide / tall, end: wide / tall})
}

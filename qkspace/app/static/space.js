// Draw a matrix in space: `solid` (query, key, height, top, left, right) as boxes or as dots on stalks, seen from `camera`.
// What lies far is drawn first. Words stand along the two near edges, and a scale at the far corner.
const {yaw, pitch, bars} = Object.fromEntries(Object.entries(camera.data).map(([name, [value]]) => [name, value]))
if (plot.tags.length < 3) return
const d = solid.data, [asking, answering, colours] = plot.tags
const n = answering.length, m = asking.length, most = Math.max(...d.height, 1e-6), high = 0.5 * Math.max(n, m) / most
const y = yaw * Math.PI / 180, p = pitch * Math.PI / 180
const right = [Math.cos(y), Math.sin(y)], back = [-Math.sin(y), Math.cos(y)]
const seen = (u, v, h) => [
  u * right[0] + v * right[1], (u * back[0] + v * back[1]) * Math.sin(p) + h * high * Math.cos(p),
]
const place = (key, query) => [key - (n - 1) / 2, (m - 1) / 2 - query]
const depth = (u, v) => u * back[0] + v * back[1]
const order = Array.from(d.height.keys()).map((i) => [i, ...place(d.key[i], d.query[i])])
order.sort((a, b) => depth(b[1], b[2]) - depth(a[1], a[2]))
const polygons = {xs: [], ys: [], colour: []}, stalks = {xs: [], ys: []}, dots = {x: [], y: [], colour: [], asks: [], answers: [], share: []}
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
const names = {x: [], y: [], text: [], colour: [], align: []}
const write = (at, text, kind, align) => {
  names.x.push(at[0])
  names.y.push(at[1])
  names.text.push(text)
  names.colour.push(colours[kind])
  names.align.push(align)
}
const near_v = sv * (m / 2 + 0.3), near_u = su * (n / 2 + 0.3)
const side = (du, dv) => seen(du, dv, 0)[0] >= 0 ? "left" : "right"  // words run outwards
const thin = (count) => Math.ceil(count / 60)
answering.forEach((text, key) => key % thin(n) || write(seen(place(key, 0)[0], near_v, 0), text, "key", side(0, near_v)))
asking.forEach((text, query) => query % thin(m) || write(seen(near_u, place(0, query)[1], 0), text, "query", side(near_u, 0)))
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
  write([outer[0] + 0.02 * (n + m), outer[1]], h.toFixed(2), "scale", "left")
}
line([far_u, far_v, 0], [far_u, far_v, most])
line([far_u, -far_v, 0], [far_u, -far_v, most])
line([-far_u, far_v, 0], [-far_u, far_v, most])
faces.data = polygons
stems.data = stalks
tips.data = dots
labels.data = names
box.data = lines
const [w, up] = [0.5 * Math.hypot(n, m) * 1.18 + 0.5, 0.5 * Math.max(n, m)]
const low = -0.5 * Math.hypot(n, m) * Math.sin(p), top = -low + up * Math.cos(p)
const middle = (low + top) / 2, room = Math.max(w * plot.inner_height / Math.max(plot.inner_width, 1), (top - low) * 0.62)
const across = room * plot.inner_width / Math.max(plot.inner_height, 1)
plot.x_range.start = -across
plot.x_range.end = across
plot.y_range.start = middle - room
plot.y_range.end = middle + room

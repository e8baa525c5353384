// Choose which points of the map are drawn as patches, so that none hides another: a point keeps its rank, so that pictures
// stay while one moves the map. Tokens that are no patch ([CLS]) have a marker of their own, as pictures and as points.
const MOST = 1500
const choose = () => {
  pictures.choosing = false
  const is_on = look.data.patches[0]
  const {start: x0, end: x1} = plot.x_range, {start: y0, end: y1} = plot.y_range
  const width = plot.inner_width, height = plot.inner_height
  if (!(x1 > x0 && y1 > y0 && width > 1 && height > 1)) return
  const own = [[own_query, 0], [own_key, 1]]
  const few = few_query.data.row?.length ? [[few_query, 0], [few_key, 1]] : [[query, 0], [key, 1]]
  const seen = []
  for (const [source, kind] of own[0][0].data.row?.length ? own : few) {
    const {row, x, y, colour} = source.data
    for (let i = 0; i < (row?.length ?? 0); i++) {
      if ((colour[i] & 255) < 64) continue  // faint: not what was asked for
      const px = (x[i] - x0) / (x1 - x0) * width, py = (y[i] - y0) / (y1 - y0) * height
      if (px > -9 && px < width + 9 && py > -9 && py < height + 9) seen.push({source, kind, i, row: row[i], px, py})
    }
  }
  const n_near = seen.length
  const size = n_near < 40 ? 48 : n_near < 150 ? 34 : n_near < 600 ? 28 : n_near < 2500 ? 23 : 20
  const first = new Map()  // what is clicked and what it is linked to comes first, and larger
  look.data.first_row[0].forEach((row, i) => first.set(2 * row + look.data.first_kind[0][i], i))
  const rank = ({row, kind}) => {
    const at = first.get(2 * row + kind)
    if (at != null) return at - 1e9
    return (Math.imul(2 * row + kind + 1, 0x9E3779B1) >>> 0)
  }
  for (const each of seen) each.rank = rank(each)
  seen.sort((a, b) => a.rank - b.rank)
  const cells = new Map(), chosen = []
  for (const each of seen) {
    const is_first = each.rank < 0, is_special = each.row % grid.n < grid.n_prefix
    if (!is_on && !is_special) continue
    if (chosen.length >= MOST && !is_special) continue
    const side = is_special ? 17 : is_first ? 1.35 * size : size
    const cx = Math.floor(each.px / size), cy = Math.floor(each.py / size)
    let is_free = true
    for (let u = cx - 2; is_free && u <= cx + 2; u++) for (let v = cy - 2; is_free && v <= cy + 2; v++) {
      for (const other of cells.get(u * 100003 + v) ?? []) {
        const least = 0.46 * (side + other.side)  // a little may be hidden
        if (Math.abs(other.px - each.px) < least && Math.abs(other.py - each.py) < least) is_free = false
      }
    }
    if (!is_free && !(is_first && each.rank == -1e9)) continue
    each.side = side
    const name = cx * 100003 + cy
    if (!cells.has(name)) cells.set(name, [])
    cells.get(name).push(each)
    chosen.push(each)
  }
  chosen.reverse()  // the first ones on top
  const data = {row: [], kind: [], x: [], y: [], colour: [], size: [], picked: []}
  const solid = chosen.length > 0 && chosen[0].source.data.u != null
  if (solid) Object.assign(data, {u: [], v: [], w: []})
  for (const {source, kind, i, row, side, rank} of chosen) {
    data.row.push(row); data.kind.push(kind); data.size.push(side); data.picked.push(rank == -1e9 ? 1 : 0)
    for (const name of solid ? ["x", "y", "u", "v", "w", "colour"] : ["x", "y", "colour"]) data[name].push(source.data[name][i])
  }
  pictures.data = data
}
if (!pictures.choosing) {  // once a frame, however much of the map changes in it
  pictures.choosing = true
  requestAnimationFrame(choose)
}

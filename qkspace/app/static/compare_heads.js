// Put the heads of arrows just before their ends: as far in pixels at every zoom, so that the point at the end stays seen.
if (plot.properties.inner_width.is_unset) return  // not drawn yet
const {x0, y0, x1, y1, alpha, width} = arrows.data
const pixel = Math.abs(plot.x_range.end - plot.x_range.start) / Math.max(plot.inner_width, 1)
const n = x0.length, x = new Float32Array(n), y = new Float32Array(n), angle = new Float32Array(n), size = new Float32Array(n)
for (let i = 0; i < n; i++) {
  const dx = x1[i] - x0[i], dy = y1[i] - y0[i], length = Math.hypot(dx, dy)
  const back = Math.min(8 * pixel, length / 2)
  x[i] = x1[i] - back * dx / length
  y[i] = y1[i] - back * dy / length
  angle[i] = Math.atan2(dy, dx) - Math.PI / 2
  size[i] = Math.max(4, Math.min(6 * width[i], length / pixel))
}
heads.data = {x, y, angle, size, alpha}

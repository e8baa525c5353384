// Show all of a map that is new. Where the frame has another shape, what was zoomed into keeps its middle and its height.
// A unit is always as long across as up. Two maps of one head share their ranges, and so what is kept with these.
clearTimeout(plot.settling)
plot.settling = setTimeout(() => {
  if (plot.properties.inner_width.is_unset || plot.properties.inner_height.is_unset) return
  const {x_range: x, y_range: y, inner_width: width, inner_height: height} = plot
  if (!(width > 1 && height > 1)) return
  const name = place.data.name[0], [[x0, x1], [y0, y1]] = [frame.data.x, frame.data.y]
  const pixel = 1.12 * Math.max((x1 - x0) / width, (y1 - y0) / height) || 1 / width
  const was = x.fitted
  const ends = [x.start, x.end, y.start, y.end]
  const zoomed = was != null && was.name == name && was.ends.some((end, i) => end != ends[i])
  const across = pixel * width / 2, up = pixel * height / 2, column = (x0 + x1) / 2, row = (y0 + y1) / 2
  const whole = [column - across, column + across, row - up, row + up]
  x.setv({reset_start: whole[0], reset_end: whole[1]})
  y.setv({reset_start: whole[2], reset_end: whole[3]})
  if (zoomed) {
    const middle = (x.start + x.end) / 2, half = (y.end - y.start) / 2 * width / height
    x.setv({start: middle - half, end: middle + half})
  } else {
    x.setv({start: whole[0], end: whole[1]})
    y.setv({start: whole[2], end: whole[3]})
    x.fitted = {name, ends: whole}
  }
}, 0)

// Of a large index the server finds the point under the mouse: tell it where the mouse rests, and drop what it has left.
const {x, y} = pictures ? under(pictures, plot, cb_obj) : cb_obj
const radius = pixels * Math.abs(plot.x_range.end - plot.x_range.start) / plot.inner_width
const was = near.data
if (was.x.length && Math.hypot(was.x[0] - x, was.y[0] - y) > radius) {
  near.data = Object.fromEntries(Object.keys(was).map((name) => [name, []]))
}
clearTimeout(mouse.resting)
mouse.resting = setTimeout(() => mouse.data = {x: [x], y: [y]}, 70)

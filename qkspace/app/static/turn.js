// Turn a map in space: a drag moves the camera, and every source's x and y follow from its u, v and w.
const c = camera.data
if (c.dims[0] != 3 || plot.toolbar.gestures.pan.active != null) return
const begun = cb_obj.event_name == "panstart"
if (begun) { plot.tags = [plot.tags[0], c.yaw[0], c.pitch[0]]; return }
const yaw = plot.tags[1] + 0.4 * -cb_obj.delta_x
const pitch = Math.max(-90, Math.min(90, plot.tags[2] + 0.4 * cb_obj.delta_y))
if (cb_obj.event_name == "panend") {
  camera.data = {...c, yaw: [((yaw % 360) + 540) % 360 - 180], pitch: [pitch]}
  return
}
const y = yaw * Math.PI / 180, p = pitch * Math.PI / 180
const across = [Math.cos(y), Math.sin(y), 0]
const up = [-Math.sin(y) * Math.sin(p), Math.cos(y) * Math.sin(p), Math.cos(p)]
for (const source of sources) {
  const d = source.data
  for (const end of ["", "0", "1"]) {
    const u = d["u" + end], v = d["v" + end], w = d["w" + end]
    if (u == null) continue
    const xs = new Float32Array(u.length), ys = new Float32Array(u.length)
    for (let i = 0; i < u.length; i++) {
      xs[i] = u[i] * across[0] + v[i] * across[1]
      ys[i] = u[i] * up[0] + v[i] * up[1] + w[i] * up[2]
    }
    d["x" + end] = xs
    d["y" + end] = ys
  }
  source.change.emit()
}

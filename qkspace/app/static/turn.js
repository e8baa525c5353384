// Turn a map in space: a drag moves the camera, and every source's x and y follow from its u, v and w.
const c = camera.data
if (c.dims[0] != 3 || plot.toolbar.gestures.pan.active != null) return
const begun = cb_obj.event_name == "panstart"
if (begun) {
  plot.turning = {yaw: c.yaw[0], pitch: c.pitch[0]}
  const [raster, ...points] = swapped
  if (raster?.visible) {  // an image cannot be turned: points stand for it until the server has drawn another
    raster.visible = false
    for (const renderer of points) renderer.visible = true
  }
  return
}
const turning = plot.turning
if (turning == null) return
if (cb_obj.event_name == "panend") {  // this event does not say how far
  plot.turning = null
  const yaw = turning.last?.yaw ?? turning.yaw, pitch = turning.last?.pitch ?? turning.pitch
  camera.data = {...c, yaw: [((yaw % 360) + 540) % 360 - 180], pitch: [pitch]}
  return
}
const yaw = turning.yaw - 0.4 * cb_obj.delta_x
const pitch = Math.max(-90, Math.min(90, turning.pitch + 0.4 * cb_obj.delta_y))
turning.last = {yaw, pitch}
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

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
turned(sources, yaw, pitch)

// A drag turns a matrix in space; the server is told where it ends.
const {plot, camera} = parts
if (cb_obj.event_name == "panstart") plot.turning = {yaw: camera.data.yaw[0], pitch: camera.data.pitch[0]}
const turning = plot.turning
if (turning == null) return
if (cb_obj.event_name == "panend") {  // this event does not say how far
  plot.turning = null
  if (turning.last != null) camera.data = {...camera.data, yaw: [turning.last.yaw], pitch: [turning.last.pitch]}
  return
}
const turned = (((turning.yaw - 0.4 * (cb_obj.delta_x ?? 0)) % 360) + 540) % 360 - 180
turning.last = {yaw: turned, pitch: Math.max(5, Math.min(85, turning.pitch + 0.4 * (cb_obj.delta_y ?? 0)))}
draw_space(parts)

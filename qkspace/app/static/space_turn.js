// A drag turns a matrix in space; the server is told where it ends.
if (cb_obj.event_name == "panstart") plot.turning = {yaw: camera.data.yaw[0], pitch: camera.data.pitch[0]}
if (plot.turning == null) return
if (cb_obj.event_name == "panend") {
  plot.turning = null
  return
}
const {yaw, pitch} = plot.turning
const turned = (((yaw - 0.4 * (cb_obj.delta_x ?? 0)) % 360) + 540) % 360 - 180
const tilted = Math.max(5, Math.min(85, pitch + 0.4 * (cb_obj.delta_y ?? 0)))
camera.data = {...camera.data, yaw: [turned], pitch: [tilted]}

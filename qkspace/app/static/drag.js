// A drag turns a map in space and moves a map in the plane, until the visitor chooses another tool.
for (const tool of plot.toolbar.tools) if (tool.type == "PanTool") tool.active = camera.data.dims[0] != 3
// The points follow the camera, whoever moved it: the tool that turns back, or the way back in the browser's history.
const {yaw, pitch, dims} = camera.data
if (dims[0] != 3) return
const y = yaw[0] * Math.PI / 180, p = pitch[0] * Math.PI / 180
for (const source of new Set(plot.renderers.map((renderer) => renderer.data_source))) {
  const d = source.data
  for (const end of ["", "0", "1"]) {
    const u = d["u" + end], v = d["v" + end], w = d["w" + end]
    if (u == null) continue
    d["x" + end] = Float32Array.from(u, (_, i) => u[i] * Math.cos(y) + v[i] * Math.sin(y))
    d["y" + end] = Float32Array.from(u, (_, i) =>
      (v[i] * Math.cos(y) - u[i] * Math.sin(y)) * Math.sin(p) + w[i] * Math.cos(p))
    source.change.emit()
  }
}

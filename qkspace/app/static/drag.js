// A drag turns a map in space and moves a map in the plane, until the visitor chooses another tool.
for (const tool of plot.toolbar.tools) if (tool.type == "PanTool") tool.active = camera.data.dims[0] != 3
// The points follow the camera, whoever moved it: the tool that turns back, or the way back in the browser's history.
const {yaw, pitch, dims} = camera.data
if (dims[0] == 3) turned(new Set(plot.renderers.map((renderer) => renderer.data_source)), yaw[0], pitch[0])

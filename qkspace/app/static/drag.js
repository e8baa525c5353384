// A drag turns a map in space and moves a map in the plane, until the visitor chooses another tool.
for (const tool of plot.toolbar.tools) if (tool.type == "PanTool") tool.active = camera.data.dims[0] != 3

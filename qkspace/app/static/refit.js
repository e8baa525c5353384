const where = place.data.name[0] + place.data.map[0]
if (plot.tags[0] != where) {  // another head or map has arrived: show it whole
  plot.tags = [where]
  plot.reset.emit()
}
setTimeout(() => plot.hold_render = false)

// Save all panels of a figure, as they lie beside and below each other, as one picture on the ground of the page.
// button: its tags are the name of the file; body: what holds the figure; kind: "png" or "svg"
const plots = (view) => view.model.type === "Figure" ? [view] : (view.child_views ?? []).flatMap(plots)
const all = Bokeh.index.find_one(body), drawn = all ? plots(all) : []
if (!drawn.length) return
const scrolled = all.el.scrollTop
all.el.scrollTop = 0 // what stays in view while the rest scrolls lies beside the top
const boxes = drawn.map((view) => view.el.getBoundingClientRect())
all.el.scrollTop = scrolled
const left = Math.min(...boxes.map((box) => box.left)), top = Math.min(...boxes.map((box) => box.top))
const width = Math.max(...boxes.map((box) => box.right)) - left
const height = Math.max(...boxes.map((box) => box.bottom)) - top
const parts = drawn.map((view) => view.export(kind))
const whole = new parts[0].constructor(kind === "svg" ? "svg" : "canvas", true)
whole.resize(width, height)
const ratio = whole.pixel_ratio
whole.ctx.fillStyle = getComputedStyle(all.el).getPropertyValue("--card") || "white"
whole.ctx.fillRect(0, 0, width * ratio, height * ratio)
parts.forEach((part, i) => whole.ctx.drawImage(part.canvas, (boxes[i].left - left) * ratio, (boxes[i].top - top) * ratio))
whole.to_blob().then((blob) => {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = `${button.tags[0]}.${kind}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
})

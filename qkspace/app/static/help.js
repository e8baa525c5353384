// The help dialog, whenever it is shown or hidden: the focus goes into it, and back to where it was.
const deepest = () => {  // what has the focus, inside all shadow trees
  let el = document.activeElement
  while (el?.shadowRoot?.activeElement) el = el.shadowRoot.activeElement
  return el
}
const before = "qkspace_before_help_" + help.id
if (help.visible) {
  window[before] = deepest()
  requestAnimationFrame(() => Bokeh.index.find_one(help)?.el.shadowRoot.querySelector("[role=dialog]")?.focus())
} else {
  window[before]?.focus?.()
  delete window[before]
}

// Keys that work wherever the focus is, unless one types.
const unframe = (root) => {  // a clicked map needs no dotted frame; it lies too deep for a style sheet of ours
  for (const el of root.querySelectorAll("*")) {
    if (el.classList.contains("bk-events")) el.style.outline = "none"
    if (el.shadowRoot) unframe(el.shadowRoot)
  }
}
unframe(document)
const bound = "qkspace_keys_" + page.id
if (window[bound]) return
window[bound] = true
const step = (select, by) => {
  const at = select.options.indexOf(select.value) + by
  if (at >= 0 && at < select.options.length) select.value = select.options[at]
}
const element = (model) => Bokeh.index.find_one(model)?.el
const focus = (model) => element(model)?.shadowRoot.querySelector("input")?.focus()
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return  // the browser's own
  const path = event.composedPath()
  const inside = path.some((el) => el instanceof HTMLElement && el.dataset.rootId == page.id)
  if (notebook && !inside) return  // a notebook has keys of its own
  if (event.key == "Escape") {
    if (help.visible) help.visible = false
    else page.tags = ["escape", "", (page.tags[2] ?? 0) + 1]
    return
  }
  const target = path[0]
  if (target instanceof HTMLElement && target.isContentEditable) return
  if (target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
  if (target instanceof HTMLElement && target.classList.contains("noUi-handle")) return
  if (event.key == "?") { help.visible = !help.visible; event.preventDefault(); return }
  if (event.key == "/") { focus(search); event.preventDefault(); return }
  if (/^[1-4]$/.test(event.key)) { pages.active = Number(event.key) - 1; return }
  if (path.some((el) => el instanceof HTMLElement && (el.dataset.keys == "own" || /slick|bk-data-table/.test(el.className)))) return
  const moves = {ArrowLeft: [head, -1], ArrowRight: [head, 1], ArrowUp: [layer, -1], ArrowDown: [layer, 1]}
  if (event.key in moves) { step(...moves[event.key]); event.preventDefault() }
})

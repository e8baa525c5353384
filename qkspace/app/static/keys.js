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
const presses = {n: next, p: previous, N: previous, t: theme, ...Object.fromEntries(more)}
const press = (model) => element(model)?.shadowRoot.querySelector("button")?.click()
const dialog = () => element(help)?.shadowRoot.querySelector("[role=dialog]")
const turn = (event) => {  // the focus stays in the dialog: after its last button comes its first
  const buttons = [...dialog()?.querySelectorAll("button") ?? []]
  const at = buttons.indexOf(dialog()?.getRootNode().activeElement)
  if (at >= 0 && at + (event.shiftKey ? -1 : 1) in buttons) return
  buttons.at(event.shiftKey ? -1 : 0)?.focus()
  event.preventDefault()
}
document.addEventListener("click", (event) => {  // beside the dialog, or on what closes it
  const path = event.composedPath()
  if (!help.visible || !path.includes(element(help))) return
  const at = path.find((el) => el instanceof HTMLElement && el.dataset.help != null)?.dataset.help
  if (at == "close" || path[0].dataset?.help == "behind") help.visible = false
})
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return  // the browser's own
  const path = event.composedPath()
  const inside = path.some((el) => el instanceof HTMLElement && el.dataset.rootId == page.id)
  if (notebook && !inside) return  // a notebook has keys of its own
  if (help.visible) {
    if (event.key == "Escape" || event.key == "?") help.visible = false
    if (event.key == "Tab") turn(event)
    return
  }
  const target = path[0]
  if (event.key == "Escape" && path.includes(element(search)) && target.tagName == "INPUT") {
    target.value = search.value  // what was typed since is let go
    target.blur()
    return
  }
  if (event.key == "Escape") { page.tags = ["escape", "", (page.tags[2] ?? 0) + 1]; return }
  if (target instanceof HTMLElement && target.isContentEditable) return
  if (event.key == "Enter" && path.includes(element(search))) {
    if (search.value && target.value == search.value) press(event.shiftKey ? previous : next)
    if (target.tagName == "INPUT") target.blur()  // which takes over what was typed; the keys are the page's again
    return
  }
  if (target instanceof HTMLElement && /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return
  if (target instanceof HTMLElement && target.classList.contains("noUi-handle")) return
  if (event.key == "?") { help.visible = true; event.preventDefault(); return }
  if (event.key == "/") { focus(search); event.preventDefault(); return }
  if (event.key in presses) { press(presses[event.key]); return }
  if (/^[1-9]$/.test(event.key) && event.key <= pages.labels.length) { pages.active = Number(event.key) - 1; return }
  if (path.some((el) => el instanceof HTMLElement && (el.dataset.keys == "own" || /slick|bk-data-table/.test(el.className)))) return
  const moves = {ArrowLeft: [head, -1], ArrowRight: [head, 1], ArrowUp: [layer, -1], ArrowDown: [layer, 1]}
  if (event.key in moves) { step(...moves[event.key]); event.preventDefault() }
})

// Tips on every control, the buttons of the cards, the visitor's wish for dark, and the way back in the browser's history.
for (const [model, tip] of tips) {
  const el = Bokeh.index.find_one(model)?.el
  if (el) el.title = tip
}
const what = Bokeh.index.find_one(title)?.el?.shadowRoot.querySelector(".what")
if (what) what.title = what.textContent  // a narrow window cuts it
const bound = "qkspace_go_" + page.id
if (!window[bound]) {  // what a card's button says is to be shown, in the words of an address
  window[bound] = true
  document.addEventListener("click", (event) => {
    const el = event.composedPath().find((el) => el instanceof HTMLElement && el.dataset.go != null)
    const mine = event.composedPath().some((el) => el instanceof HTMLElement && el.dataset.rootId == page.id)
    if (el && mine) page.tags = ["go", el.dataset.go, (page.tags[2] ?? 0) + 1]
  })
}
if (notebook) return
if (asks_theme && window.matchMedia("(prefers-color-scheme: dark)").matches) page.tags = ["theme", "dark", (page.tags[2] ?? 0) + 1]
window.addEventListener("popstate", () => { page.tags = ["address", window.location.search, (page.tags[2] ?? 0) + 1] })

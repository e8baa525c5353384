// The tour: hints that point at parts of the page one after the other, on the first visit or when asked for.
const key = "qkspace_tour"
const bound = key + "_" + page.id
if (window[bound]) return
window[bound] = true

const inside = (root, selector) => {  // the first match, in shadow trees too
  const found = root.querySelector?.(selector)
  if (found) return found
  for (const el of [root, ...(root.querySelectorAll?.("*") ?? [])]) {
    const deeper = el.shadowRoot && inside(el.shadowRoot, selector)
    if (deeper) return deeper
  }
  return null
}
const element = (model, selector) => {
  const el = Bokeh.index.find_one(model)?.el
  return el && selector ? inside(el, selector) ?? el : el
}
const seen = (el) => {  // the part of it that lies in the window, null if none does
  const r = el?.getBoundingClientRect()
  if (!r?.width || !r.height) return null
  const left = Math.max(r.left, 0), top = Math.max(r.top, 0)
  const right = Math.min(r.right, innerWidth), bottom = Math.min(r.bottom, innerHeight)
  return right - left > 4 && bottom - top > 4 ? {left, top, right, bottom} : null
}

const GAP = 12, EDGE = 8  // pixels from the arrow's point to the bubble, and from the bubble to the window's edge
const within = (value, low, high) => Math.max(low, Math.min(value, high))
const places = (at, width, height) => {  // the point of the arrow and the bubble's corner, on each side
  const x = (at.left + at.right) / 2, y = (at.top + at.bottom) / 2
  const across = within(x - width / 2, EDGE, innerWidth - width - EDGE)
  const down = within(y - height / 2, EDGE, innerHeight - height - EDGE)
  return [
    {side: "below", point: [x, at.bottom], corner: [across, at.bottom + GAP]},
    {side: "right", point: [at.right, y], corner: [at.right + GAP, down]},
    {side: "left", point: [at.left, y], corner: [at.left - GAP - width, down]},
    {side: "above", point: [x, at.top], corner: [across, at.top - GAP - height]},
  ]
}
const fits = ({corner: [left, top]}, width, height) =>
  left >= EDGE && top >= EDGE && left + width <= innerWidth - EDGE && top + height <= innerHeight - EDGE

const begin = () => {
  if (window[key]) window[key].end()
  const before = document.activeElement
  const host = document.createElement("div")
  host.id = "qkspace-tour"
  const root = host.attachShadow({mode: "open"})
  root.innerHTML = `<style></style><div class="ring"></div><div class="bubble" role="dialog" aria-labelledby="says">
    <p id="says" aria-live="polite"></p><div class="foot"><span class="step"></span>
    <button class="skip"></button><button class="next"></button></div></div><div class="arrow"></div>`
  const part = (name) => root.querySelector(name)
  part("style").textContent = css
  part(".skip").textContent = says.skip
  document.body.append(host)
  const ring = part(".ring"), bubble = part(".bubble"), arrow = part(".arrow")
  let step = 0, last = ""

  const target = () => {  // the part of the page, or the bar of views where that part is not shown now
    const [model, selector] = steps[step]
    const el = element(model, selector)
    return seen(el) ?? seen(element(pages)) ?? {left: 0, top: 0, right: innerWidth, bottom: innerHeight}
  }
  const place = () => {
    const at = target()
    const now = JSON.stringify([step, at, innerWidth, innerHeight])
    if (now == last) return
    last = now
    const {offsetWidth: width, offsetHeight: height} = bubble
    Object.assign(ring.style, {left: `${at.left - 5}px`, top: `${at.top - 5}px`,
                               width: `${at.right - at.left + 4}px`, height: `${at.bottom - at.top + 4}px`})
    const x = (at.left + at.right) / 2, y = (at.top + at.bottom) / 2
    const found = places(at, width, height).find((each) => fits(each, width, height))
      ?? places({left: x, right: x, top: y, bottom: y}, width, height)[0]  // too large to lie beside: point into it
    arrow.className = `arrow ${found.side}`
    Object.assign(arrow.style, {left: `${found.point[0]}px`, top: `${found.point[1]}px`})
    Object.assign(bubble.style, {left: `${found.corner[0]}px`, top: `${found.corner[1]}px`})
  }
  const show = () => {
    part("#says").textContent = steps[step][2]
    part(".step").textContent = says.step.replace("{i}", step + 1).replace("{n}", steps.length)
    part(".next").textContent = step + 1 < steps.length ? says.next : says.done
    part(".skip").hidden = step + 1 == steps.length
    element(...steps[step])?.scrollIntoView({block: "nearest"})
    place()
  }
  const end = () => {
    clearInterval(watch)
    window.removeEventListener("resize", place)
    if (document.activeElement == host) before?.focus?.()
    host.remove()
    delete window[key]
  }
  const finish = () => {
    try { localStorage.setItem(key, "done") } catch { /* not allowed: it was asked for by hand */ }
    end()
  }
  part(".skip").addEventListener("click", finish)
  part(".next").addEventListener("click", () => { step += 1; step < steps.length ? show() : finish() })
  bubble.addEventListener("keydown", (event) => {
    if (event.key != "Escape") return
    event.stopPropagation()
    finish()
  })
  const watch = setInterval(place, 200)  // parts move when cards fill, columns scroll and views change
  window.addEventListener("resize", place)
  window[key] = {end}
  show()
  if (before == null || before == document.body) part(".next").focus({preventScroll: true})
}

document.addEventListener("click", (event) => {
  const path = event.composedPath()
  const mine = path.some((el) => el instanceof HTMLElement && el.dataset.rootId == page.id)
  if (!mine || !path.some((el) => el instanceof HTMLElement && el.dataset.tour != null)) return
  help.visible = false
  setTimeout(begin, 50)  // once the focus is back where it was
})
if (notebook) return
let wanted = false
try {
  wanted = !localStorage.getItem(key) && (!navigator.webdriver || sessionStorage.getItem(key) == "force")
} catch { /* nothing can be remembered, so nothing is shown: it would come back on every visit */ }
if (wanted) begin()

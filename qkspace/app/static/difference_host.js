// Draw the change of attention of a sequence into `host`, and tell `answers` what the visitor does there. The view outlives
// the elements that Bokeh draws anew: it is put into the new ones as it stands.
const views = globalThis.qkspace_differences ??= new Map()
const tell = (what, value) => { answers.tags = [what, value, (answers.tags[2] ?? 0) + 1] }
const known = views.get(host.id) ?? {queue: [], turn: 0}
views.set(host.id, known)
if (host.tags.length && host.tags[0] !== known.turn) {
  known.turn = host.tags[0]
  known.queue.push(host.tags)  // as it is now: another message may come before there is a place to draw
}
const begin = (place, data, chosen) => {
  known.root = document.createElement("div")
  known.root.dataset.keys = "own"  // the arrow keys move among its tokens
  known.root.style.cssText = "position: absolute; inset: 0;"
  place.append(known.root)
  known.view = qkspaceDifferenceView(known.root, data, {
    ...chosen, strings,
    onChange: (now) => tell("view", {mode: now.mode, layer: now.layer, head: now.head, selected: now.selected}),
    need: (what) => tell("need", what),
    pick: (what) => tell("pick", what),
  })
}
const show = (left) => {
  const el = Bokeh.index.find_one(host)?.el
  if (!el?.isConnected) {
    if (left > 0) setTimeout(show, 50, left - 1)
    return
  }
  const place = el.shadowRoot ?? el
  if (known.root && known.root.parentNode !== place) place.append(known.root)
  for (const [, data, given] of known.queue.splice(0)) {
    const chosen = given instanceof Map ? Object.fromEntries(given) : given
    if (!known.view && !data) tell("again", null)  // what came before this was never seen
    else if (!known.view) begin(place, data, chosen)
    else if (data) known.view.update(data, chosen)
    else known.view.set(chosen)
  }
}
show(100)

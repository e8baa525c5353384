// Draw an image and its attention into `host`, and tell the page what the visitor does there. Bokeh's maps as objects, and its
// arrays as the browser's own: what comes with the page holds maps, what comes later holds objects.
const plain = (v) => {
  if (v instanceof Map) return Object.fromEntries([...v].map(([k, x]) => [k, plain(x)]))
  if (ArrayBuffer.isView(v)) return new Uint16Array(v.buffer, v.byteOffset, v.length)
  if (Array.isArray(v)) return v.map(plain)
  return v && typeof v === "object" ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v
}
const views = globalThis.qkspace_images ??= new Map()
const tell = (value) => { page.tags = ["view", value, (page.tags[2] ?? 0) + 1] }
const show = (left) => {
  const el = Bokeh.index.find_one(host)?.el
  if (!el?.isConnected) {
    if (left > 0) setTimeout(show, 50, left - 1)
    return
  }
  let known = views.get(host.id)
  const is_whole = known && known.at === el && known.view.el.isConnected
  if (!host.tags.length || (is_whole && known.turn === host.tags[0])) return
  const [turn, data, state] = plain(host.tags)
  if (!is_whole) {  // Bokeh has drawn the host anew
    known?.view.destroy()
    known = {view: qkspaceImageView(el.shadowRoot ?? el, strings, tell), at: el, sent: known?.sent ?? []}
    for (const earlier of known.sent) known.view.update(earlier)
    views.set(host.id, known)
  }
  if (data) {
    if (known.sent[0]?.id !== data.id) known.sent = []
    known.sent.push(data)
    known.view.update(data)
  }
  known.turn = turn
  known.view.set(state)
}
show(100)

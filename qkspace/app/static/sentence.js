// Draw the attention of a sequence into `host`, and tell the page what the visitor does there.
// Bokeh's maps as objects, and its arrays as the browser's own: parts of theirs (subarray) begin at the wrong place. What
// comes with the page holds maps, what comes later holds objects.
const TYPES = {uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array}
const plain = (v) => {
  if (v instanceof Map) return Object.fromEntries([...v].map(([k, x]) => [k, plain(x)]))
  if (ArrayBuffer.isView(v)) return new TYPES[v.dtype](v.buffer, v.byteOffset, v.length)
  if (Array.isArray(v)) return v.map(plain)
  return v && typeof v === "object" ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v
}
const views = globalThis.qkspace_views ??= new Map()
const joined = (old, more) => {  // what is known of a sequence: layers come one at a time
  if (!more) return old
  if (old?.id !== more.id) return more
  const layers = (name) => more[name].map((given, i) => given ?? old[name]?.[i] ?? null)
  const lists = ["attention", "thumbs", "valueNorms", "query", "key"].filter((name) => more[name])
  return {...old, ...more, ...Object.fromEntries(lists.map((name) => [name, layers(name)]))}
}
const tell = (what, value) => { page.tags = [what, value, (page.tags[2] ?? 0) + 1] }
const show = (left) => {
  const el = Bokeh.index.find_one(host)?.el
  if (!el?.isConnected) {
    if (left > 0) setTimeout(show, 50, left - 1)
    return
  }
  const given = plain(host.tags)
  const known = views.get(host.id)
  if (!given.length || known?.turn === given[0]) return
  const [turn, data, state] = given
  if (known && known.el.isConnected && known.at === el) {
    known.turn = turn
    known.data = joined(known.data, data)
    if (data) known.view.update(data)
    known.view.set(state)
    return
  }
  const was = known?.view.state()
  known?.view.destroy()  // Bokeh has drawn the host anew
  const all = joined(known?.data, data)
  const root = document.createElement("div")
  root.dataset.keys = "own"  // the arrow keys move among its tokens
  root.style.cssText = "position: absolute; inset: 0;"
  ;(el.shadowRoot ?? el).append(root)
  const view = qkspaceAttentionView(root, all, {
    ...was, ...state, strings, height: "fill", theme: "auto",
    onChange: (now) => tell("view", {layer: now.layer, heads: now.heads, head: now.head, mode: now.mode, selected: now.selected}),
    needLayer: (layer) => tell("need", layer),
  })
  views.set(host.id, {view, at: el, el: root, turn, data: all})
}
show(100)

// Place points of a map in space on the screen: every source's x and y follow from its u, v and w (`select.seen`).
const turned = (sources, yaw, pitch) => {
  const y = yaw * Math.PI / 180, p = pitch * Math.PI / 180
  const across = [Math.cos(y), Math.sin(y)]
  const up = [-Math.sin(y) * Math.sin(p), Math.cos(y) * Math.sin(p), Math.cos(p)]
  for (const source of sources) {
    const d = source.data
    let changed = false
    for (const end of ["", "0", "1"]) {
      const u = d["u" + end], v = d["v" + end], w = d["w" + end]
      if (u == null) continue
      const xs = new Float32Array(u.length), ys = new Float32Array(u.length)
      for (let i = 0; i < u.length; i++) {
        xs[i] = u[i] * across[0] + v[i] * across[1]
        ys[i] = u[i] * up[0] + v[i] * up[1] + w[i] * up[2]
      }
      d["x" + end] = xs
      d["y" + end] = ys
      changed = true
    }
    if (changed) source.change.emit()
  }
}

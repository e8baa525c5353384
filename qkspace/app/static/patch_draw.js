export default ({pictures, sprites, grid, look}, _glyph, {ctx, i, r}) => {
  // Draw a patch in its frame: round corners for a query, sharp ones for a key; a star for a token that is no patch.
  const {row, kind, colour, picked} = pictures.data
  const packed = colour[i], is_key = kind[i] == 1
  const hue = `rgb(${packed >>> 24},${(packed >>> 16) & 255},${(packed >>> 8) & 255})`
  const own = is_key ? look.data.key[0] : look.data.query[0]
  const patch = row[i] % grid.n - grid.n_prefix
  if (patch < 0) {
    const points = is_key ? 4 : 5, inner = is_key ? 0.5 : 0.42
    ctx.beginPath()
    for (let k = 0; k < 2 * points; k++) {
      const reach = (k % 2 ? inner : 1) * r, angle = Math.PI * (k / points - 0.5)
      ctx.lineTo(reach * Math.cos(angle), reach * Math.sin(angle))
    }
    ctx.closePath()
    ctx.fillStyle = hue
    ctx.fill()
    ctx.strokeStyle = look.data.ink[0]
    ctx.lineWidth = picked[i] ? 2 : 1
    ctx.stroke()
    return
  }
  const image = sprite_of(sprites, Math.floor(row[i] / grid.n), () => pictures.change.emit())
  const frame = (inset, radius) => {
    ctx.beginPath()
    ctx.roundRect(-r + inset, -r + inset, 2 * (r - inset), 2 * (r - inset), is_key ? 0 : radius)
  }
  if (picked[i]) {
    frame(-3, 0.45 * r + 2)
    ctx.fillStyle = look.data.ink[0]
    ctx.fill()
  }
  frame(0, 0.45 * r)
  ctx.fillStyle = own
  ctx.fill()
  const is_one = look.data.same[0]
  frame(is_one ? 0 : 0.9, 0.42 * r)
  ctx.fillStyle = hue
  ctx.fill()
  const inset = is_one ? 2 : Math.min(4, 0.22 * r + 0.9)
  ctx.save()
  frame(inset, 0.35 * r)
  if (image) {
    ctx.clip()
    ctx.drawImage(image, ...cut(grid, image, patch), -r + inset, -r + inset, 2 * (r - inset), 2 * (r - inset))
  } else {
    ctx.fillStyle = look.data.ground[0]
    ctx.fill()
  }
  ctx.restore()
}

// Patches of images on the map. A sprite is a small picture of a whole image; a patch is cut out of it.
// grid: rows, columns, n_prefix, n (tokens of an image), width and height (pixels of an image), patch_width, patch_height.
const sprite_of = (sprites, place, arrived) => {  // null until the browser has read it
  const kept = globalThis.qkspace_sprites ??= new Map()
  for (const source of sprites) {
    const at = source.data.place?.indexOf(place) ?? -1
    if (at < 0) continue
    const uri = source.data.uri[at]
    let image = kept.get(uri)
    if (!image) {
      image = new Image()
      image.src = uri
      image.waiting = new Set()
      image.onload = () => { for (const tell of image.waiting) tell(); image.waiting.clear() }
      kept.set(uri, image)
    }
    if (image.complete && image.naturalWidth) return image
    if (arrived) image.waiting.add(arrived)
    return null
  }
  return null
}
const cut = (grid, image, patch) => {  // where a patch lies in a sprite: x, y, width, height
  const across = image.naturalWidth / grid.width, down = image.naturalHeight / grid.height
  const column = patch % grid.columns, row = Math.floor(patch / grid.columns)
  return [column * grid.patch_width * across, row * grid.patch_height * down,
          grid.patch_width * across, grid.patch_height * down]
}
const under = (pictures, plot, event) => {  // the middle of the picture under the mouse, else where the mouse is
  const {x, y, size} = pictures.data
  const pixel = Math.abs(plot.x_range.end - plot.x_range.start) / plot.inner_width
  for (let i = (x?.length ?? 0) - 1; i >= 0; i--) {
    const half = pixel * size[i] / 2
    if (Math.abs(x[i] - event.x) <= half && Math.abs(y[i] - event.y) <= half) return {x: x[i], y: y[i]}
  }
  return {x: event.x, y: event.y}
}
const marked = (grid, sprites, row, arrived) => {  // the patch enlarged, and its image with its place marked, as one picture
  const image = sprite_of(sprites, Math.floor(row / grid.n), arrived)
  if (!image) return ""
  const scale = 160 / Math.max(grid.width, grid.height)
  const width = grid.width * scale, height = grid.height * scale
  const patch = row % grid.n - grid.n_prefix
  const edge = patch < 0 ? 0 : Math.min(height, 96), gap = edge && 8
  const canvas = document.createElement("canvas")
  canvas.width = edge + gap + width
  canvas.height = height
  const ctx = canvas.getContext("2d")
  ctx.drawImage(image, edge + gap, 0, width, height)
  if (patch >= 0) {
    ctx.imageSmoothingEnabled = false
    ctx.drawImage(image, ...cut(grid, image, patch), 0, 0, edge, edge)
    const [x, y] = [patch % grid.columns * grid.patch_width * scale, Math.floor(patch / grid.columns) * grid.patch_height * scale]
    const box = [edge + gap + x, y, grid.patch_width * scale, grid.patch_height * scale]
    for (const [colour, wide] of [["#000", 4], ["#fff", 2]]) {
      ctx.strokeStyle = colour
      ctx.lineWidth = wide
      ctx.strokeRect(...box)
    }
  }
  return canvas.toDataURL()
}

// Copy the address of what is shown, and say for a while that it is done.
const copied = async (text) => {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {  // none without https, or not allowed: the old way
    const area = Object.assign(document.createElement("textarea"), {value: text, readOnly: true})
    area.style.cssText = "position:fixed;top:0;opacity:0"
    document.body.append(area)
    area.select()
    try { return document.execCommand("copy") } finally { area.remove() }
  }
}
copied(window.location.href).then((done) => {
  if (!done) { window.prompt(label, window.location.href); return }  // to be copied by hand
  share.label = says
  clearTimeout(window.qkspace_shared)
  window.qkspace_shared = setTimeout(() => { share.label = label }, 2000)
})

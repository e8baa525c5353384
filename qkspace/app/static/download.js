// Hand a file that the server made to the browser.
const [name, mime, bytes] = file.tags
const raw = Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))
const link = document.createElement("a")
link.href = URL.createObjectURL(new Blob([raw], {type: mime}))
link.download = name
link.click()
setTimeout(() => URL.revokeObjectURL(link.href), 10000)

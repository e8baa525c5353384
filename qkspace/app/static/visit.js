// Open the page anew with one word of its address changed.
const query = new URLSearchParams(window.location.search)
if (name == "index") for (const key of [...query.keys()]) if (!["language", "theme"].includes(key)) query.delete(key)
query.set(name, cb_obj.value)
window.location.search = query.toString()

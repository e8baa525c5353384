// Keep the browser's address in step with what is shown; a step worth going back to becomes one in its history.
const query = new URLSearchParams(address.tags[0])
const index = new URLSearchParams(window.location.search).get("index")
if (index) query.set("index", index)
const said = "?" + query.toString()
if (window.location.search == said) return
if (address.tags[1]) window.history.pushState(null, "", said)
else window.history.replaceState(null, "", said)

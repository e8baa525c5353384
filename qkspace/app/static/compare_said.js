// What the tooltip says of the unit that is marked; Bokeh puts it there as text, never as HTML.
const {kind: [kind], index: [i]} = near.data
if (i == null) return ""
const t = tokens.data, f = facts.data
const sentence = Array.from(sentences.data.text[t.sentence[i]])  // characters, not UTF-16 units
const fill = (said, values) => said.replace(/\{(\w+)\}/g, (_, name) => values[name])
if (format == "token") return t.text[i]
if (format == "before" || format == "after") {
  const start = t.start[i], end = t.end[i]
  if (start < 0) return format == "after" && t.position[i] == 1 ? " " + sentence.slice(0, 80).join("") : ""
  if (format == "before") return (start > 70 ? "\u2026" : "") + sentence.slice(Math.max(0, start - 70), start).join("")
  return sentence.slice(end, end + 70).join("") + (sentence.length > end + 70 ? "\u2026" : "")
}
const {say, labels, heads} = place.data.words[0]
if (format == "where") {
  return fill(say.where, {kind: say[kind], head: heads[side], i: t.position[i], n: t.length[i]})
}
if (format == "drift") return kind == "query" ? fill(say.drift, {js: f.drift[i].toFixed(3)}) : ""
const text = vocabulary.data.text[f[`${format}_${kind}`][i]], weight = f[`${format}_${kind}_weight`][i]
const token = weight > 0 ? `${text} ${(100 * weight).toFixed(0)} %` : say.nothing
return fill(kind == "query" ? say.attends : say.attended, {label: labels[format], token})

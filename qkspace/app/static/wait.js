// A message changes many sources, and the page may paint between two of them: wait for `place`, which comes last.
plot.hold_render = true
setTimeout(() => plot.hold_render = false, 1000)  // should the rest never come

// What the new view shows has arrived whole: the page may paint it.
setTimeout(() => plot.hold_render = false)

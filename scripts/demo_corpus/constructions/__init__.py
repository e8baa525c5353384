"""The kinds of sentences: each function takes a `Scene` and returns the root of one sentence without its final mark."""

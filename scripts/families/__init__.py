"""A zoo: every model type of the installed transformers as a tiny model with random weights, and inputs to run it on.

`tiny.make` is the entrance; `shrink` makes a configuration small, `inputs` guesses what `forward` wants, `exceptions` holds
what no rule covers, and `workers` runs the whole zoo in processes that may die.
"""

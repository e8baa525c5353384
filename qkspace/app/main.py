"""What `bokeh serve qkspace/app --args --index out/NAME` runs for each visitor."""

import argparse
from pathlib import Path

from bokeh.io import curdoc

from qkspace.app.server import fill

parser = argparse.ArgumentParser(prog="bokeh serve qkspace/app --args")
parser.add_argument("--index", type=Path, action="append", default=[], help="folder of an index")
parser.add_argument("--model", help="where the model of live sentences is, where that is not where it was")
parser.add_argument("--trust-remote-code", action="store_true", help="let that model run code of its own")
options = parser.parse_args()
document = curdoc()
context = document.session_context
arguments = context.request.arguments if context else {}
fill(document, options.index, arguments, model=options.model, trust_remote_code=options.trust_remote_code)

"""What `bokeh serve qkspace/app --args --index out/NAME` runs for each visitor."""

import argparse
from pathlib import Path

from bokeh.io import curdoc

from qkspace.app.server import fill

parser = argparse.ArgumentParser(prog="bokeh serve qkspace/app --args")
parser.add_argument("--index", type=Path, action="append", default=[], help="folder of an index")
options = parser.parse_args()
document = curdoc()
context = document.session_context
fill(document, options.index, context.request.arguments if context else {})

"""Test of `docs/tutorial.ipynb`: a reader who runs it gets what it promises, in a fresh kernel and with no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install qkspace[test]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install qkspace[test]")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install qkspace[test]")

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
PROGRESS = "Loading weights|tqdm"  # of transformers
LOCAL = ("127.0.0.1", "localhost", "::1")

# Runs in the kernel before the first cell: what is not on this machine cannot be reached.
OFFLINE = f"""
import os, socket
os.environ["HF_HUB_OFFLINE"] = "1"
_connect = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in {LOCAL}:
        raise OSError(f"the tutorial asked the network for {{address}}")
    return _connect(self, address)
socket.socket.connect = connect
del connect
"""
# Runs after the last cell: what the browser gets that is shown `index.show`.
PAGE = """
import asyncio
from urllib.request import urlopen
from bokeh.io.state import curstate
(server,) = curstate().uuid_to_server.values()
print(await asyncio.to_thread(lambda: urlopen(f"http://localhost:{server.port}/").read().decode()))
"""


@pytest.fixture(scope="module")
def ran(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tutorial after a fresh kernel of this Python has run all of it where it lies."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):  # of this Python, whatever kernels a machine has registered
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python", language="python")

    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))  # where the tutorial builds its index
        patch.setenv("OMP_NUM_THREADS", "1")  # its matrices are small, and other tests run beside it
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        notebook = nbformat.read(TUTORIAL, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
        notebook.cells.append(nbformat.v4.new_code_cell(PAGE))
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_manager_class=Kernel, resources={"metadata": {"path": str(TUTORIAL.parent)}}
        )
        return client.execute()  # stops at a cell that raises, and says which


def _outputs(notebook: Any, code: str) -> dict[str, Any]:
    """Return what the one cell that holds some code showed, by media type, with what it printed."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    shown: dict[str, Any] = {"printed": ""}
    for output in cell.outputs:
        if output.output_type == "stream":
            shown["printed"] += output.text
        else:
            shown |= output.get("data", {})
    return shown


def test_no_cell_complains(ran: Any) -> None:
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "every cell ran"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip() and not re.search(PROGRESS, line)]
    assert not lines, "nothing is warned of"


def test_the_views_are_there(ran: Any) -> None:
    """Pages in frames of their own, a picture of all heads, and at the end the app."""
    assert "6 layers x 12 heads" in _outputs(ran, "qkspace.build")["text/plain"]
    assert _outputs(ran, "index.atlas")["image/png"] and _outputs(ran, "index.matrix")["image/png"]
    assert "previous" in _outputs(ran, "index.labels")["text/html"], "the head that looks back is called so"
    for code in ("links=200", "heads=[head.head]", "attention_view(", "head.sentence(live"):
        assert "<iframe srcdoc=" in _outputs(ran, code)["text/html"], code
    assert "<title>all-MiniLM-L6-v2 - qkspace</title>" in _outputs(ran, PAGE)["printed"], "the kernel serves the app"


def test_its_numbers_are_what_it_says_of_them(ran: Any) -> None:
    """The head it takes is one that looks back, and the scores it prints are shares inside their interval."""
    assert "attention_to_previous" in _outputs(ran, "heads = index.head_table")["text/html"]
    printed = _outputs(ran, "recall1_content_low")["printed"]
    recall, content, low, high = map(float, re.findall(r"\d\.\d\d", printed)[:4])
    assert 0 <= low <= content <= high <= 1 and 0 < recall <= 1
    n_hits, n_sentences = map(int, re.findall(r"\d+", _outputs(ran, 'index.search("bank")')["printed"])[:2])
    lines = (TUTORIAL.parents[1] / "data" / "curious.txt").read_text(encoding="utf-8").splitlines()
    with_bank = [line for line in lines if re.search(r"\bbank\b", line, re.IGNORECASE)]
    assert n_sentences == len(with_bank) and n_hits >= n_sentences


def test_the_committed_file_is_small_and_holds_no_outputs() -> None:
    """So that it never shows what the code no longer does, and a change of it can be read."""
    assert TUTORIAL.stat().st_size < 200_000
    notebook = nbformat.read(TUTORIAL, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count]
    assert not re.search(r"https?://", TUTORIAL.read_text(encoding="utf-8"))

"""The command line: `qkspace build | compare | project | heads | ablate | serve | report | export | verify | models`.

In: arguments. Out: calls of the pipeline, the report and the server, and an exit status: 0 done, 1 something to mend
(said on standard error), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qkspace import __version__, cli_heads
from qkspace.console import Console
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    from qkspace.comparison.reader import Comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    console = Console(0 if options.quiet else 2 if options.verbose else 1)
    try:
        status: int = options.run(options, console)
        return status
    except QKSpaceError as error:
        console.error(str(error))
        return 1
    except KeyboardInterrupt:
        console.error("Interrupted. What was finished is kept: run the same command again to go on.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`... | head`)
        sys.stderr.close()
        return 0


def build_main(arguments: Sequence[str] | None = None) -> int:
    """Run `qkspace build` with these arguments: what `scripts/build_index.py` is."""
    return main(["build", *(sys.argv[1:] if arguments is None else arguments)])


def compare_main(arguments: Sequence[str] | None = None) -> int:
    """Run `qkspace compare` with these arguments: what `scripts/compare_checkpoints.py` is."""
    return main(["compare", *(sys.argv[1:] if arguments is None else arguments)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qkspace", description="Show how attention behaves over a whole corpus.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"qkspace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", "-q", action="store_true", help="say nothing but results and errors")
    common.add_argument("--verbose", "-v", action="store_true", help="say more")
    _add_build(
        commands.add_parser(
            "build", allow_abbrev=False, parents=[common], help="make an index of a checkpoint and a corpus"
        )
    )
    _add_compare(
        commands.add_parser(
            "compare", allow_abbrev=False, parents=[common], help="show what changed between checkpoints, over a corpus"
        )
    )
    serve = commands.add_parser("serve", allow_abbrev=False, parents=[common], help="open the app on an index")
    serve.add_argument("index", nargs="*", type=Path, help="folder of an index; none: those in out/ are listed")
    serve.add_argument("--port", type=_port, default=5006, help="port of the app (default 5006; 0 takes any free one)")
    serve.add_argument("--address", default="localhost", help="address to listen on (default localhost)")
    serve.add_argument("--show", action="store_true", help="open a browser")
    serve.add_argument("--model", help="where the model of live sentences is, where that is not where it was")
    serve.add_argument("--trust-remote-code", action="store_true", help="let that model run code of its own")
    serve.set_defaults(run=_serve)
    project = commands.add_parser(
        "project", allow_abbrev=False, parents=[common], help="add maps to a finished index, without the model"
    )
    project.add_argument("index", type=Path)
    project.add_argument("--methods", type=_names, required=True, help="maps, with commas: unfold, pca, tsne, umap")
    _add_maps(
        project, joint="make one map of each method for all heads together (joint-pca, ...) instead of one a head"
    )
    project.set_defaults(run=_project)
    report = commands.add_parser(
        "report",
        allow_abbrev=False,
        parents=[common],
        help="print an index and every score, or what a comparison found",
    )
    report.add_argument("index", type=Path)
    report.add_argument("--json", action="store_true", help="print everything, for every head, as JSON")
    report.add_argument("--intervals", action="store_true", help="print each score's 95 %% interval in its place")
    cli_heads.add_report(report)
    report.set_defaults(run=_report)
    cli_heads.add_heads(
        commands.add_parser(
            "heads", allow_abbrev=False, parents=[common], help="find out what each head does, and keep it in the index"
        )
    )
    cli_heads.add_ablate(
        commands.add_parser(
            "ablate", allow_abbrev=False, parents=[common], help="take out one head at a time, and measure what changes"
        )
    )
    _add_export(
        commands.add_parser(
            "export", allow_abbrev=False, parents=[common], help="write a view as PNG, SVG, PDF, HTML, CSV or Parquet"
        )
    )
    verify = commands.add_parser(
        "verify",
        allow_abbrev=False,
        parents=[common],
        help="compare every file of an index or comparison with its check sum",
    )
    verify.add_argument("index", type=Path)
    verify.set_defaults(run=_verify)
    _add_models(
        commands.add_parser(
            "models", allow_abbrev=False, parents=[common], help="list the models that can be captured, or try one"
        )
    )
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    needed = build.add_argument_group("what")
    needed.add_argument("--model", required=True, help="folder of a checkpoint, or its name on the Hugging Face hub")
    needed.add_argument(
        "--corpus", required=True, nargs="+", help="file, folder, name of a data set, or - for standard input"
    )
    needed.add_argument("--out", required=True, type=Path, help="folder of the index")
    needed.add_argument("--name", help="what to call the model (default: from its folder or name)")
    needed.add_argument("--overwrite", action="store_true", help="replace an index of something else that stands there")
    needed.add_argument("--adapter", help="folder of a LoRA adapter that is laid on the model")
    needed.add_argument("--revision", help="branch, tag or commit of a name on the hub")
    _add_how(build)
    build.set_defaults(run=_build)


def _add_compare(compare: argparse.ArgumentParser) -> None:
    needed = compare.add_argument_group("what")
    needed.add_argument(
        "--base",
        required=True,
        help="folder of a checkpoint, its name on the hub (NAME@REVISION), or folder of an index",
    )
    needed.add_argument(
        "--tuned",
        required=True,
        nargs="+",
        action="extend",
        help="what is compared with it, one or several: the same, or the folder of a LoRA adapter of the base",
    )
    needed.add_argument(
        "--corpus",
        nargs="+",
        help="file, folder or name of a data set (default: that of the base, where it is an index)",
    )
    needed.add_argument("--out", required=True, type=Path, help="folder of the comparison")
    needed.add_argument("--names", type=_names, default=(), help="what to call them, with commas, the base first")
    needed.add_argument("--overwrite", action="store_true", help="replace a comparison of something else there")
    needed.add_argument("--json", action="store_true", help="print the drift of every head as JSON")
    named = {action.dest for action in compare._actions}
    _add_how(compare)
    for action in compare._actions:
        if action.dest not in named:
            action.default = argparse.SUPPRESS  # so that what was not asked for can be told from what was
    compare.set_defaults(run=_compare)


def _add_how(build: argparse.ArgumentParser) -> None:
    """Add how a corpus is read, a model run, and what is stored."""
    _add_reading(build)
    _add_capture(build)
    _add_stored(build)


def _add_reading(build: argparse.ArgumentParser) -> None:
    """Add how a corpus is read."""
    reading = build.add_argument_group("how the corpus is read")
    reading.add_argument(
        "--format", help="text, jsonl, csv, tsv, parquet, conllu, gap, datasets or images (default: by the suffix)"
    )
    reading.add_argument("--text-column", help="column that holds the text, or the list of words")
    reading.add_argument(
        "--unit", choices=("line", "paragraph"), default="line", help="what a sequence of plain text is"
    )
    reading.add_argument("--target-column", help="column of the text that the decoder of an encoder-decoder reads")
    reading.add_argument("--image-column", help="column that holds the images, or their paths")
    reading.add_argument("--audio-column", help="column that holds the sounds, or their paths")
    reading.add_argument("--split", help="split of a data set")
    reading.add_argument("--config", help="configuration of a data set")
    reading.add_argument("--encoding", default="utf-8", help="encoding of text (default utf-8)")
    reading.add_argument(
        "--max-length", type=int, help="tokens of a sequence (default: the model's context, at most 1024)"
    )
    reading.add_argument(
        "--long", choices=("split", "cut"), default="split", help="what becomes of longer sequences (default split)"
    )
    reading.add_argument("--max-tokens", type=int, help="store a random sample of whole sequences of so many tokens")


def _add_capture(build: argparse.ArgumentParser) -> None:
    """Add how the model is run."""
    capture = build.add_argument_group("how the model is run")
    capture.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    capture.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    capture.add_argument(
        "--batch-tokens",
        type=int,
        default=1024,
        help="padded tokens of a forward pass (default 1024; a GPU wants more)",
    )
    capture.add_argument(
        "--attention",
        metavar="PART",
        help="which attention of a model that has several: encoder, decoder or cross; text, vision or audio; stage0, ...",
    )
    capture.add_argument(
        "--forward",
        choices=("exact", "sdpa"),
        default="exact",
        help="exact takes attention as the model's own code computes it (default); sdpa runs the model by torch's fused "
        "kernel and takes the attention of the captured vectors: less memory, the same within rounding",
    )
    capture.add_argument(
        "--generate", type=int, metavar="N", help="let the model go on with each text for up to N tokens, and show both"
    )
    capture.add_argument(
        "--device-map",
        choices=("auto", "balanced", "balanced_low_0", "sequential"),
        help="spread a model that is too large over GPUs, memory and disk, in this manner (needs accelerate)",
    )
    capture.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also read weights that are stored by pickle (pytorch_model.bin), numbers only",
    )
    capture.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")


def _add_stored(build: argparse.ArgumentParser) -> None:
    """Add what is stored of it, maps among it."""
    maps = build.add_argument_group("what is stored")
    maps.add_argument(
        "--methods",
        type=_names,
        default=("unfold", "pca"),
        help="maps, with commas: unfold, pca, tsne, umap (default unfold,pca)",
    )
    _add_maps(maps, joint="also one map of each method for all heads together (joint-pca, ...)")
    maps.add_argument(
        "--before-rope", action="store_true", help="also store queries and keys before rotary positions (content alone)"
    )
    maps.add_argument("--storage", choices=("float16", "float32"), default="float16", help="type of stored vectors")
    maps.add_argument("--top-k", type=int, default=8, help="attended keys kept for each query (default 8)")
    maps.add_argument("--seed", type=int, default=0)


def _add_maps(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, joint: str) -> None:
    """Add how maps are made."""
    parser.add_argument("--dims", type=_dims, default=(2, 3), help="dimensions of the maps, with commas (default 2,3)")
    parser.add_argument(
        "--normalise", default="auto", help="auto, none, attentionviz, sphere or balanced (default auto)"
    )
    parser.add_argument("--joint", action="store_true", help=joint)
    parser.add_argument("--n-jobs", type=int, help="processes that make maps (default: one a core)")


def _add_export(export: argparse.ArgumentParser) -> None:
    """Add what is to be seen in the file."""
    export.add_argument("index", type=Path)
    export.add_argument(
        "--view",
        choices=("map", "sentence", "heatmap", "matrix", "received", "bars", "scatter", "atlas"),
        default="map",
        help="default map; matrix, received (by each token), bars and scatter are of one sequence and the mean of the heads of "
        "its last layer, or of --layer and --head",
    )
    export.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the file; its suffix says how it is written: .png, .svg or .pdf; a map also as .html, .csv or .parquet "
        "(the points drawn), "
        "a sentence and a heatmap also as .html",
    )
    export.add_argument(
        "--layer", type=int, help="which layer, from 0 (default: a map's, that of the best map; else 0)"
    )
    export.add_argument(
        "--head",
        type=_numbers,
        default=(),
        help="which head, from 0; a sentence takes several, with commas (default all)",
    )
    export.add_argument("--method", help="which map (default unfold, where there is one)")
    export.add_argument("--dims", type=int, choices=(2, 3), help="of the map (default 2)")
    export.add_argument(
        "--colour", help="what points are coloured by: a column of the corpus, position ... (default query / key)"
    )
    export.add_argument("--links", type=int, help="how many of the strongest pairs a map joins (default 100)")
    export.add_argument("--threshold", type=float, help="the least attention of a joined pair (default 0.1)")
    export.add_argument(
        "--selected", type=_selected, help="a token to pick out on a map: query:ROW or key:ROW, a row of index.tokens"
    )
    export.add_argument("--sequence", type=int, help="which sequence a sentence or heatmap shows (default the first)")
    export.add_argument("--tokens", type=_span, help="which of its tokens, for example 1-40 (default all)")
    export.add_argument("--theme", choices=("light", "dark"))
    export.add_argument("--width", type=float, help="of a picture, in inches (default 7)")
    export.set_defaults(run=_export)


def _add_models(models: argparse.ArgumentParser) -> None:
    """Add what is listed, or which checkpoint is tried and how it is loaded."""
    models.add_argument("word", nargs="?", default="", help="list the model types that contain it (default all)")
    models.add_argument(
        "--check",
        metavar="MODEL",
        help="load a checkpoint, folder or name, and run on two sentences, pictures or sounds the check that a build begins "
        "with; the exit status is 1 where no part of it can be captured",
    )
    models.add_argument("--attention", metavar="PART", help="try this part alone (default all)")
    models.add_argument("--revision", help="branch, tag or commit of a name on the hub")
    models.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    models.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    models.add_argument("--allow-pickle", action="store_true", help="also read weights that are stored by pickle")
    models.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    models.set_defaults(run=_models)


def _numbers(text: str) -> tuple[int, ...]:
    if not _names(text) or not all(name.isdecimal() for name in _names(text)):
        raise argparse.ArgumentTypeError(f"expected a number, or several with commas; got {text!r}")
    return tuple(int(name) for name in _names(text))


def _selected(text: str) -> tuple[str, int]:
    kind, _, row = text.partition(":")
    if kind not in ("query", "key") or not row.isdecimal():
        raise argparse.ArgumentTypeError(f"expected query:ROW or key:ROW; got {text!r}")
    return kind, int(row)


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected the first and the last token, from 1, such as 1-40; got {text!r}")
    return int(first) - 1, int(last)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535; got {text!r}")
    return int(text)


def _dims(text: str) -> tuple[int, ...]:
    if not all(name.isdecimal() for name in _names(text)):
        raise argparse.ArgumentTypeError(f"expected 2, 3 or 2,3; got {text!r}")
    return tuple(int(name) for name in _names(text))


def _build(options: argparse.Namespace, console: Console) -> int:
    from qkspace.pipeline import build

    chosen = vars(options).copy()
    for name in ("run", "quiet", "verbose"):
        chosen.pop(name)
    index = build(chosen.pop("model"), chosen.pop("corpus"), console=console, **chosen)
    console.say(
        f"{index.root}: {index.n_layers} layers x {index.n_heads} heads, {index.n_tokens:,} tokens. "
        f"Look at it with: qkspace serve {index.root}"
    )
    return 0


def _compare(options: argparse.Namespace, console: Console) -> int:
    from qkspace.comparison.build import compare

    chosen = vars(options).copy()
    is_json = chosen.pop("json")
    for name in ("run", "quiet", "verbose"):
        chosen.pop(name)
    what = {name: chosen.pop(name) for name in ("base", "tuned", "corpus", "out", "names", "overwrite")}
    comparison = compare(**what, **chosen, console=console)
    _report_drift(comparison, console, is_json=is_json)
    console.say(f"Look at it with: qkspace serve {comparison.root}")
    return 0


def _project(options: argparse.Namespace, console: Console) -> int:
    from qkspace.extend import project

    index = project(
        options.index,
        options.methods,
        dims=options.dims,
        normalise=options.normalise,
        joint=options.joint,
        n_jobs=options.n_jobs,
        console=console,
    )
    names = ", ".join(f"{method}{dims}" for method, dims in index.maps)
    console.say(f"{index.root} has these maps now: {names}")
    return 0


def _report_drift(comparison: Comparison, console: Console, *, is_json: bool) -> None:
    """Print what changed, head by head."""
    from qkspace import report

    if is_json:
        sys.stdout.write(
            json.dumps(report.drift_json(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
        return
    for label in comparison.labels:
        columns, rows = report.drift_rows(comparison, label)
        console.table(f"{label} against {comparison.base_label}", columns, rows, report.DRIFT_CAPTION)


def _report(options: argparse.Namespace, console: Console) -> int:
    from qkspace import report
    from qkspace.comparison.reader import Comparison, is_comparison
    from qkspace.index import Index

    if is_comparison(options.index):
        _report_drift(Comparison(options.index), console, is_json=options.json)
        return 0
    if options.heads or options.tables is not None or options.csv:
        return cli_heads.report_heads(options, console)
    index = Index(options.index)
    if options.json:
        sys.stdout.write(json.dumps(report.as_json(index), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return 0
    for line in report.summary(index):
        console.result(line)
    for method, dims in index.maps:
        columns, rows = report.score_rows(index, method, dims, intervals=options.intervals)
        what = "95 % intervals over sequences" if options.intervals else "on sequences"
        console.table(
            f"{method} in {dims}-D, {what} held out from fitting",
            columns,
            rows,
            "recall@k: share of tokens whose most attended key is among the k nearest keys on the map; content: without "
            "special tokens and a decoder's first; KL: nats lost by reading attention off the map; correlations: -1 is best; "
            "no map: by distance before the projection. Do not believe a poor map. How sure a score is: --intervals",
        )
        for head, reason in report.unmapped(index, method, dims).items():
            console.result(f"{head} is not mapped: {reason}")
    return 0


def _export(options: argparse.Namespace, console: Console) -> int:
    import warnings

    from qkspace.export import export
    from qkspace.index import Index

    chosen = vars(options).copy()
    for name in ("run", "quiet", "verbose"):
        chosen.pop(name)
    index, heads = Index(chosen.pop("index")), chosen.pop("head")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        path = export(index, chosen.pop("view"), chosen.pop("out"), heads=heads, **chosen)
    for warning in warned:
        console.say(f"warning: {warning.message}")
    console.result(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    from qkspace import store
    from qkspace.comparison.build import verify
    from qkspace.comparison.reader import is_comparison

    if is_comparison(options.index):
        faults = verify(options.index)
        for fault in faults:
            console.error(f"{options.index}: {fault}")
        if faults:
            console.say("Make it again with the command that made it and --overwrite.")
        else:
            console.result(f"{options.index}: sound, its files and those of its indexes are what the manifests say")
        return 1 if faults else 0
    faults = store.verify(options.index)
    for fault in faults:
        console.error(f"{options.index}: {fault}")
    if faults and all(fault.endswith(store.UNNAMED) for fault in faults):
        console.say(
            "What the manifest names is sound. The rest is of a `qkspace project` that did not finish, which goes on when it "
            "is run again, or does not belong there."
        )
    elif faults:
        console.say("Make it again with the command that made it and --overwrite.")
    else:
        n = len(store.read_manifest(options.index)["files"])
        console.result(f"{options.index}: sound, {n} files are what the manifest says")
    return 1 if faults else 0


def _models(options: argparse.Namespace, console: Console) -> int:
    if options.check is None:
        from qkspace import families

        console.result(families.as_text(families.read(), options.word))
        return 0
    if options.word:
        raise QKSpaceError(f"Give a word ({options.word!r}) to list model types, or --check {options.check}, not both.")
    from qkspace.plan import Parameters
    from qkspace.trial import in_words, load_to_try, try_parts

    how = {
        name: getattr(options, name) for name in ("revision", "dtype", "trust_remote_code", "allow_pickle", "device")
    }
    checkpoint = load_to_try(options.check, **how)
    trials = try_parts(checkpoint, Parameters(attention=options.attention, **how))
    console.result(f"{type(checkpoint.model).__name__}, {checkpoint.model.num_parameters():,} parameters")
    for trial in trials:
        console.result(in_words(trial))
    return 0 if any(trial.check is not None for trial in trials) else 1


def _serve(options: argparse.Namespace, console: Console) -> int:
    from qkspace.app.server import serve

    serve(
        options.index,
        port=options.port,
        address=options.address,
        show=options.show,
        console=console,
        model=options.model,
        trust_remote_code=options.trust_remote_code,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

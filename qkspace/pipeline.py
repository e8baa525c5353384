"""The pipeline: the only module that chains the stages.

In: the name of a checkpoint, a corpus and parameters. Out: a finished index on disk. Knows in which order things
happen and what was done already; every stage's own knowledge is in its module.

    corpus -> tokenise -> capture (check, extract) -> normalise -> project -> fidelity -> index

Work is cut into units: the reading, then groups of sequences, then the maps of one head each. A unit is finished when
its marker in `qkspace-work/` or its file stands; a killed build that is run again does only what is left.
"""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkspace import position, store
from qkspace.classes import read_classes
from qkspace.console import SILENT, Console
from qkspace.extend import PLAN as PROJECT_PLAN
from qkspace.extract import Keep, extract, plan_units
from qkspace.feed import Feed, Tokens
from qkspace.gather import OF_ONE_SEQUENCE, SUMMED
from qkspace.index import Index
from qkspace.maps import SampleRows, Wanted, make_maps, ranges, refuse_unlike
from qkspace.model import Checkpoint, identity, load
from qkspace.plan import Parameters, different, holds_the_same, refuse_other, request_of
from qkspace.reading import CORPUS_CLASH, Reader, asked_modality, modality_of, part_of, reader_of
from qkspace.schema import IntArray, LayerSpec, QKSpaceError
from qkspace.surface import HEAD_COLUMNS
from qkspace.surface_tables import surface_tables
from qkspace.units import Totals, UnitFiles
from qkspace.weights import input_device

if TYPE_CHECKING:
    from qkspace.selfcheck import Check

FIT_TOKENS = SCORE_TOKENS = 6_000  # a map is fitted on that many tokens of one part of the corpus, scored on another
HELD_OUT = 0.25  # the share of sequences that no map is fitted on
CHECK_SEQUENCES, CHECK_TOKENS = 6, 96
STORED_ERROR = 0.03  # of a weight, from which on rounding is worth a word
CHECK_LONG = 2  # sequences that are checked where all are longer than that


def build(
    model: str,
    corpus: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    overwrite: bool = False,
    console: Console = SILENT,
    **options: Any,  # the fields of Parameters
) -> Index:
    """Make an index of a checkpoint and a corpus and return it; one that stands already is returned as it is.

    Args:
        model: folder or name of a checkpoint (`qkspace.model.load`).
        corpus: a file, folder, name of a data set or "-" (`qkspace.corpus.read`), or several of them.
        out: folder of the index. An unfinished build of the same model, corpus and parameters there is gone on with.
        overwrite: replace an index of something else that stands there; one of the same is left, a build of it gone on with.
        console: where progress is shown; nowhere by default.
        **options: fields of `Parameters`.

    Raises:
        QKSpaceError: something about model, corpus, parameters or disk that needs the user.
    """
    unknown = options.keys() - {field.name for field in fields(Parameters)}
    if unknown:
        choices = ", ".join(field.name for field in fields(Parameters))
        raise QKSpaceError(f"Unknown option {', '.join(sorted(unknown))}; choose among {choices}.")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    parameters = Parameters(**values)
    sources = [str(corpus)] if isinstance(corpus, str | Path) else [str(source) for source in corpus]
    root = Path(out)
    store.refuse_foreign(root)
    with store.disk_errors(root):
        if overwrite and not holds_the_same(root, model, sources, parameters):
            store.clear(root)
        if (root / store.MANIFEST).exists():
            index = Index(root)
            if "-" in sources:
                raise QKSpaceError(
                    f"{root} is an index already, and whether standard input holds the same text cannot be told. "
                    "Use --overwrite, or another --out."
                )
            refuse_other(index.manifest["made_from"], request_of(model, sources, parameters), root)
            console.say(f"{root} is already built: nothing to do.")
            if not (root / store.WORK / PROJECT_PLAN).exists():  # which is another command's, perhaps running
                store.end_work(root)  # a build killed at its very end may have left it
            return index
        with store.locked(root):
            if (root / store.MANIFEST).exists():
                raise QKSpaceError(f"{root}: another build has just finished there. Run the command again.")
            try:
                Build(model, sources, root, parameters, console).run()
            except QKSpaceError:
                store.give_up(root)
                raise
            store.end_work(root)
    return Index(root)


class Build:
    """One build: where it writes, what it was asked for, and what its stages hand to each other."""

    def __init__(self, model: str, sources: list[str], root: Path, parameters: Parameters, console: Console) -> None:
        self.model, self.sources, self.root, self.parameters, self.console = model, sources, root, parameters, console
        self.work = root / store.WORK

    def run(self) -> None:
        """Run every stage, each from where it was left."""
        request = request_of(self.model, self.sources, self.parameters)
        store.sweep(self.root)
        plan = self.work / "plan.json"
        if (self.work / "read.json").exists() and not self._is_stale(request):
            refuse_other(store.read_json(plan), request, self.root)
            self.console.say(f"Going on with the unfinished build in {self.root}")
        else:
            store.start_over(self.root)
            store.write_json(plan, request)
        checkpoint = load(
            self.model,
            device=self.parameters.device,
            dtype=self.parameters.dtype,
            revision=self.parameters.revision,
            adapter=self.parameters.adapter,
            trust_remote_code=self.parameters.trust_remote_code,
            allow_pickle=self.parameters.allow_pickle,
            device_map=self.parameters.device_map,
            modality=asked_modality(self.sources, self.parameters),
        )
        who = identity(checkpoint)
        self._same_model(who)
        reader = self.reader(checkpoint)
        counts = self.read(reader)
        tokens = self.tokens()
        feed = reader.feed(self.work / "corpus", tokens)
        check = self.check(checkpoint, tokens, feed)
        refuse_unlike(check.layers, self._wanted(), int(tokens.lengths[tokens.is_stored].max()))
        self._write_positions(check)
        totals = self.extract(checkpoint, check, tokens, feed)
        del checkpoint  # the maps need its memory more
        self._write_heads(check.layers, totals, tokens)
        stored = np.flatnonzero(tokens.is_stored)
        fit, score = self._write_tables(stored, tokens)
        entry = {"modality": reader.modality, **reader.finish(self.work / "corpus", self.root, tokens.is_stored)}
        self._map(check.layers, tokens, fit, score)
        self._write_manifest(request, who, check, counts, {"read": tokens, "stored": stored}, entry)

    def _is_stale(self, request: dict[str, Any]) -> bool:
        """Tell whether what stands there was read for something else and came no further, so that nothing is lost with it."""
        units = self.work / "units"
        has_units = units.is_dir() and any(units.iterdir())
        return not has_units and bool(different(store.read_json(self.work / "plan.json"), request))

    def reader(self, checkpoint: Checkpoint) -> Reader:
        """Choose how the corpus is read: by what the model reads, and which part of it is captured."""
        from qkspace.selfcheck import choose

        modality = modality_of(checkpoint, self.sources, self.parameters)
        asked = part_of(checkpoint, modality, self.parameters.attention)
        self.part = choose(checkpoint.model, asked)
        return reader_of(checkpoint, self.part, self.sources, self.parameters, self.console)

    def _same_model(self, who: dict[str, Any]) -> None:
        """Refuse to go on with a build whose checkpoint has changed under its name since."""
        seen = self.work / "model.json"
        if not (self.work / "read.json").exists():
            store.write_json(seen, who)
        refuse_other(store.read_json(seen), who, self.root)

    # ---------------------------------------------------------------- reading

    def read(self, reader: Reader) -> dict[str, Any]:
        """Turn the corpus into tokens in the work folder: flat binary ids and marks, and tables in parts. One unit."""
        from pyarrow import parquet

        from qkspace.tokenise import TokeniseCounts

        done = self.work / "read.json"
        if done.exists():
            if "-" in self.sources:
                self.console.say("The text was read before; standard input is not read again.")
            return store.read_json(done)
        counts = TokeniseCounts()
        folder = self.work / "corpus"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        lengths: list[IntArray] = []
        with (folder / "ids").open("wb") as ids, (folder / "special").open("wb") as special:
            for number, chunk in enumerate(reader.chunks(folder, counts)):
                ids.write(chunk.token_ids.astype("<i4").tobytes())
                special.write(chunk.is_special.astype("u1").tobytes())
                for name, table in (("tokens", chunk.tokens), ("sequences", chunk.sequences)):
                    with store.replacing(folder / f"{name}-{number:06d}.parquet") as file:
                        parquet.write_table(table, file)
                lengths.append(chunk.lengths)
            for flat in (ids, special):
                flat.flush()
                os.fsync(flat.fileno())
        if not lengths:
            raise QKSpaceError(
                f"{', '.join(self.sources)}: no sequence with a token in it, so there is nothing to show."
            )
        store.write_array(folder / "lengths.npy", np.concatenate(lengths).astype(np.int64))
        if len(self.sources) > 1 and any(
            CORPUS_CLASH in parquet.read_schema(part).names for part in folder.glob("sequences-*.parquet")
        ):
            counts.renamed["corpus"] = CORPUS_CLASH
        result = {**asdict(counts), **reader.facts()}
        store.write_json(done, result)
        return result

    def tokens(self) -> Tokens:
        """Open the tokenised corpus by memory map, and choose whole sequences at random until max_tokens."""
        folder = self.work / "corpus"
        lengths = np.load(folder / "lengths.npy")
        starts = np.concatenate([[0], np.cumsum(lengths)])
        is_stored = np.ones(len(lengths), dtype=bool)
        limit = self.parameters.max_tokens
        if limit is not None and starts[-1] > limit:
            is_stored = _sample(lengths, limit, self.parameters.seed)
        return Tokens(
            token_ids=np.memmap(folder / "ids", dtype="<i4", mode="r"),
            is_special=np.memmap(folder / "special", dtype=bool, mode="r"),
            starts=starts,
            is_stored=is_stored,
            classes=read_classes(folder, int(starts[-1])),
            n_source=np.load(source) if (source := folder / "n_source.npy").exists() and self.part == "cross" else None,
        )

    # ---------------------------------------------------------------- capture

    def check(self, checkpoint: Checkpoint, tokens: Tokens, feed: Feed) -> Check:
        """Check capture on a few short sequences of unlike length, padded together, and on the longest one's mask."""
        from qkspace.selfcheck import check

        order = np.argsort(tokens.lengths, kind="stable")
        short = order[tokens.lengths[order] <= CHECK_TOKENS]
        chosen = (
            short[np.unique(np.linspace(0, len(short) - 1, CHECK_SEQUENCES).astype(int))]
            if len(short)
            else order[:CHECK_LONG]
        )
        if getattr(feed, "equal_lengths", False):
            chosen = chosen[tokens.lengths[chosen] == tokens.lengths[chosen[0]]]
        device = input_device(checkpoint.model)
        batch, longest = (feed.batch(s, device) for s in (chosen, order[-1:]))
        result = check(checkpoint.model, batch, longest, self.parameters.storage, self.part)
        self.console.detail(
            f"Check passed on {result.n_tokens} tokens: attention as captured ({result.route}) differs from the model's own by "
            f"at most {result.captured_error:.1g}, recomputed from query and key by {result.recomputed_error:.1g} "
            f"(allowed {result.tolerance:g}), from {self.parameters.storage} storage by {result.stored_error:.1g}"
        )
        if result.stored_error > STORED_ERROR and self.parameters.storage == "float16":
            self.console.say(
                f"Attention from vectors stored as float16 differs from the model's own by up to {result.stored_error:.2g}: "
                "its logits are sharp. --storage float32 keeps it exact, at twice the size."
            )
        return result

    def _write_positions(self, check: Check) -> None:
        """Write what is added to the product in each layer, where it is the same for all sequences."""
        for number, part in enumerate(check.positions):
            if part is not None and (part.bias is not None or part.sink is not None):
                position.write(self.root, number, bias=part.bias, sink=part.sink)

    def extract(
        self, checkpoint: Checkpoint, check: Check, tokens: Tokens, feed: Feed, *, statistics: bool = True
    ) -> Totals:
        """Run every unit that is not finished yet; return the sums of the statistics over all units.

        statistics: False leaves them out, to measure what they cost.
        """
        p = self.parameters
        keep = Keep(p.top_k, p.storage, unrotated=p.before_rope, how=p.forward, statistics=statistics)
        units = plan_units(tokens, check.layers, keep)
        with ExitStack() as stack:
            stored = tokens.lengths[tokens.is_stored]
            files = stack.enter_context(UnitFiles(self.root, check.layers, stored, keep))
            left = [unit for unit in units if not files.is_finished(unit)]
            results = extract(
                checkpoint.model, check, tokens, left, feed, keep, batch_tokens=p.batch_tokens, say=self.console.say
            )
            stack.enter_context(closing(results))
            writer = stack.enter_context(ThreadPoolExecutor(1))  # writes one unit while the next ones are captured
            label, done = "Capturing queries and keys", len(units) - len(left)
            writing: Future[None] | None = None
            for unit, result in zip(
                left, self.console.track(results, len(units), label, done=done, unit="units"), strict=True
            ):
                if writing is not None:
                    writing.result()
                writing = writer.submit(files.finish, unit, result)
            if writing is not None:
                writing.result()
            return files.totals(units)

    # ---------------------------------------------------------------- tables

    def _write_heads(self, layers: tuple[LayerSpec, ...], totals: Totals, tokens: Tokens) -> None:
        """Write heads.parquet: one row a head, the mean of each statistic over all tokens that were read; and its surface."""
        means = np.concatenate(totals.sums) / totals.n_tokens  # (head of any layer, statistic)
        heads = np.asarray([(i, head) for i, layer in enumerate(layers) for head in range(layer.n_heads)])
        surface = surface_tables(layers, totals.surface, totals.counts, tokens.classes)
        found = dict(zip(SUMMED, means.T, strict=True)) | surface.heads
        if any(layer.crosses for layer in layers):
            found |= {name: np.full(len(heads), np.nan) for name in OF_ONE_SEQUENCE}
        for name in ("position_share", *HEAD_COLUMNS):
            if np.isnan(
                found[name]
            ).all():  # of no head: none has a position part of its own, or queries have no neighbours
                found.pop(name)
        columns = {"layer": heads[:, 0], "head": heads[:, 1], **found}
        store.write_table(self.root / "heads.parquet", columns)
        store.write_table(self.root / "surface.parquet", surface.surface)
        store.write_table(self.root / "profile.parquet", surface.profile)

    def _write_tables(self, stored: IntArray, tokens: Tokens) -> tuple[IntArray, IntArray]:
        """Write the tables of what is stored; return the sequences that maps are fitted and scored on.

        The two never share a text, also where a long one was split into windows. With a single text nothing can be held out,
        and no map is scored.
        """
        window = store.read_column(self.work / "corpus", "sequences", "window")
        names, text = np.unique(np.cumsum(window == 0)[stored], return_inverse=True)  # windows of one text go together
        place = np.random.default_rng(self.parameters.seed + 1).permutation(len(names))[text]
        order = np.argsort(place, kind="stable")
        is_held_out = place[order] < min(len(names) - 1, max(1, round(HELD_OUT * len(names))))
        score = _up_to(stored[order[is_held_out]], tokens.lengths, SCORE_TOKENS)
        fit = _up_to(stored[order[~is_held_out]], tokens.lengths, FIT_TOKENS)
        keep = None if tokens.is_stored.all() else stored
        for name, groups in (("tokens", None), ("sequences", {"fit": fit, "score": score})):
            parts = sorted((self.work / "corpus").glob(f"{name}-*.parquet"))
            store.concatenate_tables(parts, self.root / f"{name}.parquet", keep, groups)
        return fit, score

    # ---------------------------------------------------------------- maps

    def _map(self, layers: tuple[LayerSpec, ...], tokens: Tokens, fit: IntArray, score: IntArray) -> None:
        """Make every map of every head that is not there yet, heads in parallel."""
        first_row = np.cumsum(np.where(tokens.is_stored, tokens.lengths, 0)) - tokens.lengths  # of the stored ones
        parts = []
        for chosen in (fit, score):
            is_special = np.asarray(tokens.is_special[ranges(tokens.starts[chosen], tokens.lengths[chosen])])
            parts.append(SampleRows.of(first_row[chosen], tokens.lengths[chosen], is_special))
        make_maps(self.root, layers, self._wanted(), *parts, n_jobs=self.parameters.n_jobs, console=self.console)

    def _wanted(self) -> Wanted:
        return Wanted(tuple(self.parameters.maps), self.parameters.normalise, self.parameters.seed)

    # ---------------------------------------------------------------- manifest

    def _write_manifest(
        self,
        request: dict[str, Any],
        who: dict[str, Any],
        check: Check,
        counts: dict[str, Any],
        parts: dict[str, Any],
        entry: dict[str, Any],
    ) -> None:
        """Write the manifest, and with it make the index whole."""
        tokens, stored = parts["read"], parts["stored"]
        manifest = {
            "format": store.FORMAT,
            "format_version": store.FORMAT_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "made_from": request,
            "model": who,
            "layers": [asdict(layer) for layer in check.layers],
            "check": {f.name: getattr(check, f.name) for f in fields(check) if f.name not in ("layers", "positions")},
            **entry,
            "corpus": {
                **counts,
                "n_sequences_stored": len(stored),
                "n_tokens_stored": int(tokens.lengths[stored].sum()),
                "n_windows": len(tokens.lengths),
            },
            "maps": self._wanted().entries(),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("qkspace", "torch", "transformers", "numpy", "scikit-learn")},
            },
            "platform": f"{sys.platform}-{platform.machine()}",
        }
        self.console.detail("Computing check sums")
        store.write_json(self.root / store.MANIFEST, {**manifest, "files": store.file_records(self.root)})


def _sample(lengths: IntArray, limit: int, seed: int) -> NDArray[np.bool_]:
    """Choose whole sequences at random, each that still fits, until `limit` tokens are full.

    Raises:
        QKSpaceError: no sequence is short enough.
    """
    chosen = np.zeros(len(lengths), dtype=bool)
    left = limit
    for sequence in np.random.default_rng(seed).permutation(len(lengths)):
        if lengths[sequence] <= left:
            chosen[sequence] = True
            left -= int(lengths[sequence])
    if not chosen.any():
        raise QKSpaceError(f"--max-tokens {limit} is less than the shortest sequence ({lengths.min()} tokens).")
    return chosen


def _up_to(sequences: IntArray, lengths: IntArray, limit: int) -> IntArray:
    """Return the first of the sequences that have at most `limit` tokens together, at least one, in corpus order."""
    n = max(1, int((np.cumsum(lengths[sequences]) <= limit).sum()))
    return np.sort(sequences[:n])

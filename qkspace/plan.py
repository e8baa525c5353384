"""Plan: what an index is to be made of, and whether an unfinished or finished one was made of the same.

In: names of a checkpoint and a corpus, and parameters. Out: a record of everything that decides the content of an index.
Runs no stage and writes nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from qkspace import store
from qkspace.capture import Forward
from qkspace.model import Device, DeviceMap, DType
from qkspace.schema import QKSpaceError

CHOICES: dict[str, tuple[str | None, ...]] = {
    "long": ("split", "cut"),
    "storage": ("float16", "float32"),
    "unit": ("line", "paragraph"),
    "dtype": get_args(DType),
    "device": get_args(Device),
    "forward": get_args(Forward),
    "device_map": (None, *get_args(DeviceMap)),
}
ELSEWHERE = ("device", "device_map", "allow_pickle", "n_jobs")  # where and by whose leave: no matter to what is made


@dataclass(frozen=True, slots=True)
class Parameters:
    """How an index is made; everything here but what ELSEWHERE names decides what is in it.

    methods and dims: the maps, each method in each number of dimensions. joint: also one map of each method for all heads
    of the model together (`joint-pca`), which may be named among the methods too. max_tokens: whole sequences are sampled at
    random with `seed` until that many tokens are stored (None stores all); statistics run over all that is read.
    max_length: tokens of a sequence, None for the model's context, at most 1,024. long: "split" a longer sequence into
    windows, or "cut" it after the first. storage: type of the stored vectors. top_k: attended keys kept for each query.
    batch_tokens: padded tokens of a forward pass; a GPU wants more. name: what to call the model. adapter: folder of a LoRA
    adapter that is laid on the model. attention: which part of a model that has several (`qkspace.parts`). forward: "exact"
    takes attention as the model's own code computes it, "sdpa" runs the model by a fused kernel and takes attention of the
    captured vectors. before_rope: also store queries and keys before rotary positions. target_column: what the decoder of an
    encoder-decoder reads; image_column, audio_column: the column of the images or of the sounds. generate: tokens that a
    decoder goes on with after each text. The rest says how the corpus is read (`corpus.read`) and the model is loaded
    (`model.load`).
    """

    methods: tuple[str, ...] = ("unfold", "pca")
    dims: tuple[int, ...] = (2, 3)
    normalise: str = "auto"
    joint: bool = False
    max_tokens: int | None = None
    max_length: int | None = None
    long: Literal["split", "cut"] = "split"
    seed: int = 0
    storage: Literal["float16", "float32"] = "float16"
    top_k: int = 8
    batch_tokens: int = 1024
    dtype: DType = "auto"
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    format: str | None = None
    text_column: str | None = None
    unit: Literal["line", "paragraph"] = "line"
    split: str | None = None
    config: str | None = None
    encoding: str = "utf-8"
    name: str | None = None
    attention: str | None = None
    forward: Forward = "exact"
    before_rope: bool = False
    target_column: str | None = None
    image_column: str | None = None
    audio_column: str | None = None
    generate: int | None = None
    allow_pickle: bool = False
    device: Device = "auto"
    device_map: DeviceMap | None = None
    n_jobs: int | None = None

    def __post_init__(self) -> None:
        from qkspace.normalise import Method
        from qkspace.project import METHODS, is_joint

        if self.normalise not in get_args(Method):
            raise QKSpaceError(
                f"Unknown normalisation {self.normalise!r}; choose one of {', '.join(get_args(Method))}."
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise QKSpaceError(
                    f"Unknown {name} {getattr(self, name)!r}; choose one of {', '.join(filter(None, choices))}."
                )
        for name in ("max_tokens", "max_length", "top_k", "batch_tokens", "generate", "n_jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise QKSpaceError(f"{name} must be at least 1; got {value}.")
        for method in self.methods:
            if method not in METHODS:
                raise QKSpaceError(f"Unknown projection {method!r}; choose among {', '.join(METHODS)}.")
        if not self.methods or not self.dims or not set(self.dims) <= {2, 3}:
            raise QKSpaceError(f"Give at least one method, and dims of 2, 3 or both; got {self.methods}, {self.dims}.")
        if any(map(is_joint, self.all_methods)) and self.normalise == "attentionviz":
            raise QKSpaceError(
                "AttentionViz has no space for all heads: a joint map cannot be normalised by 'attentionviz'. Leave out "
                f"either, or choose another normalisation: {', '.join(m for m in get_args(Method) if m != 'attentionviz')}."
            )

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The methods, each once, and then the joint forms that are asked for besides."""
        from qkspace.project import joint_method

        joint = [joint_method(m) for m in self.methods] if self.joint else []
        return tuple(dict.fromkeys([*self.methods, *joint]))

    @property
    def maps(self) -> list[tuple[str, int]]:
        """The maps of each head: (method, dims); normalised as AttentionViz does they have its own parameters too."""
        from qkspace.project import METHODS

        theirs = {m: f"attentionviz-{m}" if self.normalise == "attentionviz" else m for m in self.all_methods}
        names = [theirs[m] if theirs[m] in METHODS else m for m in theirs]
        return [(method, dims) for method in dict.fromkeys(names) for dims in dict.fromkeys(self.dims)]


def holds_the_same(root: Path, model: str, sources: list[str], parameters: Parameters) -> bool:
    """Tell whether an index of just this, or an unfinished build of it, is there; of standard input nobody can tell."""
    plan, manifest = root / store.WORK / "plan.json", root / store.MANIFEST
    if "-" in sources or not (plan.exists() or manifest.exists()):
        return False
    try:
        found = store.read_manifest(root)["made_from"] if manifest.exists() else store.read_json(plan)
        if manifest.exists() and store.verify(root):
            return False  # damaged: made anew
    except QKSpaceError:
        return False
    asked = request_of(model, sources, parameters)
    return not different(found, asked)


def request_of(model: str, sources: list[str], parameters: Parameters) -> dict[str, Any]:
    """Return everything that decides the content of an index, as JSON would give it back."""
    what = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(parameters).items()}
    for name in (*ELSEWHERE, "joint"):
        what.pop(name)
    what["methods"] = list(parameters.all_methods) if parameters.joint else what["methods"]
    files = {name: content_of(Path(name)) for name in sources}
    checkpoint = {"source": _place(model), "content": content_of(Path(model))}
    if parameters.adapter is not None:
        what["adapter"] = {"source": _place(parameters.adapter), "content": content_of(Path(parameters.adapter))}
    return {"model": checkpoint, "corpus": [{"source": _place(s), "content": c} for s, c in files.items()], **what}


def _place(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def content_of(path: Path) -> str | None:
    """Return a digest of a file's content, or of the files in a folder; None for what is neither.

    Of a file in a folder (a checkpoint may be huge) up to 1,024 evenly spaced blocks are read: enough to notice any
    training step.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for inner in sorted(p for p in path.rglob("*") if p.is_file()):
        size = inner.stat().st_size
        digest.update(f"{inner.relative_to(path)} {size}".encode())
        with inner.open("rb") as file:
            for start in range(0, size, max(4096, size // 1024)):
                file.seek(start)
                digest.update(file.read(4096))
    return digest.hexdigest()


def different(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return what differs in two requests; an index of before a parameter was made as its default has it."""
    defaults = {f.name: f.default for f in fields(Parameters)}
    return sorted(name for name in asked if not _same(found.get(name, defaults.get(name)), asked[name]))


def _same(found: Any, asked: Any) -> bool:
    """Compare two values of a request; what has a digest of its content is the same wherever it lies."""
    if isinstance(found, list) and isinstance(asked, list):
        return len(found) == len(asked) and all(map(_same, found, asked))
    if isinstance(found, dict) and isinstance(asked, dict) and asked.get("content") is not None:
        return bool(found.get("content") == asked["content"])
    return bool(found == asked)


def _shown(value: Any) -> str:
    """Write a value of a request as a user knows it, with the first digits of a digest."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict) and "source" in value:
        digest = value.get("content")
        return f"{value['source']}" + (f" with content {digest[:8]}" if digest else "")
    return repr(value)


def refuse_other(found: dict[str, Any], asked: dict[str, Any], root: Path) -> None:
    """Refuse to go on with, or to return, an index of something else."""
    names = different(found, asked)
    if names:
        changes = "; ".join(f"{name} was {_shown(found.get(name))}, now {_shown(asked[name])}" for name in names[:3])
        raise QKSpaceError(f"{root} is an index of something else ({changes}). Use --overwrite, or another --out.")

"""A checkpoint that learns: the model, a head for labels where there are any, and which parameters are trained.

In: a name or folder, a task, parts to freeze or layers to adapt. Out: `Learner`, and its logits for a batch. Knows no
optimizer and no disk but that of the checkpoint.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finetuning.examples import Batch
from qkspace import model as checkpoints
from qkspace.schema import QKSpaceError

if TYPE_CHECKING:
    import torch

Task = Literal["classify", "lm"]
QUERY_KEY = frozenset({"query", "key", "q_proj", "k_proj", "q_lin", "k_lin", "query_proj", "key_proj"})
RANK, ALPHA = 8, 16  # of adapters: small against any d_model, and a scale of 2 as is usual


@dataclass(frozen=True, slots=True)
class Learner:
    """A model with what is trained of it.

    `body` makes hidden states; `whole` is what a full checkpoint saves: the body, or the body with its head for the next
    token. `head` gives the logits of labels, `adapted` is the body with adapters; each is None where there is none.
    """

    tokenizer: Any
    body: Any
    whole: Any
    head: torch.nn.Linear | None
    adapted: Any | None
    identity: dict[str, Any]
    context: int | None

    @property
    def pad(self) -> int:
        """Return the id that fills up rows; what it is does not matter behind the mask, save to RoBERTa's positions."""
        return int(self.tokenizer.pad_token_id or 0)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained."""
        head = [] if self.head is None else list(self.head.parameters())
        return [p for p in self.whole.parameters() if p.requires_grad] + head


def load(name: str, task: Task, freeze: Sequence[str] = (), lora: Sequence[int] | None = None) -> Learner:
    """Load a checkpoint and settle what of it is trained; a head for labels comes later, with `with_head`.

    Raises:
        QKSpaceError: nothing to load, an encoder for the next token, a part or layer that is not there.
    """
    checkpoint = checkpoints.load(name, device="cpu", dtype="float32")
    identity, context = checkpoints.identity(checkpoint), checkpoints.context_length(checkpoint)
    whole: Any = checkpoint.model if task == "classify" else _with_language_head(name, checkpoint.model)
    body = whole if task == "classify" else whole.base_model
    _freeze(body, freeze)
    adapted = None
    if lora is not None:
        whole.requires_grad_(False)
        adapted = _adapt(body, lora)
    return Learner(checkpoint.tokenizer, body, whole, None, adapted, identity, context)


def with_head(learner: Learner, n_labels: int) -> Learner:
    """Add a linear head for labels, drawn from torch's seed as it stands."""
    import torch

    head = torch.nn.Linear(learner.body.config.get_text_config().hidden_size, n_labels)
    torch.nn.init.normal_(head.weight, std=0.02)
    torch.nn.init.zeros_(head.bias)
    return Learner(
        learner.tokenizer, learner.body, learner.whole, head, learner.adapted, learner.identity, learner.context
    )


def predict(learner: Learner, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (case, class) and the true class (case): a case is an example, or a token that has a next one."""
    if learner.head is None:
        logits = learner.whole(input_ids=batch.ids, attention_mask=batch.mask).logits[:, :-1]
        known = batch.mask[:, 1:].bool()
        return logits[known], batch.ids[:, 1:][known]
    hidden = learner.body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    weight = batch.mask[..., None].to(hidden.dtype)
    return learner.head((hidden * weight).sum(1) / weight.sum(1)), batch.labels


def _with_language_head(name: str, body: Any) -> Any:
    """Load the same checkpoint with its head for the next token."""
    import torch
    from transformers import AutoModelForCausalLM

    if not _is_causal(body):
        raise QKSpaceError(
            f"--model {name}: a {type(body).__name__} sees the tokens that come, so that there is no next one to learn; "
            "--task lm is for decoders. Use --task classify."
        )
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        body.config.name_or_path, dtype=torch.float32, output_loading_info=True
    )
    whole, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise QKSpaceError(
            f"--model {name}: has no trained head for the next token ({missing[0]} is missing). Use --task classify, or a "
            "checkpoint that was saved with its head."
        )
    return whole


def _is_causal(body: Any) -> bool:
    """Tell whether what comes later leaves what came before alone."""
    import torch

    first, other = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4]])
    with torch.no_grad():
        state, changed = (body(input_ids=ids).last_hidden_state[0, :2] for ids in (first, other))
    return torch.allclose(state, changed, atol=1e-5)


def _freeze(body: Any, parts: Sequence[str]) -> None:
    """Keep the parameters whose dotted name holds a part; `embeddings` are also those of a model that calls them other."""
    tokens = {id(parameter) for parameter in body.get_input_embeddings().parameters()}
    for part in parts:
        named = [p for name, p in body.named_parameters() if f".{part}." in f".{name}."]
        named += [p for p in body.parameters() if part == "embeddings" and id(p) in tokens]
        if not named:
            known = sorted({name.rpartition(".")[0] for name, _ in body.named_parameters()})
            raise QKSpaceError(
                f"--freeze {part}: no part of this model is called that. Parts are {', '.join(known[:8])} ..."
            )
        for parameter in named:
            parameter.requires_grad_(False)


def _adapt(body: Any, layers: Sequence[int]) -> Any:
    """Put adapters on the query and key projections of some layers, in place."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise QKSpaceError("--lora needs the package peft: pip install 'qkspace[adapters]'.") from error
    found = query_key_modules(body)
    if not found:
        raise QKSpaceError(
            f"--lora: a {type(body).__name__} has no query and key projections of their own (one matrix makes both and the "
            "value). Leave --lora out, and train all of it."
        )
    if unknown := sorted(set(layers) - set(found)):
        raise QKSpaceError(f"--lora {unknown[0]}: no such layer; layers are {min(found)} to {max(found)}.")
    targets = [name for layer in sorted(set(layers)) for name in found[layer]]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what peft calls in transformers
        return get_peft_model(body, config)


def query_key_modules(body: Any) -> dict[int, list[str]]:
    """Return the names of the query and key projections of each layer."""
    found: dict[int, list[str]] = {}
    for name, _ in body.named_modules():
        number = re.search(r"\.(\d+)\.", name)
        if number and name.rpartition(".")[2] in QUERY_KEY:
            found.setdefault(int(number[1]), []).append(name)
    return found

"""Generation: let a model go on with the texts of a corpus, so that what it wrote is captured as any text is.

In: a checkpoint with a head that predicts tokens, and prompts. Out: what it wrote, as token ids and as text; and the reader
of decoders, where prompt and continuation are one sequence. Knows no attention.

A decoder's queries and keys depend on earlier tokens alone: what one forward pass over prompt and continuation captures is
what the model computed while it wrote them. The model writes greedily, so that a build can be repeated. What is written is
kept in the work folder a batch at a time: a build that was killed goes on from there.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkspace import prediction
from qkspace.align import words_of
from qkspace.capture import forward
from qkspace.feed import Feed, TextFeed, Tokens
from qkspace.memory import Room, run_halving
from qkspace.model import quiet
from qkspace.pairs import BATCH, Piece, continued, pieces_of, windows_of, with_columns, without_clashes
from qkspace.parts import is_pair
from qkspace.reading import max_length, pad_id, text_sequences
from qkspace.schema import BoolArray, IntArray, QKSpaceError, TextSequence
from qkspace.store import read_arrays, write_arrays
from qkspace.tokenise import TokeniseCounts, TokenisedChunk, batches, check_options, chunk_of, special_ids
from qkspace.weights import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qkspace.console import Console
    from qkspace.model import Checkpoint
    from qkspace.plan import Parameters

OWN_COLUMNS = ("origin", "n_prompt")  # which metadata may not be called
ORIGINS = ("prompt", "continuation")
CONTEXT = 8  # tokens of a prompt that are decoded with what follows, so that spaces come out right
SAME = 1e-3  # of the largest component of a state: what differs by less is the same


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote after one prompt: its text, and its tokens with the characters of that text.

    Of an encoder-decoder the tokens begin with the one that the decoder starts with. The token that ends a text is not
    among them: nothing is read after it.
    """

    text: str
    piece: Piece


class Writer:
    """The model of a checkpoint with its head, which goes on with prompts; it is loaded when first needed."""

    def __init__(self, checkpoint: Checkpoint, parameters: Parameters, console: Console, folder: Path) -> None:
        """folder: where the corpus is read into; what is written is kept beside it."""
        if parameters.generate is None:
            raise QKSpaceError("--generate says how many tokens the model writes; it was not given.")
        self.checkpoint, self.parameters, self.console = checkpoint, parameters, console
        self.limit: int = parameters.generate
        self.folder = folder.parent / "written"
        self.writes_target = is_pair(checkpoint.model)

    def write(self, number: int, prompts: Sequence[IntArray]) -> list[Written]:
        """Go on with prompts, each the ids of its tokens; number: of the batch, which was perhaps written before."""
        tokenizer = self.checkpoint.tokenizer
        ids = self._kept(number, prompts)
        special = special_ids(tokenizer)
        written = []
        for prompt, own in zip(prompts, ids, strict=True):
            before = prompt[:0] if self.writes_target else prompt[-CONTEXT:]
            text, start, end = characters_of(tokenizer, before, own)
            is_special = np.isin(own, special)
            is_special[: int(self.writes_target)] = True
            written.append(Written(text, Piece(own, is_special, start, end)))
        return written

    def _kept(self, number: int, prompts: Sequence[IntArray]) -> list[IntArray]:
        """Return the ids that are written after prompts, from the work folder where they are there."""
        path = self.folder / f"{number:06d}.npz"
        key = self._key(prompts)
        if path.exists():
            try:
                found = read_arrays(path)
                if str(found["key"]) == key:
                    return np.split(found["ids"], np.cumsum(found["lengths"])[:-1]) if len(found["lengths"]) else []
            except (QKSpaceError, KeyError):  # damaged: written anew
                pass
        written = self._write(prompts)
        self.folder.mkdir(exist_ok=True)
        flat = np.concatenate([np.zeros(0, dtype=np.int32), *written])
        lengths = np.array([len(ids) for ids in written], dtype=np.int64)
        write_arrays(path, {"key": np.asarray(key), "ids": flat.astype(np.int32), "lengths": lengths})
        return written

    def _key(self, prompts: Sequence[IntArray]) -> str:
        """Return a digest of all that decides what is written."""
        p = self.parameters
        digest = hashlib.sha256(f"{self._weights} {self.limit} {p.batch_tokens} {p.dtype}".encode())
        for prompt in prompts:
            digest.update(f"{len(prompt)} ".encode() + prompt.astype("<i4").tobytes())
        return digest.hexdigest()

    @cached_property
    def _weights(self) -> str:
        from qkspace.model import identity

        return str(identity(self.checkpoint)["weights_digest"])

    def _write(self, prompts: Sequence[IntArray]) -> list[IntArray]:
        """Let the model write, prompts of like length together."""
        if not prompts:
            return []
        if not self.writes_target:
            refuse_two_way(self.checkpoint.model, int(prompts[0][0]))
        lengths = np.array([len(prompt) for prompt in prompts]) + self.limit
        order = np.argsort(-lengths, kind="stable")
        found: dict[int, IntArray] = {}
        room = Room()
        start = 0
        while start < len(order):
            size = max(1, self.parameters.batch_tokens // int(lengths[order[start]]))
            chosen = order[start : start + size]

            def run(some: IntArray) -> list[IntArray]:
                return self._write_batch([prompts[i] for i in some])

            parts = run_halving(chosen, run, self.console.say, lengths=lengths, room=room)
            found.update(zip(chosen.tolist(), (ids for part in parts for ids in part), strict=True))
            start += size
        return [found[i] for i in range(len(prompts))]

    def _write_batch(self, prompts: list[IntArray]) -> list[IntArray]:
        """Let the model write after some prompts at once: padded on the left for a decoder, on the right for an encoder."""
        import torch

        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), pad_id(self.checkpoint), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            place = slice(0, len(prompt)) if self.writes_target else slice(longest - len(prompt), longest)
            ids[i, place], mask[i, place] = prompt, 1
        device = input_device(self.checkpoint.model)
        self.model.generation_config = self.settings  # given to `generate`, what is None there is taken from here
        with torch.inference_mode(), quiet():
            out = self.model.generate(  # type: ignore[operator]
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
            )
        new = out.cpu().numpy().astype(np.int32)[:, 0 if self.writes_target else longest :]
        return [self._until_end(row) for row in new]

    def _until_end(self, ids: IntArray) -> IntArray:
        """Return what stands before the token that ends a text; the decoder of a pair may begin with the same one."""
        first = int(self.writes_target)
        is_end = np.isin(ids[first:], self.ends)
        return ids[: first + int(is_end.argmax())] if is_end.any() else ids

    @cached_property
    def ends(self) -> list[int]:
        """The tokens that end a text: those of the model's configuration, or the tokenizer's; never a piece of text."""
        tokenizer = self.checkpoint.tokenizer
        named: Any = self.model.generation_config.eos_token_id
        named = tokenizer.eos_token_id if named is None else named
        ends = [] if named is None else [int(token) for token in np.ravel(named)]
        of_text = [
            token for token in ends if token not in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        ]
        if of_text:
            shown = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(of_text)))
            self.console.say(
                f"The model's configuration ends texts at {shown}, which is text to its tokenizer: it goes on there."
            )
        return [token for token in ends if token not in of_text]

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model with its head; all but the head are the weights of the checkpoint."""
        p = self.parameters
        options = {"revision": p.revision, "trust_remote_code": p.trust_remote_code, "allow_pickle": p.allow_pickle}
        return with_head(self.checkpoint, **options)

    @cached_property
    def settings(self) -> Any:
        """How the model writes: as its generation_config.json says, but greedily and up to our number of tokens."""
        settings = copy.deepcopy(self.model.generation_config)
        greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        of_sampling = dict.fromkeys(("temperature", "top_p", "top_k", "max_length", "min_length"))
        settings.update(**greedy, **of_sampling, max_new_tokens=self.limit, return_dict_in_generate=False)
        settings.update(eos_token_id=self.ends or None, pad_token_id=pad_id(self.checkpoint))
        return settings


def with_head(checkpoint: Checkpoint, **options: Any) -> PreTrainedModel:  # of prediction.with_head
    """Return the model of a checkpoint with the head that predicts tokens, sharing the weights that are loaded.

    Raises:
        QKSpaceError: the checkpoint has no such head.
    """
    try:
        return prediction.with_head(checkpoint, **options)
    except QKSpaceError as error:
        raise QKSpaceError(
            f"--generate: {checkpoint.name} holds no head that predicts tokens: {error}. Give a checkpoint that was saved with "
            "one (…ForCausalLM, …ForConditionalGeneration)."
        ) from error


def refuse_two_way(model: PreTrainedModel, token_id: int) -> None:
    """Raise where tokens see later ones, as in BERT: what one pass captures is not what was there while it wrote.

    token_id: any token of the vocabulary.
    """
    import torch

    other = token_id - 1 if token_id else 1
    ids = torch.tensor([[token_id, token_id, token_id], [token_id, token_id, other]], device=input_device(model))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    state = getattr(forward(model, batch), "last_hidden_state", None)
    if state is None:
        return
    early = state[:, :2].float()
    if not bool(((early[0] - early[1]).abs() <= SAME * early.abs().max()).all()):
        raise QKSpaceError(
            f"--generate: in {type(model).__name__} a token sees those after it, so it cannot go on with a text token by "
            "token. Leave it out, or give a decoder."
        )


def characters_of(tokenizer: Any, before: IntArray, ids: IntArray) -> tuple[str, IntArray, IntArray]:
    """Return the text of tokens that follow others, and the start and end of each in it.

    A character that takes several tokens (bytes of UTF-8) belongs to each of them. Special tokens are no text.
    """

    def text_of(n: int) -> str:
        shown: str = tokenizer.decode(
            [*before.tolist(), *ids[:n].tolist()], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return shown

    steps = [text_of(n) for n in range(len(ids) + 1)]
    whole = steps[-1]
    reach = np.array([_common(step, whole) for step in steps], dtype=np.int32)  # characters that stand for good
    reach = np.maximum.accumulate(reach)
    base = int(reach[0])
    end = reach[1:].copy()
    for i in range(len(ids) - 2, -1, -1):
        if end[i] == reach[i]:
            end[i] = end[i + 1]
    return whole[base:], (reach[:-1] - base).astype(np.int32), (end - base).astype(np.int32)


def _common(first: str, second: str) -> int:
    """Return how many characters two texts begin with in common."""
    n = min(len(first), len(second))
    return next((i for i in range(n) if first[i] != second[i]), n)


# ---------------------------------------------------------------------------------------------- the reader


class GenerationReader:
    """Texts that a decoder goes on with; a text and what follows it are one sequence."""

    modality = "text"

    def __init__(
        self, checkpoint: Checkpoint, part: str, sources: tuple[str, ...], parameters: Parameters, console: Console
    ) -> None:
        """Take what was asked for."""
        self.checkpoint, self.part, self.sources = checkpoint, part, sources
        self.parameters, self.console = parameters, console
        self.n_written = 0

    @property
    def max_length(self) -> int:
        """Tokens of a sequence, prompt and continuation."""
        return max_length(self.checkpoint, self.parameters)

    def facts(self) -> dict[str, Any]:
        """Return the longest sequence allowed, and how many tokens were written at most."""
        return {"max_length": self.max_length, "generate": self.parameters.generate, "n_written": self.n_written}

    def feed(self, folder: Path, tokens: Tokens) -> Feed:
        """Feed token ids."""
        return TextFeed(tokens, pad_id(self.checkpoint))

    def finish(self, folder: Path, root: Path, is_stored: BoolArray) -> dict[str, Any]:
        """Say that the texts were gone on with."""
        return {"generation": {"max_new_tokens": self.parameters.generate, "how": "greedy"}}

    def chunks(self, folder: Path, counts: TokeniseCounts) -> Iterator[TokenisedChunk]:
        """Tokenise the corpus, and let the model go on with each text; a long one is cut to leave room."""
        writer = Writer(self.checkpoint, self.parameters, self.console, folder)
        room = self.max_length - writer.limit
        if room < 1:
            raise QKSpaceError(
                f"--generate {writer.limit} leaves no room for a text: a sequence has at most {self.max_length} tokens. "
                "Generate less, or set a larger --max-length where the model takes it."
            )
        check_options(self.checkpoint.tokenizer, room, "cut", BATCH)
        first = 0
        word_columns: set[str] = set()
        texts = text_sequences(self.sources, self.parameters, self.console)
        for number, batch in enumerate(batches(texts, BATCH)):
            found = self._prompts(batch, room, counts)
            if not found:
                continue
            word_columns.update(*(text.word_metadata for text, _ in found))
            written = writer.write(number, [piece.ids for _, piece in found])
            yield self._chunk(found, written, first, word_columns, counts)
            first += len(found)

    def _prompts(
        self, batch: list[TextSequence], room: int, counts: TokeniseCounts
    ) -> list[tuple[TextSequence, Piece]]:
        """Return texts with content and their tokens, each as far as there is room for it."""
        tokenizer = self.checkpoint.tokenizer
        texts = [without_clashes(text, OWN_COLUMNS, counts.renamed) for text in batch]
        pieces, n_lost = pieces_of(texts, tokenizer, room)
        kept = [i for i, piece in enumerate(pieces) if piece.has_content]
        counts.n_sequences += len(texts)
        counts.n_empty += len(texts) - len(kept)
        counts.n_cut += int((n_lost[kept] > 0).sum())
        counts.n_tokens_dropped += int(n_lost[kept].sum())
        prompts = []
        for i in kept:
            piece = pieces[i]
            if piece.is_special[-1] and int(piece.ids[-1]) == tokenizer.eos_token_id:
                piece = piece.taken(slice(0, len(piece) - 1))  # after the token that ends a text nothing follows
            text = texts[i] if not n_lost[i] else cut(texts[i], int(piece.end.max()))
            prompts.append((text, piece))
        return prompts

    def _chunk(
        self,
        prompts: list[tuple[TextSequence, Piece]],
        written: list[Written],
        first: int,
        word_columns: set[str],
        counts: TokeniseCounts,
    ) -> TokenisedChunk:
        """Return the tables of some texts with their continuations, which are numbered from `first`."""
        import pyarrow as pa

        texts, pieces = [], []
        for (text, prompt), own in zip(prompts, written, strict=True):
            texts.append(continued(text, TextSequence(own.text)))
            pieces.append(Piece.joined([prompt, own.piece.moved(len(text.text))]))
        n_prompt = np.array([len(prompt) for _, prompt in prompts], dtype=np.int32)
        windows = windows_of(pieces)
        counts.n_tokens += len(windows.ids)
        self.n_written += len(windows.ids) - int(n_prompt.sum())
        is_own = np.concatenate([np.arange(len(p)) >= n for p, n in zip(pieces, n_prompt, strict=True)])
        origin = pa.DictionaryArray.from_arrays(is_own.astype(np.int8), pa.array(ORIGINS))
        tokenizer = self.checkpoint.tokenizer
        chunk = chunk_of(texts, words_of(texts), windows, first, tokenizer, word_columns, counts.renamed)
        return with_columns(chunk, {"origin": origin}, {"n_prompt": pa.array(n_prompt)})


def cut(text: TextSequence, end: int) -> TextSequence:
    """Return the first characters of a text, with the words that begin there."""
    if text.word_spans is None:
        return replace(text, text=text.text[:end])
    spans = tuple((start, min(stop, end)) for start, stop in text.word_spans if start < end)
    metadata = {name: values[: len(spans)] for name, values in text.word_metadata.items()}
    return replace(text, text=text.text[:end], word_spans=spans, word_metadata=metadata)

"""Pretrained models of transformers as base models: Qwen-VL, SmolVLM2, PaliGemma, Gemma3, InternVL, text models.

Placeholders follow the finished prompt as token ids, and a hook puts the learned queries where their embeddings would
be: the vocabulary is never resized, positions and masks are the model's own, and only `text_logits` computes logits.
"""

import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from packaging.version import Version
from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import Backbone, BackboneOut, Inputs, LoraSpec, Train, pretrained
from lattok.backbones.fewer import launch_less
from lattok.backbones.lora import AdapterGroup, Passing, add_adapters, bases_rounded, merge_adapters, round_adapters
from lattok.backbones.pretrained import Family
from lattok.nn.blocks import onto, same_precision
from lattok.utils import checks

MAX_TEXT_TOKENS = 256  # tokens of a text that is predicted
IMAGE_COUNTS = "image_counts"  # of `prepare`: fewest and most image tokens of a sample
MOST_LAYOUTS = 4096  # samples of different lengths whose positions are kept
ANGLES = "Qwen3VLVisionModel"  # an image tower that is told the positions of patches, by transformers' newer versions


class HFBackbone(Backbone):
    """A vision-language or text model of transformers >= 5.4. A text model is given no images.

    `model` is the whole model, of which only the part below its head is run; `revision` is its commit on the Hub, or
    the fingerprint of a local folder. Everything is frozen until `adapt`. LoRA draws from torch's global generator.
    """

    predicts_text = True

    def __init__(self, model: Any, processor: Any, family: Family, name: str = "", revision: str | None = None):
        super().__init__()
        self.model, self.processor, self.family = model.requires_grad_(False), processor, family
        self.name, self.revision = name, revision
        self.reads_images = family.image is not None
        text = model.config.get_text_config()
        self.hidden_size, self.num_layers = int(text.hidden_size), int(text.num_hidden_layers)
        self.embedding_rms = _embedding_rms(model.get_input_embeddings())
        self.train_mode: str | None = None  # what `adapt` was told
        self._adapters: list[AdapterGroup] = []
        self._trained: list[str] = []
        self._checkpointing = False
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._accepted = set(inspect.signature(model.model.forward).parameters) - {"labels"}
        self._image_sizes = launch_less(model)
        self._layouts, self._places = Passing(), Passing()  # positions of tokens and patches that were found before
        self.eval()

    @classmethod
    def load(cls, name: str, revision: str | None = None, *, dtype: str = "float32") -> "HFBackbone":
        """Open a folder or a Hub id (from the cache without network) with weights in "float32" or "bfloat16".

        `revision` of a folder must be its fingerprint, as `HFBackbone.revision` gave it.
        """
        model, processor, family, found = pretrained.load(name, revision, dtype)
        return cls(model, processor, family, name, found)

    def prepare(self, images: Tensor, texts: Sequence[str]) -> dict[str, Any]:
        """Turn images uint8 [B, V, h, w, 3] and B prompts into inputs, padded on the left, on the images' device.

        Prompts go into the model's chat template where it has one, after the images in the order of the cameras.
        """
        self._check(images, texts)
        prompts = [self._prompt(text, images.shape[1]) for text in texts]
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        bos = self._tokenizer.bos_token
        if bos and prompts[0].startswith(bos):  # by the template
            options["add_special_tokens"] = False
        if self.reads_images:
            # transformers 5.4 takes SmolVLM2's images through numpy
            shown = images.cpu() if self.family.name == "smolvlm" else images
            pictures = [list(sample) for sample in rearrange(shown, "b v h w c -> b v c h w")]
            options |= {"images": pictures, "input_data_format": "channels_first"}
            options |= self.family.image_options(self.processor)
        batch = self.processor(text=prompts, **options)
        if (positions := self._positions(batch)) is not None:
            batch["position_ids"] = positions
        inputs: dict[str, Any] = {key: onto(batch[key], images.device) for key in batch if key in self._accepted}
        if self.reads_images:  # counted before it lies on a GPU
            counts = (batch["input_ids"] == self.model.config.image_token_id).sum(1)
            inputs[IMAGE_COUNTS] = (int(counts.min()), int(counts.max()))
            inputs |= self._places_of_patches(batch, images.device)
        return inputs

    def forward(self, inputs: Inputs, queries: Tensor, layers: Sequence[int]) -> BackboneOut:
        """Return hidden states of `layers`, with `queries` [B, T, D] appended that change nothing before them."""
        wanted = sorted(set(layers))
        if not wanted or wanted[0] < 0 or wanted[-1] > self.num_layers:
            checks.fail("layers", f"hidden states from 0 to {self.num_layers}", list(layers))
        counts, tensors = inputs.get(IMAGE_COUNTS), {key: value for key, value in inputs.items() if key != IMAGE_COUNTS}
        inputs = self._with_placeholders(tensors, queries.shape[1])
        alike = self._image_sizes.known.during(counts is not None)  # as `prepare` gives them
        with self._as_embeddings(queries), self._own_precision(), alike:
            asked = {"output_hidden_states": wanted if _selects_states() else True}
            hidden = self.model.model(**inputs, **asked, use_cache=False).hidden_states
        ids, valid = inputs["input_ids"], inputs["attention_mask"].bool()
        image = None if not self.reads_images else ids == self.model.config.image_token_id
        placed = slice(ids.shape[1] - queries.shape[1], ids.shape[1])
        return BackboneOut({layer: hidden[layer] for layer in wanted}, placed, valid, image, counts)

    def text_logits(self, states: Tensor) -> Tensor:
        """Return logits [..., vocabulary] of states [..., D] of the last layer, capped as Gemma 2 has learned them."""
        head = self.model.get_output_embeddings()
        logits = head(states.to(head.weight.dtype))
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts, `MAX_TEXT_TOKENS` of each at most; "" has none."""
        return [self._tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TEXT_TOKENS] for text in texts]

    def text_errors(self, inputs: Inputs, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return -log p(w_{i+1} | w_{<=i}, prompt) of B rows of tokens, their end too [B, T], and a mask.

        The tokens follow the prompts in place of queries; of a row without any nothing counts.
        """
        end = self._tokenizer.eos_token_id
        longest = 1 + max(1, *map(len, rows))
        ids = torch.tensor([[*row, *[end] * (longest - len(row))] for row in rows], device=self.model.device)
        lengths = torch.tensor([len(row) + 1 if row else 0 for row in rows], device=ids.device)
        valid = torch.arange(longest, device=ids.device) < lengths[:, None]
        words = self.model.get_input_embeddings()(ids[:, :-1])
        states = self(inputs, words, [self.num_layers]).hidden[self.num_layers][:, -longest:]
        found = F.cross_entropy(self.text_logits(states[valid]).float(), ids[valid], reduction="none")
        return torch.zeros(valid.shape, device=ids.device).masked_scatter(valid, found), valid

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Keep float32 buffers at a change of precision: rounded, frequencies of positions are others."""
        exact, keep = [buffer for buffer in self.model.buffers() if buffer.dtype == torch.float32], same_precision(fn)
        ids = set(map(id, exact))
        return super()._apply(lambda tensor: keep(tensor) if id(tensor) in ids else fn(tensor), recurse)

    def adapt(self, train: str, lora: LoraSpec, gradient_checkpointing: bool = False) -> None:
        """Choose in place what is trained; called once. Checkpointing is non-reentrant.

        "lora": adapters in float32, A normal with deviation 1 / rank and B zero, on all linear layers but the LM head;
        "full": every weight but those behind the last hidden state; "all_but_vision": those outside the image tower,
        where the projector is not; both have all weights in float32. "frozen": nothing.
        """
        checks.one_of("train", train, get_args(Train))
        if self.train_mode is not None:
            raise RuntimeError("adapt() was called before; load the backbone again for another choice")
        if train == "lora":
            self._add_lora(lora)
        elif train != "frozen":
            self.model.float().model.requires_grad_(True)
        if train == "all_but_vision":  # the image tower is what is neither the text model's nor the projector's
            others = {id(x) for part in (self.model.get_decoder(), *self._projector()) for x in part.parameters()}
            for weight in self.model.model.parameters():
                weight.requires_grad_(id(weight) in others)
        self.train_mode, self._checkpointing = train, gradient_checkpointing
        self._trained = [name for name, value in self.model.named_parameters() if value.requires_grad]
        if gradient_checkpointing:
            newer = getattr(self.model, "activation_checkpointing_enable", None)  # the other ends with transformers 6
            (newer or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
            # only the reentrant kind needs these, by which a frozen tower would be differentiated
            self.model.disable_input_require_grads()
        self.train(self.training)

    def train(self, mode: bool = True) -> "HFBackbone":
        """Keep parts whose weights are all frozen in evaluation mode."""
        super().train(False)
        self.training = mode
        if mode:
            self._train_parts(self.model, False)
        return self

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return adapters by the name of their layer, or all trained weights; they share memory with the model."""
        return {_stable(name): self.model.get_parameter(name) for name in self._trained}

    def merge(self) -> None:
        """Add the adapters to the weights that they adapt, in place. The base model is then to be saved, not they."""
        merge_adapters(self.model)
        self._adapters, self._trained = [], []

    def save_base(self, folder: str | Path) -> Path:
        """Write the model and its processor, so that `load(folder)` opens them. Adapters must be merged before."""
        if self._adapters:
            checks.fail("backbone", "a model with its adapters merged", "adapters that are not", "Call merge() first.")
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return folder

    def linear_layers(self, vision: bool) -> list[str]:
        """Return names of the linear layers below the LM head; without `vision` those of the text model only."""
        part = self.model.model if vision else self.model.get_decoder()
        inside = {id(module) for module in part.modules() if isinstance(module, nn.Linear)}
        return [name for name, module in self.model.named_modules() if id(module) in inside]

    def _projector(self) -> list[nn.Module]:
        """Return the modules between the image tower and the words, each of which is called."""
        found = [self.model.model.get_submodule(name) for name in self.family.projector]
        return [part for each in found for part in (each if isinstance(each, nn.ModuleList) else [each])]

    def _add_lora(self, lora: LoraSpec) -> None:
        whole = self._projector() if lora.projector else []
        inside = {id(module) for part in whole for module in part.modules()}
        linear = [name for name in self.linear_layers(lora.vision) if id(self.model.get_submodule(name)) not in inside]
        self._adapters = add_adapters(self.model, linear, lora)
        for part in whole:
            part.requires_grad_(True).register_forward_pre_hook(_in_own_precision)
            part.register_forward_hook(partial(_in_precision, self.model.dtype))
            for value in part.parameters():
                value.data = value.data.float()

    @contextmanager
    def _own_precision(self) -> Iterator[None]:
        """Compute a model of a lower precision in that one, for which autocast would cast nearly everything twice.

        What learns beside adapters is float32, which autocast rounds.
        """
        device, dtype = self.model.device.type, self.model.dtype
        alone = dtype != torch.float32 and not any(".lora_" not in name for name in self._trained)
        with torch.autocast(device, enabled=False) if alone else nullcontext():
            autocast = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if autocast else dtype
            round_adapters(self._adapters, dtype)
            # checkpoints give up what they round
            with nullcontext() if self._checkpointing else bases_rounded(self._adapters, dtype):
                yield

    def _train_parts(self, module: nn.Module, inherited: bool) -> None:
        """Set training mode where a weight is trained, and for layers that are checkpointed, which asks for it."""
        weights = list(module.parameters())
        trained = any(weight.requires_grad for weight in weights) if weights else inherited
        module.training = trained or (self._checkpointing and hasattr(module, "gradient_checkpointing"))
        for child in module.children():
            self._train_parts(child, trained)

    def _check(self, images: Tensor, texts: Sequence[str]) -> None:
        """Check what depends on the model; everything else about a batch was checked where it came in."""
        if not self.reads_images:
            return
        if not images.shape[1]:
            checks.fail("images", f"at least one camera for {self.family.name}", "none")
        for name in ("image_token", "video_token"):
            token = getattr(self.processor, name, None)
            if marked := [text for text in texts if isinstance(token, str) and token in text]:
                checks.fail("texts", f"text without {token!r}, which stands for an image", repr(marked[0]))

    def _prompt(self, text: str, cameras: int) -> str:
        image, template = self.family.image, getattr(self.processor, "chat_template", None)
        if not template:
            if self.family.chat:
                expected = f"a chat template, which {self.family.name} has"
                checks.fail("backbone", expected, "none", "Take its processor whole.")
            return (image or "") * cameras + text
        parts = [*({"type": "image"} for _ in range(cameras)), {"type": "text", "text": text}]
        turn = {"role": "user", "content": text if image is None else parts}
        template = template["default"] if isinstance(template, dict) else template
        options = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
        return self._tokenizer.apply_chat_template([turn], **options)

    def _positions(self, batch: Any) -> Tensor | None:
        """Return the positions [3, B, L] of tokens that stand in rows and columns of images, where a model has such.

        On a GPU the model would wait for every size of every image that it reads.
        """
        find = getattr(self.model.model, "get_rope_index", None)
        if find is None or "image_grid_thw" not in batch:
            return None
        given = {key: batch[key] for key in inspect.signature(find).parameters if key in batch}
        rows = {key: x.unflatten(0, (len(batch["input_ids"]), -1)) for key, x in given.items()}
        samples = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        found = [self._positions_of_sample(find, sample) for sample in samples]
        return torch.cat(found, 1)

    def _positions_of_sample(self, find: Any, given: Inputs) -> Tensor:
        """Return what `find` says of a sample; the same of all whose texts and images are as long."""
        same = {"input_ids"} if "mm_token_type_ids" in given else set[str]()  # newer versions do not read the words
        key = tuple((name, *x.flatten().tolist()) for name, x in given.items() if name not in same)
        known: dict[Any, Tensor] = self._layouts.value or {}
        if key not in known:
            known = {**(known if len(known) < MOST_LAYOUTS else {}), key: find(**given)[0]}
            self._layouts.value = known
        return known[key]

    def _places_of_patches(self, batch: Any, device: torch.device) -> dict[str, Tensor]:
        """Return what the image tower makes of the sizes of images, which it would read from a GPU one by one."""
        tower: Any = getattr(self.model.model, "visual", None)
        if type(tower).__name__ != ANGLES or not _takes_places():
            return {}
        vision, grid = importlib.import_module("transformers.vision_utils"), batch["image_grid_thw"]
        key = device, grid.tolist()
        if self._places.value is not None and self._places.value[0] == key:  # most batches are alike
            return self._places.value[1]
        side, merge = tower.num_grid_per_side, tower.spatial_merge_size
        how = {"mode": tower.interpolation_mode, "align_corners": tower.interpolation_align_corners}
        taps, shares = vision.get_vision_interpolation_indices_and_weights(grid, side, spatial_merge_size=merge, **how)
        found = {"interp_indices": taps, "interp_weights": shares}
        found |= {"position_ids": vision.get_vision_position_ids(grid, merge)}
        found |= {"cu_seqlens": vision.get_vision_cu_seqlens(grid)}
        self._places.value = key, {f"image_{name}": onto(value, device) for name, value in found.items()}
        return self._places.value[1]

    def _with_placeholders(self, inputs: Inputs, count: int) -> dict[str, Tensor]:
        """Append `count` tokens to everything that is counted by tokens; all on the model's device and in its type."""
        device, dtype = self.model.device, self.model.dtype
        kept = {"image_interp_weights"}  # in float32, as where the model finds them
        kinds = {key: dtype if x.is_floating_point() and key not in kept else None for key, x in inputs.items()}
        moved = {key: value.to(device, kinds[key]) for key, value in inputs.items()}
        # any token of text does, and the last one of a prompt is such; its embedding is replaced
        values = {"input_ids": moved["input_ids"][:, -1:], "attention_mask": 1, **self.family.placeholder_types}
        for key, value in values.items():
            rows = len(moved[key])
            tail = moved[key].new_full((rows, count), value) if isinstance(value, int) else value.expand(rows, count)
            moved[key] = torch.cat([moved[key], tail], 1)
        if (positions := moved.get("position_ids")) is not None:  # a prompt ends in text, whose positions count on
            more = positions[..., -1:] + torch.arange(1, count + 1, device=device)
            moved["position_ids"] = torch.cat([positions, more], -1)
        return moved

    @contextmanager
    def _as_embeddings(self, queries: Tensor) -> Iterator[None]:
        """Replace the last T embedded tokens by the queries [B, T, D] while this lasts."""
        count, calls = queries.shape[1], []

        def replace(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
            calls.append(embedded.shape)
            return torch.cat([embedded[:, : embedded.shape[1] - count], queries.to(embedded)], 1)

        with self.model.get_input_embeddings().register_forward_hook(replace):
            yield
        if len(calls) != 1:
            raise RuntimeError(f"{type(self.model).__name__} embedded its tokens {len(calls)} times, expected once")


@cache
def _selects_states() -> bool:
    """Return whether transformers gives the hidden states of a list alone; from 5.17 to 5.22 it gives other layers'."""
    return Version(pretrained.require("transformers").__version__) >= Version("5.23")


@cache
def _takes_places() -> bool:
    """Return whether transformers lets an image tower be told the positions of patches."""
    return hasattr(importlib.import_module("transformers.utils.generic"), "accepts_precomputed_kwargs")


def _in_own_precision(part: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Let a part that is trained in float32 read what others of a lower precision say."""
    return tuple(value.to(next(part.parameters()).dtype) for value in args)


def _in_precision(dtype: torch.dtype, part: nn.Module, args: Any, out: Any) -> Any:
    """Say it in the precision of the others; transformers 5.17 leaves SmolVLM2's projector in its own."""
    return out.to(dtype) if isinstance(out, Tensor) else out


def _stable(name: str) -> str:
    """Drop the name of the adapter, and name a parameter as every transformers from 5.4 on does."""
    return name.replace(".default.", ".").replace(".vision_tower.vision_model.", ".vision_tower.")


@torch.no_grad()
def _embedding_rms(embedding: Any) -> float:
    """Return the root mean square of about a thousand embedded tokens, as the module gives them (Gemma scales)."""
    rows, device = embedding.weight.shape[0], embedding.weight.device
    return float(embedding(torch.arange(0, rows, max(1, rows // 1024), device=device)).float().square().mean().sqrt())

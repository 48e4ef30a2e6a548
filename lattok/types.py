"""Values that cross package borders. Letters: B batch, H steps of an action chunk, m action dimensions,
P codes per sample, d latent width, T frames of a video, V cameras."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import get_protocol_members

from lattok.latent_actions import LatentActions as LatentActions
from lattok.latent_actions import join as join

Gap = int | str | None  # frames, or seconds such as "0.2s"; None is the model's own
LossTerms = dict[str, Tensor]  # named 0-d tensors; the training loop weights and sums them


class Episode(NamedTuple):
    """A recorded episode, by which everything in a dataset is addressed."""

    index: int  # episode_index in the dataset
    length: int  # frames
    tasks: tuple[str, ...]  # language instructions, usually one; of a frame: `frame_instructions`


class ActionBatch(NamedTuple):
    """Action chunks in physical units; steps beyond the episode repeat its last action and are not valid."""

    chunks: Tensor  # [B, H, m] float32
    valid: Tensor  # [B, H] bool, or [B, H, m] where datasets have different dimensions


class PairBatch(NamedTuple):
    """Frame pairs (t, t + stride) with the actions between them; with further strides also their later frames."""

    frames: Tensor  # [B, 2 + further, V, H, W, 3] uint8; [B, 2 + further, 0] where features do
    actions: Tensor  # [B, m] float32, mean over the gap, or [B, steps, m]; physical units
    labelled: Tensor  # [B] bool: whether the action may be used as supervision
    text: Tensor | None = None  # [B, S, D] vectors of the instruction's words, for language-conditioned models
    text_mask: Tensor | None = None  # [B, S] bool: which of them are words
    features: Tensor | None = None  # [B, 2 + further, V*N, D] float, where the frozen features are known already
    valid: Tensor | None = None  # [B] bool: which pairs a codebook that follows the latents may see; none: all
    acted: Tensor | None = None  # 0-d: labelled pairs in an average share of a step; none: this is all of it


class Quantized(NamedTuple):
    """Output of a quantizer."""

    vectors: Tensor  # [..., d] straight-through: values of the codebook, gradient of the input
    codes: Tensor  # [...] int64 (residual: [..., levels])
    losses: LossTerms


class LabelsVideo(Protocol):
    """Gives a latent action for each frame of a video: probes, controls, entropy and history need no more."""

    def stride_frames(self, fps: float) -> int: ...
    def resize(self, frames: np.ndarray) -> np.ndarray: ...
    def label_video(self, frames: np.ndarray, stride: Gap = None) -> LatentActions: ...


class HoldsLabels(Protocol):
    """Holds the latent actions of frames by the number of their episode, whatever made them."""

    def stride_frames(self, fps: float) -> int: ...
    def resize(self, frames: np.ndarray) -> np.ndarray: ...
    def labels_of(self, episode: int) -> LatentActions: ...
    def labelled(self, episode: int) -> np.ndarray:
        """Return which frames of an episode have a label, bool [T]."""
        ...


class EncodesFeatures(Protocol):
    """Gives the latent actions of frame pairs from features of each frame, so that frames may be changed first."""

    def frame_features(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into features [..., V*N, D]."""
        ...

    def encode_features(self, features: Tensor) -> LatentActions:
        """Turn features [B, 2, V*N, D] into B latent actions."""
        ...


class PredictsFrames(Protocol):
    """Predicts what the later frame of a pair shows: its decoder can be given wrong latents, or none."""

    def frame_targets(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into what is predicted of frames, and from which, [..., N, D]."""
        ...

    def predict(self, features: Tensor, latents: LatentActions) -> Tensor:
        """Predict targets of later frames [B, N, D] from those of first ones [B, N, D] and B latent actions."""
        ...


class EncodesPredictions(EncodesFeatures, PredictsFrames, Protocol):
    """Encodes what it predicts, so that a latent action can be applied in another scene and read again."""

    def features_of(self, targets: Tensor) -> Tensor:
        """Turn what is predicted of frames [B, N, D] into their features [B, V*N, D]."""
        ...


class StartsAfresh(Protocol):
    """Makes a model of the same configuration with random weights: a control."""

    def fresh(self) -> Any: ...


class InfersActions(Protocol):
    """Infers what the robot did at each frame of a video, in units of its actions."""

    def unit_frames(self, fps: float) -> int: ...
    def infer_actions(self, frames: Any, unit: int, task: str = "", states: Any = None) -> Any:
        """Infer the actions of T frames: `actions` [T, m], and the uncertainty of each, `spread` [T]."""
        ...


class HoldsActions(Protocol):
    """Holds inferred actions of frames by the number of their episode, whatever inferred them."""

    def has(self, episode: int) -> bool: ...
    def none_of(self, episode: int) -> Any: ...
    def actions_of(self, episode: int) -> Any:
        """Return `actions` [T, m] of an episode, `confidence` [T] or None, and `valid` [T]: which are its own."""
        ...


class TokenizesActions(Protocol):
    """Turns chunks of actions into codes and back."""

    def encode(self, chunks: Any, valid: Any = None) -> Any: ...
    def decode(self, codes: Any, *, repair: bool = False) -> Any: ...
    def latent_actions(self, chunks: Any, valid: Any = None) -> LatentActions: ...


class Acts(Protocol):
    """Chooses chunks of actions [B, H, m] from observations."""

    def predict_chunk(self, batch: "PolicyBatch") -> Tensor: ...


def lacks(thing: Any, *protocols: Any) -> list[str]:
    """Return the methods of protocols that a model, or a class of models, lacks."""
    wanted = {name for protocol in protocols for name in get_protocol_members(protocol)}
    return sorted(name for name in wanted if not callable(getattr(thing, name, None)))


class Model:
    """What every model says of itself. The protocols above name further methods, and what is evaluated with them."""

    type: ClassVar[str] = ""  # of artefact
    source: str | None = None  # Hub id or name of the folder that it was loaded from
    trained_on: dict[str, Any] | None = None  # what its training.json says
    datasets: tuple[str, ...] = ()  # those that have a normaliser of their own

    def describe(self) -> dict[str, Any]:
        """Return the identity for provenance: type, hashes of config and weights, id, revision; JSON values only."""
        return {"type": self.type or type(self).__name__}

    def for_dataset(self, name: str) -> Any:
        """Return the model with the normaliser of one of its `datasets`."""
        return self

    def to(self, device: Any) -> Any:
        return self


class Labeller(Model):
    """A model that labels."""

    label_source: ClassVar[str | None] = None  # "actions" (`ActionTokenizer`) or "video" (`VideoLabeller`)
    reads_task: bool = False  # `label_video` also takes the instruction as `task`, or a list of those of all frames


class ActionTokenizer(Labeller):
    """What every action tokenizer offers, whatever its family. Chunks are in physical units.

    As a labeller: frame t gets the latent action of the chunk that starts at t.
    """

    label_source = "actions"
    horizon: int  # steps per chunk, H
    action_dim: int  # action dimensions m
    vocab_size: int = 0  # number of codes K
    tokens_per_chunk: int  # codes per chunk, or their maximum
    fixed_length: ClassVar[bool] = True  # False: rows are padded with -1
    prefixes: ClassVar[bool] = False  # True: the first codes of a row decode on their own
    per_step: ClassVar[bool] = False  # True: code t is that of step t
    shared_vocabulary: ClassVar[bool] = True  # False: each position has a codebook of its own

    def encode(self, chunks: Any, valid: Any = None) -> Any:
        """Turn chunks [B, H, m] into codes int64 [B, P]."""
        raise NotImplementedError

    def encode_batch(self, batch: ActionBatch) -> Tensor:
        """Turn the chunks of a batch into codes; they were checked where the batch was made."""
        return self.encode(batch.chunks, batch.valid)

    def decode(self, codes: Any, *, repair: bool = False) -> Any:
        """Turn codes [B, P] into chunks [B, H, m]; with `repair` any integers, such as a policy may predict."""
        raise NotImplementedError

    def latent_actions(self, chunks: Any, valid: Any = None) -> LatentActions:
        """Turn chunks [B, H, m] into codes, latents and quantized vectors."""
        raise NotImplementedError


class VideoLabeller(Labeller):
    """An image latent action model that can label: frame t gets the latent action of the pair (t, t + stride)."""

    label_source = "video"
    cameras: tuple[str, ...]  # in the order of the V axis
    codebook_size: int | None = None  # K; None for a continuous model

    @property
    def vocab_size(self) -> int | None:
        """Count the codes K, as an action tokenizer does."""
        return self.codebook_size

    state_key: str | None = None  # column with the proprio that `infer_actions` reads
    language: str | None = None  # what reads the instruction in a model of stage 1, which cannot label

    def stride_frames(self, fps: float) -> int:
        """Return the model's stride in frames of a dataset."""
        raise NotImplementedError

    def later_frames(self, fps: float) -> int:
        """Return how many frames after the labelled one the model looks at."""
        return self.stride_frames(fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Bring frames uint8 [n, H, W, 3] to the model's size, uint8 [n, h, w, 3]."""
        raise NotImplementedError

    def label_video(
        self, frames: np.ndarray | Iterable[np.ndarray], stride: Gap = None, *, fps: float | None = None
    ) -> LatentActions:
        """Label video [T, V, H, W, 3] uint8: T latent actions of the pairs (t, min(t + stride, T - 1)).

        `stride` is a number of frames, or seconds ("0.2s"), for which `fps` is needed; the model's own by default. The
        video may come in pieces, in order; labels do not depend on where they begin.
        """
        raise NotImplementedError


class Policy(Model):
    """What a policy of another package says of itself, and does, to be evaluated."""

    horizon: int  # steps of a chunk, H
    cameras: tuple[str, ...] = ()  # in the order of the V axis of `images`
    image_size: int = 224  # side of the images
    interpolation: str = "bicubic"  # how images are resized
    action_key: str = "action"  # column that it learned from
    state_key: str | None = None  # column of `proprio`, if it reads that

    def predict_chunk(self, batch: "PolicyBatch") -> Tensor:
        """Choose the chunks of actions [B, H, m], in physical units, from what a batch shows: its `images`, `texts` and
        `proprio`."""
        raise NotImplementedError


class LatentTarget(NamedTuple):
    """Latent actions that supervise a policy: S steps of P codes each.

    Image models: one latent action for each step of the chunk, S = H. Action tokenizers: the tokens of the chunk that
    starts here, S of them with P = 1.
    """

    codes: Tensor | None  # [B, S, P] int64
    embedding: Tensor | None  # [B, S, E, d] float32, before quantization
    valid: Tensor  # [B, S] bool: supervise here
    checked: bool = False  # values were checked where they were read: nobody waits for a GPU to check them again

    def nearest(self, steps: int) -> "LatentTarget":
        """Return the target stretched over `steps`: each gets the latent action of the step nearest in time."""
        have = self.valid.shape[1]
        index = ((torch.arange(steps, device=self.valid.device) + 0.5) * have / steps).long()
        return self._each(lambda part: part[:, index])

    def to(self, device: torch.device, non_blocking: bool = False) -> "LatentTarget":
        """Return the target on another device; `non_blocking` as for tensors."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "LatentTarget":
        codes, embedding = (None if part is None else change(part) for part in (self.codes, self.embedding))
        return LatentTarget(codes, embedding, change(self.valid), self.checked)


class Shares(NamedTuple):
    """Mean numbers of samples of a process that count, 0-d each, where processes share a batch: losses divided by these
    average over the whole batch. None: not shared, or all samples count."""

    labelled: Tensor | None = None  # samples with labels
    acted: Tensor | None = None  # samples with known actions
    with_subtask: Tensor | None = None  # samples with the text of a sub-task
    pairs: Tensor | None = None  # rows of `PolicyBatch.pairs`
    paired: Tensor | None = None  # samples with at least one pair
    whole: Tensor | None = None  # samples whose later frames are all in the episode


class FlowDraws(NamedTuple):
    """What a flow-matching head draws for each sample to learn from."""

    noise: Tensor  # [B, H, m] standard normal
    times: Tensor  # [B] from 0, noise, to 1, actions


class PolicyBatch(NamedTuple):
    """Observations with the actions that followed, and the latent actions that supervise. Physical units."""

    images: Tensor  # [B, V, h, w, 3] uint8
    texts: Sequence[str]  # B instructions
    proprio: Tensor | None  # [B, s] float32
    actions: Tensor  # [B, H, m] float32; steps beyond the episode repeat its last action
    valid: Tensor  # [B, H] bool: steps inside the episode; none of a sample whose actions are not known
    latent: LatentTarget | None = None
    later: Tensor | None = None  # [B, F, V, h, w, 3] uint8: frames after those of `images`, at fixed gaps
    inputs: Mapping[str, Any] | None = None  # what the backbone made of images and prompts, where that was done ahead
    draws: FlowDraws | None = None  # none: a head that needs some draws them itself
    pairs: Tensor | None = None  # [n, 2] int64: sample, and which of its `later` frames; those inside the episode
    subtasks: Sequence[str] | None = None  # B texts, "" where there is none; none: not asked for, or the data has none
    subtask_tokens: Sequence[Sequence[int]] | None = None  # of the backbone, where they were found ahead
    known: Tensor | None = None  # [B, m] bool: action dimensions that the robot of each sample has; none: all
    tokens: Tensor | None = None  # [B, P] int64: codes of the chunks, for a head that predicts them; -1 after the end
    shares: Shares = Shares()
    source: Tensor | None = None  # [B] int64: which dataset of a mixture each sample is of

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "PolicyBatch":
        """Return the batch from the fields that torch's own collation made of samples of `PolicyWindows`."""
        known = {"proprio": None, **fields}
        if "latent" in known:
            known["latent"] = LatentTarget(**{"codes": None, "embedding": None, **known["latent"]})
        return cls(**known)

    @property
    def judged(self) -> Tensor:
        """Return which actions count in a loss: bool [B, H], or [B, H, m] where robots lack dimensions."""
        return self.valid if self.known is None else self.valid[..., None] & self.known[:, None]

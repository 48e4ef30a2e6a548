"""Training samples of policies: what is seen at frame t, the actions that follow, and the latent actions of the labels.

    images [V, h, w, 3], proprioception [s] and instruction of t; actions of t .. t + H - 1; see `LatentTarget`

Everything is read once; a batch is one gather. Beyond the end of an episode nothing is valid.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.data.episodes import EpisodeSpec, none_known, select_episodes
from lattok.data.instructions import frame_instructions
from lattok.data.pixels import resize_pixels
from lattok.data.schema import Progress, RobotDataset, camera_keys, dimension_names, vector_key
from lattok.data.vectors import Vectors, read_vectors
from lattok.labels import LatentSpec, read_rows, target_of, tokenizer_spec
from lattok.labels.spec import PARTS, confidences
from lattok.nn.losses import coded
from lattok.samples.frames import FrameReader, MixedSamples, Samples
from lattok.samples.windows import ActionWindows, acted_episodes
from lattok.types import ActionTokenizer, Episode, LatentTarget, PolicyBatch
from lattok.utils import checks


@dataclass(frozen=True)
class WindowOptions:
    """What a sample of a policy is: what it sees, which actions follow, and which labels teach.

    Attributes:
        horizon: H, actions of a chunk
        size: images are resized to `size` x `size`
        cameras: cameras in this order; None: all; (): none
        interpolation: how images are resized
        action_key: column with the actions
        state_key: column with the robot's state, which is proprio; None: none
        episodes: which episodes samples come from
        action_episodes: episodes whose actions are known (None: all); others, and those whose actions are all NaN,
            teach through labels
        acts: False: no action is known, and labels alone teach
        scattered: True: in an episode with known actions, frames whose action is NaN teach none
        labelled: False: no label is, and actions alone teach
        confident_share: share of the actions that a model inferred (annotate --as actions) that teaches, the most
            confident first
        extra_keys: other columns like actions, which `PolicyWindows.targets` gives
        gaps: batches also have the frames this much later (earlier if negative)
        states_around: proprio has the state at all these frames, [B, s * (1 + gaps)] in order of time
        subtasks: batches have the text of each frame's sub-task, where there is one
        latent: label columns (of `latent_spec`) that latent actions come from
        parts: which of these columns are read
        tokenizer: action tokenizer that sees the chunks of every batch, in place of label columns
        tokenized: the numbers of an action that it sees; None: all
    """

    horizon: int
    size: int
    cameras: Sequence[str] | None = None
    interpolation: str = "bicubic"
    action_key: str = "action"
    state_key: str | None = "observation.state"
    episodes: EpisodeSpec = None
    action_episodes: EpisodeSpec = None
    acts: bool = True
    scattered: bool = False
    labelled: bool = True
    confident_share: float = 1.0
    extra_keys: Sequence[str] = ()
    gaps: Sequence[int] = ()
    states_around: bool = False
    subtasks: bool = False
    latent: LatentSpec | None = None
    parts: Sequence[str] = PARTS
    tokenizer: ActionTokenizer | None = None
    tokenized: slice | None = None

    def __post_init__(self) -> None:
        checks.counts(size=self.size)


class PolicyWindows(Samples):
    """Every frame of the chosen episodes as a sample, N = F of them.

    `actions` [F, m] and `states` [F, s] (or None) in physical units with `action_names` and `state_names`; `known` [m],
    the action dimensions that the robot has; `cameras` and their stored `camera_sizes` (H, W); `frames` uint8
    [F, V, h, w, 3], decoded when first asked for; for each sample `episode_of`, `frame_of` and `task_of` [N], an index
    into `tasks`, of the instruction at t, which may change in an episode; `latent`, what supervises.
    """

    weights: Sequence[float] = (1.0,)

    def __init__(self, dataset: RobotDataset, options: WindowOptions, progress: Progress | None = None):
        """Raises `LattokError` for numbers that are not finite, and for missing columns."""
        cameras, horizon, action_key, size = options.cameras, options.horizon, options.action_key, options.size
        self.horizon, self.gaps = horizon, tuple(options.gaps)
        self.cameras = () if cameras is not None and not len(cameras) else camera_keys(dataset, cameras)
        self.episodes = chosen = select_episodes(dataset, options.episodes)
        unseen = not self.cameras  # otherwise files are checked as a whole where their pictures are read
        places, scattered = [e.index for e in chosen], options.scattered
        self._windows = ActionWindows(dataset, horizon, action_key, places, 1, unseen, True, scattered)
        self._instead: Tensor | None = None  # of the actions
        self.action_key, self.action_names = action_key, self._windows.action_names
        self.episode_of, self.frame_of = self._windows.episode_of, self._windows.frame_of
        self.acted = self._known_actions(dataset, action_key, options)
        self.measured, self._sure = self._confident(dataset, action_key, options.confident_share)
        absent = torch.tensor(dataset.absent.get(action_key, ()), dtype=torch.long)
        self.known = torch.ones(len(self.action_names), dtype=torch.bool).index_fill(0, absent, False)
        self._first = torch.from_numpy(np.arange(len(self)) - self.frame_of)
        self._states_around = options.states_around
        self.tasks, self.task_of = frame_instructions(dataset, chosen)
        self.subtasks = _subtasks(dataset, chosen) if options.subtasks else None
        self._stated: Vectors | None = None
        self.state_names = ()  # of the dimensions of the states
        if (key := options.state_key) is not None:
            self.state_names = dimension_names(vector_key(dataset, "state_key", key, "None leaves it out."))
            self._stated = Vectors(dataset, "state_key", key, chosen, unseen)
        self._extra = {key: self._like_actions(dataset, key, action_key, unseen) for key in options.extra_keys}
        self._tokenizer, self._tokenized = options.tokenizer, options.tokenized or slice(None)
        width = len(self.action_names[self._tokenized])
        self.latent = _chosen_spec(options.latent, options.tokenizer, horizon, width)
        self._labels: dict[str, Tensor] = {}
        if self.latent is not None and options.tokenizer is None:
            self._labels = self._stored_labels(dataset, self.latent, options)
        self.camera_sizes = camera_sizes(dataset, chosen[0], self.cameras)
        resize = partial(_resized, size, options.interpolation)
        self.reader: FrameReader = FrameReader(dataset, chosen, self.cameras, resize)
        empty = partial(np.empty, (len(self), 0, size, size, 3), np.uint8)
        self._all_frames = partial(self.reader.all, progress=progress) if self.cameras else empty

    def _known_actions(self, dataset: RobotDataset, key: str, options: WindowOptions) -> Tensor:
        """Return which samples have a known action that may teach, bool [N]."""
        episodes = options.action_episodes
        lengths = np.array([e.length for e in self.episodes], dtype=np.int64)
        acting = acted_episodes(dataset, self.episodes, episodes, key).repeat(lengths)
        acted = torch.from_numpy(acting) & self._windows.known
        if not acted.any() and options.acts:
            named = "" if episodes is None else f", of {episodes!r}"
            expected = f"known actions in one of the episodes that are trained on{named}"
            checks.fail(key, expected, *none_known(dataset, key, [e.index for e in self.episodes], episodes))
        return acted

    def _stored_labels(self, dataset: RobotDataset, spec: LatentSpec, options: WindowOptions) -> dict[str, Tensor]:
        labels = read_rows(dataset, spec, self.episodes, options.parts)
        if not labels["valid"].any() and options.labelled:
            what = f"none of the {checks.counted(len(self), 'frame')} of the chosen episodes has a label"
            raise checks.LattokError(f"`{spec.column('valid')}`: {what}. Choose other episodes, or annotate again.")
        return labels

    def _like_actions(self, dataset: RobotDataset, key: str, action_key: str, checked: bool) -> Tensor:
        values = read_vectors(dataset, "extra_keys", key, self.episodes, checked)
        checks.size(key, f"numbers, as many as `{action_key}` has", values.shape[1], len(self.action_names))
        return torch.from_numpy(values)

    def _confident(self, dataset: RobotDataset, key: str, share: float) -> tuple[Tensor, Tensor | None]:
        """Return which actions were measured, bool [N], and which may teach; none where all may."""
        if not (found := confidences(dataset, key, self.episodes)):
            return self.acted, None
        parts = [found.get(e.index, np.full(e.length, np.inf)) for e in self.episodes]
        sure = torch.from_numpy(np.concatenate(parts).astype(np.float64))
        inferred = sure[self.acted & sure.isfinite()]
        least = inferred.quantile(1 - share) if len(inferred) else 0.0
        return self.acted & sure.isinf(), sure >= least

    @cached_property
    def teaching(self) -> Tensor:
        """Which samples have an action that teaches, bool [N]."""
        return self.acted if self._sure is None else self.acted & self._taught(self._sure).any(1)

    @cached_property
    def coding(self) -> Tensor:
        """Which samples have a chunk of codes that teaches, bool [N]."""
        return self.acted if self._sure is None else self.acted & coded(self._taught(self._sure))

    def _taught(self, sure: Tensor) -> Tensor:
        """Return which steps of the samples may teach, bool [N, H], by which actions are sure enough, [N]."""
        rows, inside = self._windows.rows(torch.arange(len(self)))
        return sure[rows] & inside

    def teach(self, actions: Tensor) -> None:
        """Replace the actions as targets by other numbers [F, m], such as what actions add to the state."""
        self._instead = actions

    @property
    def actions(self) -> Tensor:
        """Actions of all frames, or what is taught in their place; they are read if they have not been."""
        return self._windows.actions if self._instead is None else self._instead

    def _actions_at(self, rows: Tensor) -> Tensor:
        return self._windows.actions_at(rows) if self._instead is None else self._instead[rows]

    @cached_property
    def states(self) -> Tensor | None:
        """States of all frames, which are read if they have not been."""
        return None if self._stated is None else torch.from_numpy(self._stated.all())

    def _states_at(self, rows: np.ndarray) -> Tensor:
        assert self._stated is not None
        return torch.from_numpy(self._stated.at(rows))

    def check_share(self, share: float) -> None:
        """Refuse a share of known actions where there are no others, or where none was measured."""
        if share and not self.measured.any():
            checks.fail("acted_share", "0 where no action was measured", share)
        if share and self.measured.all():
            reason = "`acted_share` was given, but all actions are known."
            raise checks.LattokError(f"{reason} Name those episodes: action_episodes.")

    def __len__(self) -> int:
        return len(self.episode_of)

    @property
    def parts(self) -> "Sequence[PolicyWindows]":
        """These samples, as a mixture of one."""
        return [self]

    def frame_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows [B, 1 + gaps] of the frames of samples `indices` [B]."""
        rows, ends = indices[:, None] + np.array([0, *self.gaps]), (self._first, self._windows.last)
        return np.clip(rows, *(end.numpy()[indices, None] for end in ends))

    def batch(self, indices: Tensor | Sequence[int], frames: Tensor | None = None) -> PolicyBatch:
        """Return samples `indices` [B]; `frames` [B, 1 + gaps, V, h, w, 3] where they are known already."""
        indices = torch.as_tensor(indices)
        rows, inside = self._windows.rows(indices)  # b h
        chosen = indices.numpy()
        actions, known = self._actions_at(rows), self.acted[indices, None]
        known = known if self._sure is None else known & self._sure[rows]
        if frames is None:
            frames = torch.from_numpy(np.asarray(self.frames[self.frame_rows(chosen)]))
        return PolicyBatch(
            images=frames[:, 0],
            texts=[self.tasks[i] for i in self.task_of[chosen].tolist()],
            proprio=self.proprio(indices),
            actions=actions,
            valid=inside & known,
            latent=self._target(indices, rows, inside, actions),
            later=frames[:, 1:] if frames.shape[1] > 1 else None,
            subtasks=None if self.subtasks is None else self.subtasks[chosen].tolist(),
            known=None if self.known.all() else self.known.repeat(len(chosen), 1),
        )

    def proprio(self, indices: Tensor) -> Any:
        """Return the states of samples [B]: [B, s], or [B, frames * s] in order of time; None if they have none."""
        if self._stated is None or not self._states_around:
            return None if self._stated is None else self._states_at(indices.numpy())
        order = np.argsort([0, *self.gaps], kind="stable")
        return self._states_at(self.frame_rows(indices.numpy())[:, order]).flatten(1)

    @cached_property
    def reach(self) -> Tensor:
        """Which of the later frames of each sample lie inside the episode, bool [N, gaps]."""
        rows = torch.arange(len(self))[:, None] + torch.tensor(self.gaps, dtype=torch.long)
        return rows <= self._windows.last[:, None]

    @property
    def has_subtask(self) -> Tensor | None:
        """Which samples have the text of a sub-task, bool [N]; none where the dataset has none."""
        return None if self.subtasks is None else torch.from_numpy(self.subtasks != "")

    @property
    def known_actions(self) -> Tensor:
        """The actions [n, m] that are known, each once: what normalisers and scales are fitted to. Of very many files
        those of a sample, as everything here that is `fitted`: see `data.many`."""
        return self._actions_at(self.fitted)

    @property
    def fitted(self) -> Tensor:
        """Samples [n] with a known action that normalisers are fitted to."""
        return (self.acted & self._windows.sampled).nonzero()[:, 0]

    @property
    def fitted_states(self) -> Tensor | None:
        """The states [n, s] that a normaliser is fitted to."""
        return None if self._stated is None else self._states_at(self._stated.sampled.nonzero()[0])

    @property
    def known_latents(self) -> Tensor:
        """The latent actions [n, E * d] of all frames that have one."""
        return self._labels["embedding"][self._labels["valid"][:, 0]].flatten(1).float()

    @property
    def labels_hash(self) -> str | None:
        """SHA-256 of the labels that were read; None without labels."""
        if not self._labels:
            return None
        digest = hashlib.sha256()
        for part in ("valid", *PARTS):
            digest.update(self._labels[part].numpy().data if part in self._labels else b"")
        return digest.hexdigest()

    @cached_property
    def labelled(self) -> Tensor | None:
        """Which samples have a latent action that supervises, bool [N]; None without labels."""
        if self.latent is None:
            return None
        if not self._labels:
            return self.acted  # made from actions
        valid = self._labels["valid"][:, 0]
        rows, inside = self._windows.rows(torch.arange(len(self)))
        return valid if self.latent.target == "chunk" else (valid[rows] & inside).any(1)

    def targets(self, key: str) -> Tensor:
        """Chunks [N, H, m] of `action_key` or of one of `extra_keys`, such as what an expert would have done."""
        known = {self.action_key: self.actions} | self._extra
        checks.one_of("key", key, known)
        rows, _ = self._windows.rows(torch.arange(len(self)))
        return known[key][rows]

    def _target(self, indices: Tensor, rows: Tensor, inside: Tensor, actions: Tensor) -> LatentTarget | None:
        if (spec := self.latent) is None:
            return None
        if self._tokenizer is not None:
            with torch.no_grad():
                found = self._tokenizer.latent_actions(actions[..., self._tokenized], inside)  # one call for the batch
            labels = {"codes": found.codes.cpu()[:, None], "embedding": found.latents.float().cpu().flatten(1)[:, None]}
            if "codes" in spec.widths():
                _check_codes(labels["codes"][self.acted[indices]], spec.codebook_size)
            labels["valid"] = self.acted[indices, None]
            return target_of(spec, {part: labels[part] for part in spec.widths()}, inside)._replace(checked=True)
        pick = rows if spec.target == "steps" else indices[:, None]  # b s, or b 1
        labels = {part: values[pick] for part, values in self._labels.items()}
        return target_of(spec, labels | {"valid": labels["valid"][..., 0]}, inside)._replace(checked=True)


class MixedPolicyWindows(MixedSamples):
    """Samples of several datasets; actions and proprio are normalised, those of each dataset by maps of its own.

    Where robots have more numbers than others, these are 0 and not known in the others. `source` is the dataset.
    """

    def __init__(
        self,
        parts: Sequence[PolicyWindows],
        weights: Sequence[float],
        maps: Sequence[Any],
        coders: Sequence[Callable[[PolicyBatch], Tensor]] = (),
    ):
        """`maps` of each dataset: its `Normalizer` of "action" and, where there is proprio, of "proprio"; None: its
        samples stay as they are. `coders` of each: what makes `tokens` of actions that are not normalised."""
        super().__init__(parts)
        self._coders = coders
        self.weights, self._maps = list(weights), copy.deepcopy(list(maps))  # the model's move to its device
        self._width = max(len(part.action_names) for part in parts)
        stated = [part.proprio(torch.zeros(1, dtype=torch.long)) for part in parts]
        self._stated = None if any(each is None for each in stated) else max(each.shape[1] for each in stated)
        self._partly = not all(part.known.all() and len(part.known) == self._width for part in parts)
        self.acted = torch.cat([part.acted for part in parts])
        self.measured = torch.cat([part.measured for part in parts])
        self.teaching, self.coding = (torch.cat([getattr(p, n) for p in parts]) for n in ("teaching", "coding"))
        self.reach = torch.cat([part.reach for part in parts])
        known = [part.has_subtask for part in parts]
        flags = [torch.zeros(len(p), dtype=torch.bool) if k is None else k for p, k in zip(parts, known, strict=True)]
        self.has_subtask = None if all(has is None for has in known) else torch.cat(flags)
        labelled = [part.labelled for part in parts if part.labelled is not None]
        self.labelled = torch.cat(labelled) if labelled else None

    def _batch(self, part: int, indices: Tensor, *frames: Tensor) -> PolicyBatch:
        given, maps = self.parts[part].batch(indices, *frames), self._maps[part]
        proprio = given.proprio if given.proprio is None or maps is None else maps["proprio"](given.proprio)
        actions = given.actions if maps is None else maps["action"](given.actions)
        proprio = None if proprio is None or self._stated is None else _padded(proprio, self._stated)
        known = _padded(self.parts[part].known, self._width).repeat(len(actions), 1) if self._partly else None
        if self._coders:  # of the numbers that are known
            given, known = given._replace(tokens=self._coders[part](given)), None
        texts = given.subtasks or ([""] * len(actions) if self.has_subtask is not None else None)
        given = given._replace(actions=_padded(actions, self._width), proprio=proprio, known=known, subtasks=texts)
        return given._replace(source=torch.full((len(actions),), part))

    def _alike(self, parts: list[PolicyBatch]) -> list[PolicyBatch]:
        """Give codes that end before those of other datasets more of what is behind their end."""
        codes = [part.tokens for part in parts if part.tokens is not None]
        if not codes:
            return parts
        most = max(each.shape[1] for each in codes)
        return [part._replace(tokens=_padded(each, most, -1)) for part, each in zip(parts, codes, strict=True)]


def _padded(values: Tensor, width: int, by: int = 0) -> Tensor:
    """Add numbers, zeros by default, to values [..., m] up to [..., width]."""
    more = width - values.shape[-1]
    return torch.nn.functional.pad(values, (0, more), value=by) if more else values


def camera_sizes(dataset: RobotDataset, episode: Episode, cameras: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """(H, W) of each camera's images as they are stored, from the first frame of an episode."""
    frames = (dataset.frames(episode.index, [key], [0]) for key in cameras)
    return tuple((image.shape[2], image.shape[3]) for image in frames)


def _resized(size: int, interpolation: str, block: np.ndarray) -> np.ndarray:
    writable = block if block.flags.writeable else block.copy()  # torch warns of others
    return resize_pixels(torch.from_numpy(writable), size, interpolation).numpy()


def _subtasks(dataset: RobotDataset, episodes: Sequence[Episode]) -> np.ndarray | None:
    """Read the text of each frame's sub-task, [F] of objects: most are the same; none where no episode has any."""
    found = [dataset.subtasks(episode.index) for episode in episodes]
    if all(texts is None for texts in found):
        return None
    each = [[""] * episode.length if texts is None else texts for texts, episode in zip(found, episodes, strict=True)]
    return np.array([text.strip() for texts in each for text in texts], dtype=object)


def _check_codes(codes: Tensor, size: int) -> None:
    """Require that codes that a tokenizer gives lie in its codebook; `size` 0: nobody knows how large that is."""
    if size and codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
        got = f"{int(codes.min())} to {int(codes.max())}"
        checks.fail("tokenizer", f"one whose codes lie from 0 to {size - 1}", got)


def _chosen_spec(
    latent: LatentSpec | None, tokenizer: ActionTokenizer | None, horizon: int, action_dim: int
) -> LatentSpec | None:
    if tokenizer is None:
        if latent is not None and latent.target == "steps" and latent.steps != horizon:
            checks.fail(
                "latent", f"latent actions of {checks.counted(horizon, 'step')}, the horizon", f"{latent.steps}"
            )
        return latent
    if latent is not None:
        raise checks.LattokError("`tokenizer` and label columns were both given. Give one of them.")
    checks.size("tokenizer", "action dimensions, as the dataset has", tokenizer.action_dim, action_dim)
    return tokenizer_spec(tokenizer, horizon)

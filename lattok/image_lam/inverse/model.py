"""What the robot did at a moment, read from frames around it by small networks that learn from few known actions.

    c = E(o_t, o_{t+k} - o_t, ...)        k of `offsets`; cameras one after the other through the same convolutions
    z = bottleneck(c)                     as it is, with noise of a learned size, or codes (lattok/image_lam/base)
    a = D(z, task, s_{t+k} - s_t)         task and proprio where they are asked for

An inverse dynamics model as in VPT (Baker et al., 2022), of the size that two demonstrations a task can teach. With one
of three losses videos without actions teach as well, and z is a latent action that is grounded by D, as in CLAM (Liang
et al., 2025). `loss_forward`: with o_t it says what the last frame is (LAPO; Schmidt and Jiang, 2024). `loss_flow`: it
says how pixels move (block matching). `loss_reversal`: backwards, a video shows the opposite motion,

    a(o_t, o_{t+1}, o_{t+2}) = -a(o_{t+2}, o_{t+1}, o_t)      but for `unreversed` dimensions: a gripper stays closed

which known clips are learned to be, and all others to agree with. To `reversible` members this holds by construction,
for every clip: half of z changes its sign with the direction, half does not, and D is odd or even in the first half.

Of several datasets (`robots`), E is that of all, and D, normalisers, cameras and state are those of each.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lattok.hub.trials import Trial
from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import trial_of
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.base.labelling import Video, VideoEncoder, block_size, query_tokens
from lattok.image_lam.base.pair_model import FrozenFeaturesModel
from lattok.image_lam.base.video_file import Files, are_files, label_files
from lattok.image_lam.inverse.config import InverseDynamicsConfig
from lattok.image_lam.inverse.inferred_actions import InferredActions as InferredActions
from lattok.image_lam.inverse.member import SMALLEST, Member, coarse, of_own
from lattok.image_lam.inverse.proprio_map import ProprioMap, checked_states
from lattok.image_lam.inverse.robots import Units
from lattok.image_lam.inverse.states import around_each as around_each
from lattok.image_lam.inverse.states import smoothed, values_at
from lattok.image_lam.inverse.states import state_changes as state_changes
from lattok.nn.blocks import onto, upcast
from lattok.nn.losses import action_loss, of_share
from lattok.nn.normalize import DatasetNormalizers, Normalizer, OfDatasets, OpenChoice
from lattok.types import Gap, LatentActions, LossTerms, PolicyBatch, Shares, join
from lattok.utils import checks
from lattok.utils.arrays import Values, as_tensor, like
from lattok.utils.options import check_knows_data

CHANGE = 2.0  # times the difference of frames, next to the frame itself
BLOCKS = 10  # of held-out frames, between which the gain from video varies
NEW = "Train it further with its known actions: lattok train idm DATASET --init MODEL --out DIR."


class InverseDynamics(OfDatasets, FrozenFeaturesModel):
    """Infers actions from the frames around them, with a confidence.

    >>> idm = InverseDynamics.from_pretrained("org/name")          # or a folder
    >>> idm.infer_actions(video, fps=20).actions     # uint8 [T, V, H, W, 3] -> float32 [T, m]
    """

    type = "idm"
    config_class = InverseDynamicsConfig
    config: InverseDynamicsConfig
    pixel_patch = 1
    low: Tensor  # [m] of what is read
    high: Tensor

    def __init__(self, config: InverseDynamicsConfig, features: FrozenFeatures | None = None):
        super().__init__()
        check_knows_data(config)
        self._know(config)
        self.reads_task = config.task_given
        self.codebook_size = None if config.quantizer == "none" else config.codebook.size
        self.features = features or self.frozen_features(config)
        if self.features.side**2 != self.features.count:
            checks.fail("features", "a network that gives a square of patches", config.features)
        raw = config.features == "pixels"
        width = self.features.dim if raw else config.projection
        projections = [nn.Identity() if raw else nn.Linear(self.features.dim, width) for _ in range(config.members)]
        self.projections = nn.ModuleList(projections)
        self._robots = [config.of(place) for place in range(len(config.robots))]
        members = [Member(config, width, self.features.side, self._robots) for _ in range(config.members)]
        self.members: Any = nn.ModuleList(members)
        self.normalizers = DatasetNormalizers((), partial(Units, config), "model", NEW)
        for robot, own in zip(config.robots, self._robots, strict=True):
            self.normalizers.add(robot.name, Units(own))
        self.use_normalizers(self.normalizers.in_use())
        self.proprio_map = None if config.proprio_map is None else ProprioMap(config.proprio_map)
        self.gain = None if config.proprio_map is None else nn.Buffer(torch.zeros(config.action_dim))

    def _know(self, config: InverseDynamicsConfig) -> None:
        self.config, self.cameras = config, config.cameras
        self.state_key = config.state_key if config.reads_state else None

    def use_normalizers(self, maps: Units | OpenChoice) -> None:
        self.action_normalizer: Any = maps
        if isinstance(maps, Units):
            self.action_normalizer = maps.action_normalizer
            self.state_normalizer: Normalizer | None = maps.state_normalizer  # of differences
            self.register_buffer("low", maps.low)
            self.register_buffer("high", maps.high)

    def choose(self, name: str) -> None:
        place = self.datasets.index(name)
        self._know(self._robots[place])
        self.members = nn.ModuleList(member.of(place, self.config) for member in self.members)
        self.use_normalizers(self.normalizers.of(name))
        self.normalizers, self._robots = self.normalizers.only(), []
        self.trained_on = self.trained_on and record_of(name, self.trained_on)

    def view(self, name: str) -> "InverseDynamics":
        """Return the model of one of its datasets, sharing all weights, so that it learns with it."""
        own = copy.copy(self)
        own._modules, own._buffers, own.trained_on = {**self._modules}, {**self._buffers}, None
        own.choose(name)
        return own

    def summary(self) -> str:
        c = self.config
        frames = ", ".join(f"{offset:+d}" if offset else "0" for offset in c.offsets)
        cameras = checks.counted(len(c.cameras), "camera")
        seen = f"frames {frames} (x {c.stride}) of {cameras}, {c.image_size} pixels, {c.features}"
        more = [word for word, given in {"the instruction": c.task_given, "proprio": c.proprio}.items() if given]
        names = ", ".join(c.action_names) or checks.counted(c.action_dim, "number")
        if c.robots:
            names = "actions of " + checks.listed(f"{robot.name} ({robot.action_dim})" for robot in c.robots)
        added = sum(place >= 0 for place in c.anchors)
        rest = f"; {added} of {c.action_dim} are added to the state" if added else ""
        if self.gain is not None:
            rest = f"; added to a map of state changes, with weight {float(self.gain.mean()):.2f}"
        return f"reads {names} from {', '.join([seen, *more])}; {c.members} networks, {self.size}{rest}"

    def usage(self) -> list[str]:
        if self.datasets:
            return self.view(self.datasets[0]).usage()
        given = ["video", f"fps={self.rate(20)}"]
        given += ['task="what the robot does"'] * self.config.task_given
        given += [f"states=np.zeros((20, {self.config.state_dim}), np.float32)"] * (self.state_key is not None)
        return self.usage_of(f"read = model.infer_actions({', '.join(given)})  # .actions [T, m]")

    def unit_frames(self, fps: float) -> int:
        """Return the unit of the offsets in frames of a dataset."""
        return checks.stride_in_frames(self.config.stride, fps)

    def stride_frames(self, fps: float) -> int:
        """Return how far the farthest frame of a clip is from the moment of the action."""
        return self.config.span * self.unit_frames(fps)

    def later_frames(self, fps: float) -> int:
        later = (self.config.offsets[-1] + self.config.smooth) * self.unit_frames(fps)
        return later if self.proprio_map is None else max(later, self.proprio_map.later_frames(fps))

    def set_range(self, actions: Tensor) -> None:
        """Fit normaliser and range of the output to known actions [N, m], from which the state it is added to is
        subtracted."""
        actions = actions.to(self.low)
        done = torch.cat([actions, self._opposite(actions)]) if self.config.reverses else actions  # and backwards
        self.action_normalizer.fit(done if self.config.reversible else actions, self.config.action_kinds)
        self.low.copy_(done.min(0).values)
        self.high.copy_(done.max(0).values)

    def frame_features(self, frames: Tensor) -> Tensor:
        """Turn uint8 [..., V, H, W, 3] into maps [..., V, side, side, D]."""
        return super().frame_features(frames).unflatten(-2, (len(self.cameras), self.features.side, -1))

    def encode_features(self, moments: Sequence[Tensor]) -> Tensor:
        """Turn features [B, V, side, side, D] of all frames of clips into latents [B, members, d]."""
        clips = torch.stack([*moments], 1)
        return torch.stack([self._encode(number, clips) for number in range(len(self.members))], 1)

    def _encode(self, number: int, clips: Tensor) -> Tensor:
        """Turn features [B, frames, V, side, side, D] into one member's latents [B, d]."""
        there = self._encode_one_way(number, clips)
        if number >= self.config.reversible:
            return there
        back = self._encode_one_way(number, clips.flip(1))
        (odd, even), (odd_back, even_back) = there.chunk(2, -1), back.chunk(2, -1)
        return torch.cat([odd - odd_back, even + even_back], -1) / 2

    def _encode_one_way(self, number: int, clips: Tensor) -> Tensor:
        projected, place = self.projections[number](clips), self.config.offsets.index(0)  # b k v y x c
        before, now, after = projected.split((place, 1, clips.shape[1] - place - 1), 1)
        changes = CHANGE * (torch.cat([before, after], 1) - now)
        maps = [now.squeeze(1)] if self.config.frame_seen else []
        maps = torch.cat([*maps, *changes.unbind(1)], -1)
        return self.members[number].encode(rearrange(maps, "b v y x c -> b v c y x"))

    @torch.no_grad()
    def label_video(self, frames: Video | Files, stride: Gap = None, *, fps: float | None = None) -> LatentActions:
        """Turn video uint8 [T, V, H, W, 3] into latents of T clips: `latents` [T, members, d], and as `quantized` the
        same after the bottleneck; `codes` [T, members * tokens] where it has any.

        `stride` is that of `stride_frames`, in frames or seconds (of a video at `fps`); left out: the model's own.
        Beyond the ends of the video its first and last frame are repeated. V may be left out when there is one camera;
        arrays in, arrays out. The video may also come in pieces, in order. `decode_actions` turns latents into actions.
        A video file, or one for each camera, gives arrays; `fps` is its rate where the file does not tell.
        """
        self.normalizers.check_chosen()
        if are_files(frames):
            return label_files(self, frames, stride, fps)
        span = self.config.span
        stride = checks.gap(stride, fps, self.config.stride) * (span if stride is None else 1)
        if stride % span:
            hint = "Ask for it: stride_frames(fps)."
            checks.fail("stride", f"a multiple of {span}, the largest offset", stride, hint)
        gaps = self.config.gaps(stride // span)
        maps = len(self.cameras) * len(self.members) * max(self.features.side // 2, SMALLEST) ** 2
        size = block_size(maps * self.config.channels[0], self.low.device)
        with self.inference():
            encoder = VideoEncoder(self.frame_features, lambda *moments: self.encode_features(moments).float())
            parts = [self._narrowed(part) for part in query_tokens(encoder, frames, self.cameras, gaps, size)]
        return like(frames, join(parts).of_video(gaps[-1], fps))

    def trial(self) -> Trial | None:
        found, size = [member.bottleneck for member in self.members], self.config.codebook.size
        return trial_of(found, self.config.tokens, [size] * len(found), self.members[0].positions == 1)

    def _narrowed(self, latents: Tensor) -> LatentActions:
        """Put latents [B, members, d] through the bottlenecks."""
        found = [member.narrow(latents[:, i], False) for i, member in enumerate(self.members)]
        vectors = torch.stack([each.vectors for each in found], 1)
        return LatentActions(torch.cat([each.codes for each in found], 1), latents, vectors)

    def decode_chunks(self, latents: Tensor, texts: Sequence[str]) -> Tensor:
        """Decode latents [B, H, n], those of all members side by side, to actions [B, H, m]; B instructions."""
        each = latents.unflatten(2, (self.config.members, -1)).flatten(0, 1)
        told = [text for text in texts for _ in range(latents.shape[1])]
        return self.decode_actions(each, told).actions.unflatten(0, latents.shape[:2])

    def decode_actions(
        self, latents: Values, task: str | Sequence[str] = "", states: Values | None = None
    ) -> InferredActions:
        """Turn latents [B, members, d] into actions [B, m] in physical units, and how far members disagree.

        `task` is one for all, or one for each; `states` [B, F, s] is the proprio of each clip at the config's
        `state_offsets`, for a model that reads it. Arrays in, arrays out.
        """
        return self._decoded(latents, task, states, 0)

    @torch.no_grad()
    def _decoded(
        self, latents: Values, task: str | Sequence[str], states: Values | None, smooth: int
    ) -> InferredActions:
        """Decode latents; what is read of neighbours, up to `smooth` rows away, is averaged."""
        self.normalizers.check_chosen()
        given, latents = latents, as_tensor("latents", latents).to(self.low.device)
        checks.rank("latents", latents, "B E d")
        checks.size("latents", "members", latents.shape[1], len(self.members))
        checks.size("latents", "numbers", latents.shape[2], self.config.latent_dim)
        with self.inference():
            narrowed = self._narrowed(latents.to(self.low))
            z = narrowed.quantized
            tasks = [task] * len(z) if isinstance(task, str) else task
            checks.size("task", "instructions, one for each sample", len(tasks), len(z))
            around = self._checked(None if states is None else as_tensor("states", states))
            read = self._heads(z, self._known(tasks, around))
            spread = read.std(1, correction=0).mean(1)
            if self.gain is not None:
                spread = spread * self.gain.mean()
            actions = self._added(smoothed(self._in_units(read), smooth), around)
        return like(given, InferredActions(actions, spread, latents, narrowed.codes))

    def _heads(self, z: Tensor, more: tuple[Tensor, Tensor]) -> Tensor:
        """Read normalised actions [B, members, m] from latents [B, members, d] after the bottleneck."""
        return torch.stack([self._head(i, z[:, i], *more) for i in range(len(self.members))], 1).float()

    def _in_units(self, read: Tensor) -> Tensor:
        return self.action_normalizer.inverse(read).clamp(self.low, self.high).mean(1)

    @torch.no_grad()
    def beyond_map(self, frames: Video, unit: int, task: str | Sequence[str] = "") -> Tensor:
        """Return what video says beyond the map of state changes, before it is weighted, [T, m]."""
        z = self.label_video(frames, self.config.span * unit).quantized
        with self.inference():
            z = as_tensor("latents", z).to(self.low)
            tasks = [task] * len(z) if isinstance(task, str) else task
            read = self._in_units(self._heads(z, self._known(tasks, None)))
            return smoothed(read, self.config.smooth * unit)

    @torch.no_grad()
    def weigh_video(self, said: Tensor, left: Tensor) -> tuple[float, float]:
        """Set the weight of video, of each number: least squares, from 0 to 1, on frames [N, m] of known episodes that
        did not teach, from what video `said` there and what the map `left` over. All are 0 unless that lowers the error
        by more than its standard error over `BLOCKS` stretches of time. Returns both errors, in deviations."""
        gain = ((said * left).sum(0) / said.square().sum(0).clamp_min(1e-12)).clamp(0, 1)
        squares = torch.stack([left.square(), (left - gain * said).square()]) / left.square().mean(0).clamp_min(1e-12)
        before, after = squares.mean(2)
        gains = torch.stack([part.mean() for part in (before - after).tensor_split(BLOCKS) if len(part)])
        helps = len(gains) > 1 and bool(gains.mean() > gains.std() / len(gains) ** 0.5)
        cast(Tensor, self.gain).copy_(gain if helps else torch.zeros_like(gain))
        return float(before.mean().sqrt()), float((after if helps else before).mean().sqrt())

    def _checked(self, states: Tensor | None) -> Tensor | None:
        """Return states [B, F, s] where the model reads any; refuse none, and others."""
        if self.state_key is None:
            return None
        if states is None:
            checks.fail("states", "the robot's state at every frame, since the model reads it", "none")
        checks.rank("states", states, "B F s")
        checks.size("states", "moments of a clip", states.shape[1], len(self.config.state_offsets))
        checks.size("states", "numbers", states.shape[2], self.config.state_dim)
        return states.to(self.low)

    def _added(self, actions: Tensor, around: Tensor | None) -> Tensor:
        """Return actions [B, m] from what was read of them, and states [B, F, s]."""
        config = self.config
        if around is None:
            return actions
        now = around[:, config.state_offsets.index(0)]
        if self.proprio_map is None or self.gain is None:
            return actions + values_at(now, config.anchors) if config.anchors else actions
        own = self.proprio_map
        both = own.added(around) + self.gain * actions
        both = torch.minimum(torch.maximum(both, own.low), own.high)
        return both + values_at(now, own.config.anchors) if own.config.anchors else both

    @torch.no_grad()
    def infer_actions(
        self,
        frames: Video,
        unit: Gap = None,
        task: str | Sequence[str] = "",
        states: Values | None = None,
        *,
        fps: float | None = None,
    ) -> InferredActions:
        """Turn video uint8 [T, V, H, W, 3] into actions [T, m]; `unit` is that of `unit_frames`, in frames or seconds
        (of a video at `fps`); left out: the model's own.

        `task` is an instruction, or T of them; `states` [T, s] the proprio of every frame, for a model that reads it.
        Arrays in, arrays out.
        """
        unit = checks.gap(unit, fps, self.config.stride)
        found = self.label_video(frames, self.config.span * unit)
        around = None
        if states is not None:
            series = checked_states(states, self.config.state_dim or None, len(found.latents))
            around = around_each(series, [offset * unit for offset in self.config.state_offsets])
        return self._decoded(found.latents, task, around, self.config.smooth * unit)

    def _head(self, number: int, z: Tensor, more: Tensor, more_back: Tensor) -> Tensor:
        head = self.members[number].head
        read = head(torch.cat([z, more.to(z)], -1))
        if number >= self.config.reversible:
            return read
        odd, even = z.chunk(2, -1)
        return (read + self._opposite(head(torch.cat([-odd, even, more_back.to(z)], -1)))) / 2

    def _known(self, tasks: Sequence[str], states: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is known besides frames, [B, numbers of task and proprio], of clips and of these backwards."""
        task = self.low.new_zeros(len(tasks), 0)
        if self.config.task_given:
            known = {name: place for place, name in enumerate(self.config.tasks)}
            places = torch.tensor([known.get(each, len(known)) for each in tasks], dtype=torch.long)
            one_hot = F.one_hot(places, len(known) + 1)[:, :-1]  # of another one nothing is said
            task = onto(one_hot.to(self.low.dtype), self.low.device)
        if self.state_normalizer is None:
            return task, task
        states = cast(Tensor, self._checked(states))
        changes = (state_changes(way, self.config.offsets) for way in (states, states.flip(1)))
        there, back = (torch.cat([task, self.state_normalizer(each).flatten(1)], 1) for each in changes)
        return there, back

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """Return the term "action", of samples whose actions are known, and the other terms, of all samples.

        Each member learns from every n-th sample. `batch.later` holds the frames of clips but the current one, in the
        order of `offsets`, and `batch.proprio` states [B, offsets * s]. Actions come without what is added to the
        output.
        """
        if not isinstance(batch, PolicyBatch) or batch.later is None:
            hint = "Call idm.infer_actions(video, unit) for actions."
            checks.fail("batch", "a PolicyBatch with the other frames of clips", type(batch).__name__, hint)
        if self.datasets:
            return self._learn_each(batch)
        device, count = self.low.device, len(self.members)
        batch = onto(batch, device)
        place, later, moments = self.config.offsets.index(0), cast(Tensor, batch.later), len(self.config.offsets)
        checks.size("later", "frames besides that of the moment", later.shape[1], moments - 1)
        clips = torch.cat([later[:, :place], batch.images[:, None], later[:, place:]], 1)  # in the order of the offsets
        target = self.action_normalizer(batch.actions)
        proprio = None if self.state_normalizer is None else batch.proprio
        states = None if proprio is None else proprio.unflatten(1, (moments, -1))
        (more, more_back), features = self._known(batch.texts, states), self.frame_features(clips)
        reads, backs, others, places = list[Tensor](), list[Tensor](), list[LossTerms](), self.config.places
        for number in range(min(count, len(clips))):
            own, member = slice(number, None, count), self.members[number]
            z, _, parts = member.narrow(upcast(self._encode(number, features[own])))
            others.append(dict(parts))
            reads.append(upcast(self._head(number, z, more[own], more_back[own])))
            if self.config.loss_reversal:
                z_back = member.narrow(upcast(self._encode(number, features[own].flip(1))), False).vectors
                backs.append(upcast(self._head(number, z_back, more_back[own], more[own])))
            if member.flow_head is not None:
                motion = losses.block_flow(torch.stack([clips[own, place], clips[own, -1]], 1))
                others[-1]["flow"] = losses.flow(of_own(member.flow_head(z), places, self.config.views), motion)
            if member.ahead is not None:
                now, later = (coarse(self.projections[number](features[own, i])) for i in (place, -1))
                others[-1]["forward"] = losses.flow(member.ahead(now, z, places), (later - now).detach())
        judged, kind = batch.judged[:, :1], self.config.action_loss
        read = _interleaved(reads)
        errors = action_loss(read[:, None], target[:, :1], judged, kind)
        reversal: LossTerms = {}
        if self.config.loss_reversal:
            shown, back = self.action_normalizer(self._opposite(batch.actions[:, :1])), _interleaved(backs)
            errors = (errors + action_loss(back[:, None], shown, judged, kind)) / 2
            other = self.action_normalizer(self._opposite(self.action_normalizer.inverse(read)))
            reversal = {"reversal": (other - back).index_select(1, self._reversed()).abs().mean()}
        means = {name: torch.stack([each[name] for each in others]).mean() for name in others[0]}
        return of_share({"action": errors}, batch.valid, batch.shares.acted) | reversal | means

    def _learn_each(self, batch: PolicyBatch) -> LossTerms:
        """Return the terms of a batch of several datasets: of each the mean over all samples."""
        if batch.source is None:
            checks.fail("batch", "the dataset of each sample (`source`)", "none")
        found = dict[str, list[Tensor]]()
        for place, name in enumerate(self.datasets):
            rows = (batch.source == place).nonzero().flatten()
            if len(rows):
                share = len(rows) / len(batch.source)
                terms = self.view(name)(_of_robot(batch, rows, self._robots[place], share))
                for term, value in terms.items():
                    found.setdefault(term, []).append(share * value)
        return {term: torch.stack(values).sum() for term, values in found.items()}

    def _opposite(self, actions: Tensor) -> Tensor:
        """Return the actions [..., m] of clips that are shown backwards, from those of the clips."""
        return actions * torch.ones_like(self.low).index_fill(0, self._reversed(), -1)

    def _reversed(self) -> Tensor:
        return onto(torch.tensor(self.config.reversed_dims), self.low.device)


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Return rows of every n-th sample, of n members, in the order of the samples."""
    count, total = len(parts), sum(len(part) for part in parts)
    rows = [row for number in range(count) for row in range(number, total, count)]  # as they lie one after the other
    places = sorted(range(total), key=rows.__getitem__)
    return torch.cat([*parts]).index_select(0, onto(torch.tensor(places), parts[0].device))


def _of_robot(batch: PolicyBatch, rows: Tensor, config: InverseDynamicsConfig, share: float) -> PolicyBatch:
    """Return samples `rows` [n] of a mixed batch as their dataset alone gives them: its cameras, its numbers."""
    places, later = list(config.places) or slice(None), cast(Tensor, batch.later)
    states, acted = len(config.offsets) * config.state_dim, batch.shares.acted
    return PolicyBatch(
        images=batch.images[rows][:, places],
        texts=[batch.texts[int(row)] for row in rows.tolist()],
        proprio=None if batch.proprio is None else batch.proprio[rows, :states],
        actions=batch.actions[rows, :, : config.action_dim],
        valid=batch.valid[rows],
        later=later[rows][:, :, places],
        known=None if batch.known is None else batch.known[rows, : config.action_dim],
        shares=Shares(acted=None if acted is None else share * acted),
    )


def record_of(name: str, trained_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a mixture as one dataset's; what the others gave came `earlier`."""
    mixed = list(trained_on.get("mixture", ()))
    own = next((entry for entry in mixed if entry.get("dataset") == name), {})
    rest = {key: value for key, value in trained_on.items() if key != "mixture"}
    others = [entry for entry in mixed if entry is not own] + list(trained_on.get("earlier", ()))
    return {**rest, **own, **({"earlier": others} if others else {})}

"""A kind of evidence: how far labels of successive frames are apart, beside those of any two frames of an episode."""

from dataclasses import dataclass

import torch

from lattok.evaluation import Evidence, register_evidence
from lattok.samples.frames import FrameReader
from lattok.types import LabelsVideo


@register_evidence("steadiness", of=(LabelsVideo,))
@dataclass(frozen=True)
class Steadiness(Evidence):
    """Steps of the latents [F, n], and differences of any two frames."""

    steps: torch.Tensor
    apart: torch.Tensor

    @classmethod
    def gather(cls, case):
        model, dataset = case.model, case.dataset
        chosen = [each for each in dataset.episodes if each.index in case.split.held_out]
        stride, steps, apart = model.stride_frames(dataset.fps), [], []
        for episode in chosen:
            frames = FrameReader(dataset, [episode], dataset.cameras, model.resize).all()
            latents = torch.as_tensor(model.label_video(frames, stride).latents).flatten(1)
            steps.append(latents.diff(dim=0))
            apart.append(latents - latents.flip(0))
        return cls(case, torch.cat(steps), torch.cat(apart))

    @property
    def provenance(self):
        return {"steps": len(self.steps)}

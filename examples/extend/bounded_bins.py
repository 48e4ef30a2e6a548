"""The coarsest uniform bins of which no error exceeds a bound."""

from dataclasses import dataclass, field

from lattok.action_vq import UniformBins
from lattok.action_vq.bins import UniformBinsConfig
from lattok.recipes import Recipe
from lattok.recipes.common import DataOptions
from lattok.recipes.run_folder import finish
from lattok.samples import ActionWindows


@dataclass(frozen=True)
class BoundOptions(DataOptions):
    """What is read, and the largest error allowed.

    Attributes:
        bound: largest error of an action, in its units
    """

    bound: float = 0.02


@dataclass(frozen=True)
class BoundedBinsRecipe(Recipe[UniformBins]):
    """Find the coarsest bins that keep a bound."""

    kind, presets, default_preset = "bounded-bins", {"default": {}}, "default"
    data: BoundOptions = field(default_factory=BoundOptions)
    model: UniformBinsConfig = field(default_factory=UniformBinsConfig)

    def train(self, resume=False, resume_command=""):
        out, sources = self.folder(resume), self.open()
        windows = ActionWindows(sources[0].dataset, self.model.horizon, self.data.action_key, self.data.episodes)
        chunks, valid = windows.all()
        with self.begin(resume, sources, resume_command=resume_command) as contents:
            for bits in range(1, 16):
                model = UniformBins.fit(chunks, valid, bins=2**bits, normalize="min_max")
                if abs(model.decode(model.encode(chunks)) - chunks).max() <= self.data.bound:
                    break
            model.trained_on = self.trained_on(sources, len(windows), contents)
            return finish({"": model}, out)[""]

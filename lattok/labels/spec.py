"""What latent labels are, as one value: annotation writes it, policies hold it, losses are built from it.

steps    an image model labelled every frame t with the P codes of the pair (t, t + stride): S = H steps
chunk    an action tokenizer labelled frame t with the tokens of the chunk that starts there: S tokens of one code
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from lattok.hub import parse_config
from lattok.types import ActionTokenizer, Labeller, VideoLabeller
from lattok.utils import checks

PARTS = ("codes", "embedding")  # of a label, in columns PREFIX.codes and PREFIX.embedding
SOURCES = {"steps": "video", "chunk": "actions"}  # target of a policy: what its labels were made from


@dataclass(frozen=True)
class LatentSpec:
    """Latent actions that supervise a policy. What is 0 is not there, or not known. JSON values only."""

    target: str = "steps"  # or "chunk"
    steps: int = 0  # S, of each sample; 0: one for each step of the policy, or tokens that vary in number
    codes: int = 0  # P of each step; 0: the model is continuous
    codebook_size: int = 0  # K
    vectors: int = 0  # E of each step; 0: not written, or those of a chunk are not one for each token
    latent_dim: int = 0  # d
    stride: int = 0  # frames between the two images of a pair
    horizon: int = 0  # steps of the chunk that was tokenized
    per_step: bool = False  # the tokens of a chunk are those of its steps, one for each
    prefix: str = "latent"  # of the columns

    def __post_init__(self) -> None:
        checks.one_of("target", self.target, SOURCES)
        checks.whole(steps=self.steps, codes=self.codes, codebook_size=self.codebook_size, vectors=self.vectors)
        checks.whole(latent_dim=self.latent_dim, horizon=self.horizon)
        checks.counts(0, checks.MOST_STRIDE, stride=self.stride)
        if not isinstance(self.prefix, str) or not self.prefix:
            checks.fail("prefix", "the beginning of the names of columns", repr(self.prefix))

    @property
    def source(self) -> str:
        """What the labels were made from: "video" or "actions"."""
        return SOURCES[self.target]

    @property
    def tokens(self) -> int:
        """Latent tokens of a step: its codes, or the vectors of a continuous model."""
        return self.codes or self.vectors or 1

    def has(self, part: str) -> bool:
        """Tell whether there are "codes" of a known codebook, or vectors ("embedding") of a known width."""
        return self.codes > 0 and self.codebook_size > 1 if part == "codes" else self.vectors * self.latent_dim > 0

    def column(self, part: str) -> str:
        """Return the name of the column that holds "codes", "embedding" or "valid"."""
        return f"{self.prefix}.{part}"

    def widths(self) -> dict[str, int]:
        """Count the numbers in a row of each column that is there."""
        rows = self.steps if self.target == "chunk" else 1
        widths = {"codes": rows * self.codes, "embedding": rows * self.vectors * self.latent_dim, "valid": 1}
        return {part: width for part, width in widths.items() if width}

    def to_json(self) -> dict[str, Any]:
        """Return the spec as it stands in meta/lattok.json, under its prefix."""
        return {name: value for name, value in asdict(self).items() if name != "prefix"}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], prefix: str, where: str) -> LatentSpec:
        """Return the spec that `to_json` wrote; errors say `where` it stood."""
        if "target" not in facts:
            checks.fail(where, "`target`, steps or chunk", "none", "Annotate again.")
        return parse_config(cls, {**facts, "prefix": prefix}, where)


def spec_of(model: Labeller, prefix: str, codes: int, vectors: int, latent_dim: int, stride: int = 0) -> LatentSpec:
    """What the labels of a model are, from the rows that it gives: so many codes, and vectors of `latent_dim` numbers.

    The tokens of a chunk are steps of one code; they have vectors where there is one for each of them.
    """
    if model.label_source == "video":
        size = cast(VideoLabeller, model).codebook_size if codes else None
        return LatentSpec("steps", 0, codes, size or 0, vectors, latent_dim, stride, prefix=prefix)
    tokenizer = cast(ActionTokenizer, model)
    size, own = tokenizer.vocab_size if codes else 0, codes == vectors > 0
    return LatentSpec(
        "chunk",
        steps=codes if tokenizer.fixed_length else 0,
        codes=min(codes, 1),
        codebook_size=size,
        vectors=int(own),
        latent_dim=latent_dim if own else 0,
        horizon=tokenizer.horizon,
        per_step=tokenizer.per_step,
        prefix=prefix,
    )

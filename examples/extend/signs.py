"""Signs of actions: one bit for each step and dimension."""

from dataclasses import dataclass

from lattok.action_vq.base import ChunkConfig, ChunkTokenizer, Repair
from lattok.action_vq.chunks import examine


@dataclass(frozen=True)
class SignsConfig(ChunkConfig):
    size: float = 1.0  # of a decoded action, in standard deviations


class Signs(ChunkTokenizer):
    """Which way each dimension goes: whether an action is above its mean."""

    type = "signs"
    config_class = SignsConfig
    config: SignsConfig
    vocab_size = 2

    @property
    def tokens_per_chunk(self) -> int:
        return self.horizon * self.config.action_dim

    def _encode(self, actions, valid=None):
        return (actions > 0).long().flatten(1)

    def _decode(self, codes):
        return (2.0 * codes - 1).view(-1, self.horizon, self.config.action_dim) * self.config.size

    def _repair(self, codes):  # whatever came in: codes that decode, what was missing, a note for each row
        codes, bad, notes = examine(codes, self.tokens_per_chunk, self.vocab_size)
        return Repair(codes.clamp(0, 1), bad.view(-1, self.horizon, self.config.action_dim), notes)

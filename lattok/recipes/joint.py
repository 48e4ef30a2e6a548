"""What recipes share that train a policy with a latent action model: both see the same frames."""

from lattok.data.schema import short_name
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.clips import ClipLAMConfig
from lattok.types import VideoLabeller
from lattok.utils import checks
from lattok.vla import VLAConfig


def check_head(kind: str, head: str) -> None:
    """Refuse a head of tokens, which only `lattok train vla` trains."""
    if head == "tokens":
        hint = "Policies of lattok train vla act by tokens."
        checks.fail("head", f"regression or flow in lattok train {kind}", head, hint)


def views_of(config: VLAConfig, lam: VideoLabeller) -> list[int]:
    """Find the latent action model's cameras among the policy's, by name; of one each they are the same."""
    names, wanted = [short_name(key) for key in config.cameras], [short_name(key) for key in lam.cameras]
    if len(names) == len(wanted) == 1:
        return [0]
    if not set(wanted) <= set(names):
        expected = f"those of the latent action model ({', '.join(wanted)}) among them"
        checks.fail("cameras", expected, ", ".join(names) or "none")
    return [names.index(name) for name in wanted]


def check_frames(config: VLAConfig, lam: TrainedPairConfig | ClipLAMConfig) -> None:
    """Require that both models see frames of one size, resized in one way: they are read once."""
    ours, theirs = (f"{each.image_size} pixels, {each.interpolation}" for each in (config, lam))
    if ours != theirs:
        hint = f"Set image_size={lam.image_size}, interpolation={lam.interpolation}."
        checks.fail("image_size", f"{theirs}, as the latent action model sees frames", ours, hint)

"""What a policy's card and its `repr` say of it."""

from lattok.hub.records import quoted
from lattok.utils import checks
from lattok.vla.config import VLAConfig


def summary(config: VLAConfig) -> str:
    """Say in a line what a policy predicts from what."""
    what = ", ".join(config.action_names or map(str, range(config.action_dim)))
    sees = (*config.cameras, config.state_key) if config.proprio_dim else config.cameras
    return f"{config.strategy.name}: {checks.counted(config.horizon, 'action')} of {what}, from {', '.join(sees)}"


def usage(config: VLAConfig) -> list[str]:
    """Return lines of code for the card: how to act, or how to train a policy further that cannot act yet."""
    next_step = config.strategy.next_step
    if not config.strategy.acts:
        said = "# It predicts latent actions and has not learned to act yet."
        return ["", f"{said} Train it further:", f"# {next_step}"] if next_step else ["", said]
    sizes = zip(config.cameras, config.camera_sizes, strict=True)
    shown = [f"    {quoted(key)}: torch.zeros(1, 3, {h}, {w}),  # yours: RGB from 0 to 1" for key, (h, w) in sizes]
    if config.proprio_dim:
        shown.append(f"    {quoted(config.state_key)}: torch.zeros(1, {config.proprio_dim}),")
    observation = ["observation = {", *shown, '    "task": ["what the robot shall do"],', "}"]
    act = "actions = model.predict_chunk(observation)  # [B, H, m], in the units of its dataset"
    return ["", "import torch", "", *observation, act]

"""What objects answer when somebody asks for a name that they do not have: which of their own names is meant.

Names of other libraries are proposed only where the object has what stands beside them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lattok.utils.checks import did_you_mean

# What transformers, scikit-learn, LeRobot and pandas call it: the first that the object has is meant
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    # models
    "predict": ("select_action", "infer_actions", "encode"),
    "act": ("select_action",),
    "get_action": ("select_action",),
    "predict_action_chunk": ("predict_chunk",),
    "generate": ("predict_chunk",),
    "label": ("label_video",),
    "encode_video": ("label_video",),
    "predict_actions": ("predict_chunk", "infer_actions"),
    "transform": ("encode",),
    "tokenize": ("encode",),
    "embed": ("encode",),
    "inverse_transform": ("decode",),
    "detokenize": ("decode",),
    "batch_decode": ("decode",),
    "save": ("save_pretrained", "to_parquet"),
    "save_model": ("save_pretrained",),
    "load_from_checkpoint": ("from_pretrained",),
    "upload": ("push_to_hub",),
    "count_parameters": ("num_parameters",),
    # latent actions, and reports
    "tokens": ("codes",),
    "input_ids": ("codes",),
    "shape": ("codes",),
    "numpy": ("codes",),
    "embeddings": ("latents",),
    "embedding": ("latents",),
    "mask": ("valid",),
    "timestamps": ("times",),
    "to_csv": ("to_pandas",),
    "metrics": ("figures", "evaluation"),
    "scores": ("figures",),
    "results": ("figures",),
    "to_dict": ("summary",),
    # datasets
    "get_images": ("frames",),
    "images": ("frames",),
    "videos": ("frames",),
    "states": ("columns",),
    "hf_dataset": ("columns",),
    "column_names": ("features",),
    "keys": ("features",),
    "camera_keys": ("cameras",),
    "video_keys": ("cameras",),
    "to_pandas": ("columns",),
    "meta": ("statistics",),
    "stats": ("statistics",),
    "repo_id": ("address",),
    "total_episodes": ("num_episodes",),
    "total_frames": ("num_frames",),
    "instructions": ("tasks",),
}
FUNCTIONS = ("annotate", "compare", "evaluate")  # of lattok, for what other libraries have methods
DRAWN = ("plot", "show", "figure", "draw", "to_html")
MADE = ("fit", "finetune", "train_model")


class Suggests:
    """An object that answers an unknown name with the one that is meant.

    `drawn_by` says how it becomes a picture.
    """

    drawn_by = ""

    if not TYPE_CHECKING:  # a checker would take every name for one that exists

        def __getattr__(self, name: str) -> Any:
            if name in dir(type(self)):  # a property that failed for want of another name says so itself
                return object.__getattribute__(self, name)
            raise AttributeError(unknown(self, name))


def unknown(owner: object, name: str) -> str:
    """Return what is said of a name that an object does not have."""
    said = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if name.startswith("_"):
        return said
    return f"{said}. {_meant(owner, name)}".removesuffix(". ")


def _meant(owner: Any, name: str) -> str:
    own = _names(owner)
    for each in ELSEWHERE.get(name, ()):
        if each in own:
            return f"Did you mean {each}?"
    if name in FUNCTIONS:
        return f"Did you mean lattok.{name}?"
    if name in DRAWN and "drawn_by" in own:
        return owner.drawn_by
    if name in MADE and "how_made" in own:
        return owner.how_made()
    if hasattr(vars(owner).get("config"), name):
        return f"Did you mean config.{name}?"
    return did_you_mean(name, sorted(own))


def _names(owner: object) -> set[str]:
    """Return the public names of an object, without those that torch and Python give it."""
    found = {*vars(owner)}
    for each in type(owner).__mro__:
        if each.__module__.partition(".")[0] not in ("torch", "builtins", "abc", "typing"):
            found |= {*vars(each), *vars(each).get("__annotations__", ())}
    return {name for name in found if not name.startswith("_")}

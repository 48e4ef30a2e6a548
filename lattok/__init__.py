"""Latent-action tokenizers for robot learning. Names load lazily, so that `import lattok` stays light."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lattok.version import __version__ as __version__

if TYPE_CHECKING:
    from lattok import convert as convert
    from lattok.action_vq import BEAST as BEAST
    from lattok.action_vq import FAST as FAST
    from lattok.action_vq import FSQ as FSQ
    from lattok.action_vq import OAT as OAT
    from lattok.action_vq import TOAST as TOAST
    from lattok.action_vq import P2TActionVQ as P2TActionVQ
    from lattok.action_vq import QueST as QueST
    from lattok.action_vq import ResidualVQ as ResidualVQ
    from lattok.action_vq import UniformBins as UniformBins
    from lattok.action_vq import VQBeT as VQBeT
    from lattok.annotation import annotate as annotate
    from lattok.annotation import hide as hide
    from lattok.annotation import verify as verify
    from lattok.annotation.importing import import_labels as import_labels
    from lattok.data import export as export
    from lattok.data import open_dataset as open_dataset
    from lattok.data import repair as repair
    from lattok.data import sample_dataset_path as sample_dataset_path
    from lattok.evaluation import compare as compare
    from lattok.evaluation import compare_rollouts as compare_rollouts
    from lattok.evaluation import evaluate as evaluate
    from lattok.image_lam import ImageLAM as ImageLAM
    from lattok.image_lam import MotoLAM as MotoLAM
    from lattok.image_lam.clips import ClipLAM as ClipLAM
    from lattok.image_lam.inverse import InverseDynamics as InverseDynamics
    from lattok.image_lam.inverse import ProprioMap as ProprioMap
    from lattok.inference import for_inference as for_inference
    from lattok.labels import push_dataset as push_dataset
    from lattok.loading import list_families as list_families
    from lattok.loading import list_models as list_models
    from lattok.loading import load as load
    from lattok.recipes import ActionVQRecipe as ActionVQRecipe
    from lattok.recipes import ClipLAMRecipe as ClipLAMRecipe
    from lattok.recipes import ImageLAMRecipe as ImageLAMRecipe
    from lattok.recipes import InverseDynamicsRecipe as InverseDynamicsRecipe
    from lattok.recipes import LARARecipe as LARARecipe
    from lattok.recipes import LatBotRecipe as LatBotRecipe
    from lattok.recipes import MotoLAMRecipe as MotoLAMRecipe
    from lattok.recipes import VLARecipe as VLARecipe
    from lattok.recipes import recipe_for as recipe_for
    from lattok.recipes import train as train
    from lattok.utils.checks import LattokError as LattokError
    from lattok.vla import LatentVLA as LatentVLA

_PLACES = {  # where the names above live; a test compares the two lists
    "lattok.action_vq": "BEAST FAST FSQ OAT TOAST P2TActionVQ QueST ResidualVQ UniformBins VQBeT",
    "lattok.annotation": "annotate hide verify",
    "lattok.annotation.importing": "import_labels",
    "lattok.data": "export open_dataset repair sample_dataset_path",
    "lattok.evaluation": "compare compare_rollouts evaluate",
    "lattok.image_lam": "ImageLAM MotoLAM",
    "lattok.image_lam.clips": "ClipLAM",
    "lattok.image_lam.inverse": "InverseDynamics ProprioMap",
    "lattok.inference": "for_inference",
    "lattok.labels": "push_dataset",
    "lattok.loading": "list_families list_models load",
    "lattok.recipes": "ActionVQRecipe ClipLAMRecipe ImageLAMRecipe InverseDynamicsRecipe LARARecipe LatBotRecipe "
    "MotoLAMRecipe VLARecipe recipe_for train",
    "lattok.utils.checks": "LattokError",
    "lattok.vla": "LatentVLA",
}
HOMES = {name: home for home, names in _PLACES.items() for name in names.split()}
# what timm, transformers and LeRobot call the same
ELSEWHERE = {"AutoModel": "load", "AutoTokenizer": "load", "AutoProcessor": "load", "pipeline": "load"}
ELSEWHERE |= {
    "create_model": "load",
    "create": "load",
    "from_pretrained": "load",
    "make_policy": "load",
    "PreTrainedModel": "load",
}
ELSEWHERE |= {"LeRobotDataset": "open_dataset", "make_dataset": "open_dataset", "Dataset": "open_dataset"}
ELSEWHERE |= {
    "Trainer": "train",
    "PreTrainedTokenizer": "load",
    "label": "load(MODEL).label_video",
    "info": "list_models",
}
ELSEWHERE |= {"inspect": "data.inspect_dataset", "inspect_dataset": "data.inspect_dataset"}
MODULES = ("convert", "data", "labels", "sim", "vla")  # used as they are: lattok.convert.p2t_action_vq(...)


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"lattok.{name}")
    if name == "__all__":
        return ["__version__", "convert", *HOMES]
    if name not in HOMES:
        from lattok.utils.checks import did_you_mean

        known = f"Did you mean {ELSEWHERE[name]}?" if name in ELSEWHERE else did_you_mean(name, HOMES)
        hint = "" if name.startswith("_") else known
        raise AttributeError(f"module 'lattok' has no attribute {name!r}" + (f". {hint}" if hint else ""))
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__getattr__("__all__"))

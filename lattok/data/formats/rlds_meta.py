"""What TFDS has next to the records of an RLDS dataset: dataset_info.json (splits, shards) and features.json."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lattok.data.formats.array_pictures import LEAST_SIDE
from lattok.data.schema import INDEX_KEYS, Feature
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.untrusted import safe_path

LATTOK = "lattok.json"  # what RLDS has no place for, where lattok wrote the dataset
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
WHOLE_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REALS = ("float16", "bfloat16", "float32", "float64")
TEXTS = ("string", "object", "str")  # how versions of TFDS call text
KEYS = {"reward": "next.reward"}  # LeRobot's name for what an action brings
SPELLED = 32  # numbers, at least, of an instruction that is spelled in numbers
LANGUAGE = ("language_instruction", "natural_language_instruction", "instruction")
INSTRUCTION = LANGUAGE[0]  # where lattok writes it
PLAIN = {"text": ("string", ()), "classLabel": ("int64", ()), "boundingBox": ("float32", (4,))}
ENCODINGS = ("bytes", "zlib")  # of tensors whose bytes are stored
MARKS = ("is_first", "is_last", "is_terminal")
CLASSES = "tensorflow_datasets.core.features."
MAX_SHARDS = 99_999  # their numbers have five digits
MAX_AXES, MAX_VALUES_PER_STEP = 8, 2**27  # of a feature in one step: more than the largest picture
_SHOWN = 5  # missing files that an error lists

# Control rates in Hz from the overview table of Open X-Embodiment, without the ending _converted_externally_to_rlds,
# and LIBERO's 20. RLDS itself has no place for them.
RATES = (
    (1, "robo_net uiuc_d3field"),
    (2, "ucsd_kitchen_dataset"),
    (3, "fractal20220817_data nyu_door_opening_surprising_effectiveness nyu_rot_dataset nyu_franka_play_dataset"),
    (3, "ucsd_pick_and_place_dataset berkeley_gnm_recon"),
    (5, "bridge bridge_dataset bridge_orig berkeley_autolab_ur5 robo_set berkeley_mvp dlr_edan_shared_control"),
    (5, "stanford_robocook cmu_play_fusion berkeley_gnm_cory_hall"),
    (10, "kuka jaco_play berkeley_cable_routing roboturk language_table columbia_cairlab_pusht_real"),
    (10, "stanford_hydra_dataset furniture_bench_dataset cmu_franka_exploration_dataset bc_z kaist_nonprehensile"),
    (10, "utokyo_pr2_opening_fridge utokyo_pr2_tabletop_manipulation utokyo_xarm_pick_and_place"),
    (10, "utokyo_xarm_bimanual tokyo_u_lsmo dlr_sara_pour dlr_sara_grid_clamp imperialcollege_sawyer_wrist_cam"),
    (10, "berkeley_fanuc_manipulation cmu_playing_with_food cmu_stretch berkeley_gnm_sac_son fmb usc_cloth_sim"),
    (12.5, "asu_table_top"),
    (15, "taco_play droid droid_100"),
    (20, "viola stanford_kuka_multimodal_dataset austin_buds_dataset austin_sailor_dataset austin_sirius_dataset"),
    (20, "maniskill_dataset iamlab_cmu_pickup_insert utaustin_mutex plex_robosuite"),
    (20, "libero_spatial_no_noops libero_object_no_noops libero_goal_no_noops libero_10_no_noops libero_90_no_noops"),
    (30, "toto berkeley_rpt conq_hose_manipulation"),
)


class Field(NamedTuple):
    """A feature of the steps, or a text of the episode: its name in the records and what becomes of it here."""

    path: str  # "steps/observation/image_0"
    key: str  # "observation.images.image_0"
    dtype: str  # as in `Feature`
    shape: tuple[int, ...]  # of one step, () for scalars; height and width of an image may be 0: not said
    raw: str = ""  # type of numbers whose bytes the records hold, or of pixels that no JPEG or PNG holds
    encoding: str = ""  # of these bytes: "bytes" or "zlib"; "" where each number is stored by itself

    @property
    def stored(self) -> str:
        """What the records hold: bytes, float or int64."""
        if self.raw:
            return "bytes" if self.encoding else "int64"
        return "int64" if self.dtype in WHOLE_NUMBERS else "float" if self.dtype in REALS else "bytes"

    @property
    def per_step(self) -> int:
        """Values in the records for one step."""
        return 1 if self.stored == "bytes" else math.prod(self.shape)


def control_rate(name: str) -> float | None:
    """Look up the frames per second of a published dataset, None for others."""
    name = name.removesuffix("_converted_externally_to_rlds")
    return next((float(rate) for rate, names in RATES if name in names.split()), None)


def read_info(root: Path) -> dict[str, Any]:
    """Read dataset_info.json, which must have `name` and `splits`."""
    path = root / "dataset_info.json"
    if not path.exists():
        raise LattokError(f"{root} is no RLDS dataset: it has no {path.name}. Give the folder that holds it.")
    info = read_json(safe_path(root, path, str(path)))
    listed = info.get("splits")
    splits = listed if isinstance(listed, list) else [None]
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in (info, *splits)):
        raise LattokError(f"{path}: expected `name` and `splits` as TFDS writes them. Copy the dataset again.")
    if (form := info.get("fileFormat", "tfrecord")) != "tfrecord":
        checks.refuse(path, "the file format tfrecord", f"{form!r:.60}", "Write it with TFDS as tfrecord.")
    return info


def read_shards(root: Path, info: dict[str, Any], split: str) -> list[tuple[Path, int]]:
    """Return the files of a split, all of which must be there, and how many records the dataset says each holds."""
    splits = {entry["name"]: entry for entry in info["splits"]}
    if not isinstance(split, str) or split not in splits:
        checks.fail("split", f"one of {', '.join(splits)[:300] or '(no splits)'} of {root}", repr(split))
    path = root / "dataset_info.json"
    counts = splits[split].get("shardLengths")
    if not isinstance(counts, list) or not counts or not all(re.fullmatch(r"\d{1,12}", str(n)) for n in counts):
        raise LattokError(f"{path}: split `{split}` has no `shardLengths`. Copy the dataset again.")
    if len(counts) > MAX_SHARDS:
        raise LattokError(f"{path}: expected at most {MAX_SHARDS:,} files in split `{split}`, got {len(counts):,}.")
    template = splits[split].get("filepathTemplate") or TEMPLATE
    names = [file_name(path, template, info["name"], split, number, len(counts)) for number in range(len(counts))]
    shards = [(root / name, int(count)) for name, count in zip(names, counts, strict=True) if int(count)]
    there = set(os.listdir(root))  # of many shards few may be there
    paths = [path for path, _ in shards]
    if missing := [p.name for p in paths if p.name not in there or not safe_path(root, p, str(p)).is_file()]:
        shown = ", ".join(name[:100] for name in missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        others = [name for name in splits if name != split]
        hint = f" Other splits: {', '.join(others)}." if others and len(missing) == len(counts) else ""
        files = checks.counted(len(counts), f"file of split `{split}` is", f"files of split `{split}` are")
        what = f"{len(missing)} of {files} missing: {shown}"
        raise LattokError(f"{root}: {what}. Copy them from where the dataset comes from.{hint}")
    return shards


def file_name(path: Path, template: Any, dataset: str, split: str, number: int, count: int) -> str:
    """Return the name of a file of a split by the template that `path` gives."""
    values = {"DATASET": dataset, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": f"{number:05d}"}
    values |= {"NUM_SHARDS": f"{count:05d}", "SHARD_X_OF_Y": f"{number:05d}-of-{count:05d}"}
    with suppress(KeyError, TypeError):
        name = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)
        if name and not set("/\\\0{}") & set(name) and (count == 1 or "{SHARD" in template):
            return name
    raise LattokError(f"{path}: expected a `filepathTemplate` such as {TEMPLATE}, got {str(template)[:60]!r}.")


def read_layout(root: Path) -> tuple[tuple[Field, ...], tuple[str, ...], dict[str, str]]:
    """Read features.json as TFDS (4.6 and later) writes it: nested features with their Python class. Returns the steps'
    features, and by name in the records the instructions, the best first, and what is left out, with the reason."""
    path = root / "features.json"
    top = _part(read_json(safe_path(root, path, str(path))), "featuresDict")
    inner = _part(top, "features", "steps", "sequence", "feature")
    if not isinstance(_part(inner, "featuresDict", "features"), dict):
        others = "Other datasets of TFDS hold no episodes; features.json from TFDS before 4.6 must be written again."
        raise LattokError(f"{path}: expected a FeaturesDict with the sequence `steps`, as RLDS has it. {others}")
    fields: dict[str, Field] = {}
    left_out: dict[str, str] = {}
    spelled: list[str] = []
    for name, node in _leaves(inner, "steps"):
        field = _field(path, name, node)
        if isinstance(field, Field) and _is_spelled(name, field):
            spelled.append(name)
            left_out[name] = "the instruction, a number for each character"
        elif isinstance(field, str) or field.key in fields or field.key in INDEX_KEYS:
            left_out[name] = field if isinstance(field, str) else f"its key {field.key} is taken"
        else:
            fields[field.key] = field
    texts = [*spelled, *(field.path for field in fields.values() if field.dtype == "string")]
    for name, node in _leaves({"featuresDict": top}, ""):
        field = None if name == "steps" else _field(path, name, node)
        if isinstance(field, Field) and field.dtype == "string":
            texts.append(name)
        if field is not None and not _rank(name):
            left_out[name] = "one value for the whole episode"
    ordered = tuple(fields[key] for key in sorted(fields))  # the order in the file is by chance
    return ordered, tuple(sorted(filter(_rank, texts), key=_rank)), dict(sorted(left_out.items()))


def _is_spelled(name: str, field: Field) -> bool:
    """Return whether an instruction has a number for each character, filled up with 0, as language_table's has."""
    return bool(_rank(name)) and field.dtype in WHOLE_NUMBERS and len(field.shape) == 1 and field.shape[0] >= SPELLED


def _rank(name: str) -> int:
    """Rank an instruction among others (language_instruction_2 comes after all unnumbered ones), 0 for others."""
    match = re.fullmatch(r"(?:.*/)?([a-z_]+?)(?:_(\d))?", name)
    if match is None or match[1] not in LANGUAGE:
        return 0
    return 1 + LANGUAGE.index(match[1]) + len(LANGUAGE) * int(match[2] or 0)


def _part(node: Any, *names: str) -> Any:
    """Return what nested JSON objects hold, by names in camelCase or in snake_case; None where there is nothing."""
    for name in names:
        snake = re.sub("[A-Z]", lambda match: "_" + match[0].lower(), name)
        node = node.get(name, node.get(snake)) if isinstance(node, dict) else None
    return node


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield features that hold values, with their names in the records."""
    children = _part(node, "featuresDict", "features")
    if not isinstance(children, dict):
        yield path, node
        return
    for name, child in children.items():
        yield from _leaves(child, f"{path}/{name}" if path else name)


def _field(file: Path, path: str, node: Any) -> Field | str:
    """Return what becomes of a feature, or why it is left out."""
    key = ".".join(path.split("/")[1:])
    key = KEYS.get(key, key)
    for kind, (dtype, shape) in PLAIN.items():
        if _part(node, kind) is not None:
            return Field(path, key, dtype, shape)
    if (image := _part(node, "image")) is not None:
        return _image(file, path, image)
    if (tensor := _part(node, "tensor")) is not None:
        return _tensor(file, path, key, tensor)
    if _part(node, "sequence") is not None:
        return "a sequence of its own in every step (ragged)"
    return f"features of the kind {str(_part(node, 'pythonClassName')).rsplit('.', 1)[-1]} are not read"


def _tensor(file: Path, path: str, key: str, tensor: Any) -> Field | str:
    dtype, encoding, shape = _part(tensor, "dtype"), _part(tensor, "encoding"), _shape(file, path, tensor)
    encoding = "" if encoding in (None, "none") else encoding
    if encoding not in ("", *ENCODINGS):
        return f"its encoding is {encoding}"
    if dtype in TEXTS:
        return Field(path, key, "string", ()) if not shape else "an array of text"
    if dtype not in WHOLE_NUMBERS + REALS or (encoding and dtype == "bfloat16"):
        return f"its type is {dtype}"
    if 0 in shape:
        return "its shape is not fixed"
    if dtype == "uint8" and len(shape) == 3 and shape[2] == 3 and min(shape[:2]) >= LEAST_SIDE:
        return Field(path, camera_key(path), "image", shape, dtype, encoding)
    return Field(path, key, dtype, shape, dtype if encoding else "", encoding)


def _image(file: Path, path: str, image: Any) -> Field | str:
    shape, dtype, encoding = _shape(file, path, image), _part(image, "dtype"), _part(image, "encodingFormat")
    if dtype not in (None, "", "uint8") or len(shape) != 3 or shape[2] != 3:
        return f"an image of {dtype or 'uint8'} {list(shape)}, not RGB"
    if encoding not in (None, "", "jpeg", "png"):
        return f"its image format is {encoding}"
    return Field(path, camera_key(path), "image", shape)


def camera_key(path: str) -> str:
    """Return the key of the camera whose pictures are at `path` of a record."""
    names = path.removeprefix("steps/").removeprefix("observation/").split("/")
    return ".".join(("observation", "images", *names))


def _shape(file: Path, path: str, node: Any) -> tuple[int, ...]:
    """Read the sizes of a feature; 0 where TFDS writes -1: it may be different in every record."""
    sizes = _part(node, "shape", "dimensions") or []
    fit = isinstance(sizes, list) and len(sizes) <= MAX_AXES
    fit = fit and all(re.fullmatch(r"-1|\d{1,9}", str(size)) for size in sizes)
    if not fit or math.prod(max(1, int(size)) for size in sizes) > MAX_VALUES_PER_STEP:
        raise LattokError(f"{file}: `{path}`: expected a shape, got {str(sizes)[:60]!r}. Copy the dataset again.")
    return tuple(max(0, int(size)) for size in sizes)


def record_names(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return where each feature is in a step, such as "observation/state"; `RLDS` reads it back under its own key."""
    theirs = {own: name for name, own in KEYS.items()}
    dotted: dict[str, str] = {}
    for key in sorted(features, key=lambda key: features[key].dtype == "image"):
        name = theirs.get(key, key).replace("/", "_")
        if features[key].dtype == "image":
            name = f"observation.{name.removeprefix('observation.').removeprefix('images.')}"
            while name in dotted.values():  # a camera and a column of one name, or two cameras
                name += "_image"
        dotted[key] = name
    found: dict[str, str] = {}
    for key, name in dotted.items():
        parts = name.split(".")
        leaf = next((i for i in range(1, len(parts)) if ".".join(parts[:i]) in dotted.values()), len(parts))
        path = "/".join([*parts[: leaf - 1], "_".join(parts[leaf - 1 :])])  # below no other feature
        if path in found.values():
            checks.fail("features", f"different names in RLDS, not {path!r} twice", f"{key!r} and another")
        found[key] = path
    return found


def described(features: Mapping[str, Feature], names: Mapping[str, str]) -> dict[str, Any]:
    """Return features.json."""
    flag, text = _described(Feature("bool", (1,), None)), _node("text_feature.Text", text={})
    tree: dict[str, Any] = {**dict.fromkeys(MARKS, flag), INSTRUCTION: text}
    for key, feature in features.items():
        *folders, leaf = names[key].split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = text if feature.dtype == "string" else _described(feature)
    return _dict({"steps": _node("dataset_feature.Dataset", sequence={"feature": _dict(tree), "length": "-1"})})


def _dict(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: node if "pythonClassName" in node else _dict(node) for name, node in tree.items()}
    return _node("features_dict.FeaturesDict", featuresDict={"features": inner})


def _described(feature: Feature) -> dict[str, Any]:
    scalar = feature.shape in ((), (1,))
    shape = {} if scalar else {"dimensions": [str(size) for size in feature.shape]}
    if feature.dtype == "image":
        image = {"shape": shape, "dtype": "uint8", "encodingFormat": "png"}
        return _node("image_feature.Image", image=image)  # or JPEG: readers look
    tensor = {"shape": shape, "dtype": feature.dtype, "encoding": "none"}
    return _node("scalar.Scalar" if scalar else "tensor_feature.Tensor", tensor=tensor)


def _node(kind: str, **content: Any) -> dict[str, Any]:
    return {"pythonClassName": CLASSES + kind, **content}

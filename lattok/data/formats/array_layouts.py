"""Where recordings keep what: a table of the layouts that people write HDF5 files, zarr stores and npz files in.

A layout says where the episodes of a file are and which array is which column. One that is not in the table is
described in a description file, with the same words:

    {"dataset": "recordings", "fps": 30, "layout": {
        "episodes": "run_*",
        "columns": {"cmd/joints": "action", "arm/q": "observation.state", "rgb/*": "observation.images.*"},
        "instruction": ["@task"]}}
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple

from lattok.utils import checks
from lattok.utils.untrusted import is_file_name

EMPTY: Mapping[str, Any] = MappingProxyType({})
SIMULATOR = "the simulator's own state"
LAST_ACTION = "the action before this one: a policy that sees it copies it"
CAMERA_FACTS = "a fact about a camera"
OBJECTS = "which object a pixel shows"
ENDS = "where episodes end"
DESCRIBED = "layout"  # the name of those that users describe
ALL_EPISODES = "[]"  # instead of groups, where arrays are of all episodes
# arrays that say where episodes end: steps so far, steps of each, where each begins, the episode of each step, flags
SO_FAR = ("episode_ends", "ep_ends", "traj_ends", "trajectory_ends")
EACH_LENGTH = ("episode_lengths", "episode_lens", "ep_len", "ep_lens", "ep_lengths")
EACH_LENGTH += ("traj_lengths", "traj_lens", "trajectory_lengths")
FIRST_STEPS = ("is_first", "episode_starts", "episode_start", "ep_starts", "traj_starts")
EPISODES = ("episode", "ep", "traj", "trajectory", "demo", "demonstration", "rollout", "trial")
PLACES = ("scene", "run", "session", "recording", "sequence", "seq", "clip")  # that no episode leaves
NUMBER_WORDS = ("index", "idx", "id", "ids", "num", "number", "token", "name")
EACH_NUMBER = tuple(f"{thing}_{word}" for thing in EPISODES for word in NUMBER_WORDS)
BARE_NUMBER = tuple(f"{thing}{end}" for thing in EPISODES for end in ("", "s"))  # which may also be something else
EACH_PLACE = tuple(f"{thing}{end}" for thing in PLACES for end in ("", "s", *(f"_{word}" for word in NUMBER_WORDS)))
LAST_STEPS = ("terminals", "terminal", "terminations", "terminated", "dones", "done", "is_last", "step_type")
LAST_STEPS += ("episode_end", "is_episode_end")
CUT_STEPS = ("timeouts", "timeout", "truncations", "truncated")
NOT_LAST = ("not_done", "not_dones", "nonterminal", "nonterminals")
# that count the steps of each episode from its first on
COUNTERS = ("step", "steps", "timestep", "timesteps", "time_step", "step_idx", "step_index", "step_id", "t")
COUNTERS += ("frame_index", "frame_idx", "frame_id", "elapsed_steps", "timestamp", "timestamps")
PLAIN_ENDS = (*SO_FAR, *EACH_LENGTH, *FIRST_STEPS, *EACH_NUMBER, *LAST_STEPS, *CUT_STEPS, *NOT_LAST)
TOLD_ENDS = (*PLAIN_ENDS, *BARE_NUMBER, *EACH_PLACE, *COUNTERS)
TEXTS = ("language_instruction", "instruction", "language", "lang", "task_description")
RATES = ("@fps", "@frame_rate", "@control_freq", "@control_frequency", "@hz")  # sources that people add of the rate
SAID = (*(f"@{name}" for name in TEXTS), *TEXTS)  # sources of the instruction that people add to any layout
ALOHA_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
ALOHA = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ALOHA_ARM)
POSE = ("x", "y", "z", "rx", "ry", "rz")
# what `observation.state` is made of where no array has that name, with the names of dimensions; a gripper has as many
# as it has: LIBERO's parts, and robosuite's, after the name of a robot or of its arm
STATES = (
    ("", ("ee_pos", "ee_ori", "gripper_states"), (POSE[:3], POSE[3:])),
    (r"robot\d+_((right|left)_)?", ("eef_pos", "eef_quat", "gripper_qpos"), (POSE[:3], (*POSE[3:], "rw"))),
)


class Layout(NamedTuple):
    """Where the episodes of a file are, and which array is which column.

    Paths lead from an episode's group downwards; `*` stands for any part of them, "/" included, and for the same part
    of the column's name, with "." for "/". Of several paths that match the longest counts. A text is the first of its
    sources that holds one: `@name` is an attribute of the episode or of a group above it (`@name.member` where it is
    JSON, `@name{other}` the one whose name ends with what `other` says), `json:member` is of the .json file beside the
    file (of a list, a number is the place), "file" and "folder" are their names, and all else is the path of an array
    of text.
    """

    name: str  # for messages
    columns: Mapping[str, str]  # path: column
    episodes: str = ""  # groups, such as data/*; "" is the file itself; `ALL_EPISODES`
    marks: tuple[str, ...] = ()  # paths that tell this layout from others
    rows: tuple[str, ...] = ("action",)  # the array with one row a step: the first of these paths that is there
    ends: tuple[str, ...] = ()  # arrays that tell where episodes end, see `array_ends`
    ahead: Mapping[str, str] = EMPTY  # path: column whose row t is row t + 1 of the array; the last step has none
    left_out: Mapping[str, str] = EMPTY  # path: reason
    instruction: tuple[str, ...] = ("folder",)
    rate: tuple[str, ...] = ()  # sources of the frames per second
    robot: tuple[str, ...] = ()
    control: str = ""  # source of what `data.actions.conventions` knows controllers by
    names: Mapping[str, tuple[str, ...]] = EMPTY  # of dimensions, by column, where their number fits
    unnamed: str = "the layout does not name it"  # why all else is left out
    swapped: bool = False  # encoded pictures have red and blue swapped, but for those marked as they should be

    def column(self, path: str) -> str | None:
        """Return the column that the array at `path` is, None if it is left out."""
        pattern = self.pattern(path)
        if pattern not in self.columns:
            return None
        start, _, end = pattern.partition("*")
        part = path[len(start) : len(path) - len(end)] if "*" in pattern else ""
        return self.columns[pattern].replace("*", part.replace("/", "."))

    def reason(self, path: str) -> str:
        """Say why the array at `path` is left out."""
        return self.left_out.get(self.pattern(path), self.unnamed)

    def pattern(self, path: str) -> str:
        """Return the pattern that counts for a path, "" where none matches."""
        matches = [each for each in (*self.left_out, *self.columns) if fnmatchcase(path, each)]
        return max(matches, key=len, default="")


ROBOMIMIC = Layout(
    "robomimic",
    {
        "actions": "action",
        "actions/*": "action.*",  # of several arms
        "actions_*": "action_*",
        "processed_actions": "action_processed",  # Isaac Lab's, after scale and offset
        "rewards": "next.reward",
        "dones": "next.done",
        "obs/*": "observation.*",
    },
    episodes="data/*",
    rows=("actions", "actions_*", "actions/*"),
    left_out={
        "obs/actions": LAST_ACTION,
        "states": "the simulator's own state, of another size for every scene; robomimic's dataset_states_to_obs.py "
        "renders observations from it",
        "states/*": SIMULATOR,
        "initial_state/*": SIMULATOR,
        "robot_states": SIMULATOR,
        "next_obs/*": "the observations of the next step",
    },
    instruction=(
        "@ep_meta.lang",
        "@problem_info.language_instruction",
        *SAID,
        *(f"obs/{name}" for name in TEXTS),
        "@env_args.env_name",
        "@env_name",
        "file",
    ),
    rate=("@env_args.env_kwargs.control_freq", "@env_info.control_freq"),
    robot=("@env_args.env_kwargs.robots",),
    control="@env_args.",
    unnamed="robomimic's format does not name it",
)
MANISKILL = Layout(
    "ManiSkill",
    {
        "actions": "action",
        "actions/*": "action.*",  # of several robots
        "rewards": "next.reward",
        "terminated": "next.done",
        "success": "next.success",
        "obs/sensor_data/*/rgb": "observation.images.*",
        "obs/image/*/rgb": "observation.images.*",  # of ManiSkill 2
        "obs/agent/*": "observation.*",
        "obs/extra/*": "observation.*",
        "obs": "observation.state",
    },
    episodes="traj_*",
    rows=("actions", "actions/*"),
    left_out={
        "env_states/*": SIMULATOR,
        "obs/sensor_data/*/depth": "depth",
        "obs/image/*/depth": "depth",
        "obs/sensor_data/*/segmentation": OBJECTS,
        "obs/image/*/Segmentation": OBJECTS,
        "obs/sensor_param/*": CAMERA_FACTS,
        "obs/camera_param/*": CAMERA_FACTS,
        "truncated": ENDS,
    },
    instruction=(*SAID, "json:env_info.env_id", "file"),
    rate=("json:env_info.env_kwargs.control_freq",),
    robot=("json:env_info.env_kwargs.robot_uids",),
    control="json:env_info.env_kwargs.control_mode",
)
ALOHA_ACT = Layout(
    "ALOHA / ACT",
    {
        "action": "action",
        "observations/qpos": "observation.state",
        "observations/qvel": "observation.velocity",
        "observations/effort": "observation.effort",
        "observations/images/*": "observation.images.*",
        "base_action": "action.base",
    },
    marks=("action", "observations/qpos"),
    left_out={"observations/images_depth/*": "depth", "compress_len": CAMERA_FACTS},
    instruction=(*SAID, "@task", "language_raw", "folder"),
    names={"action": ALOHA, "observation.state": ALOHA, "observation.velocity": ALOHA, "observation.effort": ALOHA},
)
ROBOTWIN = Layout(
    "RoboTwin",
    {
        "joint_action/vector": "observation.state",
        "endpose/*": "observation.endpose.*",
        "observation/*/rgb": "observation.images.*",
    },
    marks=("joint_action/vector",),
    rows=("joint_action/vector",),
    ahead={"joint_action/vector": "action"},  # the drive targets of the next step, as RoboTwin's own policies train
    left_out={
        "joint_action/*": "a part of joint_action/vector",
        "observation/*/depth": "depth",
        "observation/*": CAMERA_FACTS,
        "pointcloud": "a cloud of points, which models here do not read",
    },
    instruction=("json:../instructions:seen.0", *SAID, "folder"),
    swapped=True,  # RGB given to OpenCV's encoder, which takes BGR
)
ROBOMIND = Layout(
    "RoboMIND",
    {
        "master/*": "action.*",
        "puppet/*": "observation.*",
        "observations/rgb_images/*": "observation.images.*",
        "observations/images/*": "observation.images.*",
    },
    marks=("puppet/*",),
    rows=("puppet/joint_position*", "puppet/*"),
    left_out={"observations/depth_images/*": "depth"},
    instruction=(*SAID, "language_raw", "folder"),
)
ARMS = ("left", "right")
AGIBOT_NAMES = {
    "joint.position": tuple(f"{arm}_joint_{i}" for arm in ARMS for i in range(7)),
    "end.position": tuple(f"{arm}_{axis}" for arm in ARMS for axis in "xyz"),
    "end.orientation": tuple(f"{arm}_q{axis}" for arm in ARMS for axis in "xyzw"),
    "effector.position": tuple(f"{arm}_gripper" for arm in ARMS),  # a hand has six numbers
    "head.position": ("head_yaw", "head_pitch"),
    "waist.position": ("waist_pitch", "waist_lift"),
    "robot.position": tuple("xyz"),
    "robot.orientation": ("qx", "qy", "qz", "qw"),
}
AGIBOT = Layout(
    "AgiBot World",
    {"action/*": "action.*", "state/*": "observation.*"},
    rows=("state/joint/position",),
    left_out={"timestamp": "when a row was recorded", "action/*/index": "which rows were commanded"},
    names={f"{kind}.{name}": names for kind in ("action", "observation") for name, names in AGIBOT_NAMES.items()},
)
DROID = Layout(
    "DROID",
    {"action/*": "action.*", "observation/robot_state/*": "observation.state.*"},
    rows=("action/*",),
    left_out={
        "observation/camera_*": CAMERA_FACTS,
        "observation/controller_info/*": "what the operator's controller said",
        "observation/timestamp/*": "when a row was recorded",
        "observation/robot_state/prev_*": "what the robot was told before",
    },
    instruction=("@current_task",),
)
UNITREE = Layout(
    "Unitree",
    {
        "action": "action",
        "state": "observation.state",
        "actions/*": "action.*",
        "states/*": "observation.*",
        "tactiles/*": "observation.tactile.*",
        "torques/*": "observation.torque.*",
        "colors/*": "observation.images.*",
    },
    rows=("action", "state", "actions/*", "states/*"),
    left_out={"depths/*": "depth"},
    instruction=("@goal", "folder"),
)
EGODEX = Layout(
    "EgoDex",
    {"transforms/*": "observation.transforms.*"},
    marks=("transforms/leftHand", "transforms/rightHand"),
    rows=("transforms/camera",),
    left_out={"camera/intrinsic": CAMERA_FACTS, "confidences/*": "how sure a joint is, which some files lack"},
    instruction=("@llm_description{which_llm_description}", "@llm_description", "folder"),
)
CALVIN = Layout(
    "CALVIN",
    {
        "rel_actions": "action",
        "actions": "action.absolute",
        "robot_obs": "observation.state",
        "rgb_*": "observation.images.rgb_*",
    },
    episodes="*",
    marks=("rel_actions",),
    rows=("rel_actions",),
    left_out={"scene_obs": SIMULATOR, "depth_*": "depth"},
    instruction=("@instruction",),
    names={
        "action": (*POSE, "gripper"),
        "action.absolute": (*POSE, "gripper"),
        "observation.state": (*POSE, "gripper_width", *(f"joint_{i}" for i in range(7)), "gripper"),
    },
)
CALVIN_ABSOLUTE = CALVIN._replace(
    columns={**CALVIN.columns, "actions": "action"}, marks=("actions",), rows=("actions",)
)
D4RL = Layout(
    "D4RL",
    {"observations": "observation.state", "actions": "action", "rewards": "next.reward", "terminals": "next.done"},
    marks=("observations", "actions", "terminals"),
    rows=("actions",),
    ends=("terminals", "timeouts"),
    left_out={
        "timeouts": ENDS,
        "next_observations": "the observations of the next step",
        "infos/*": SIMULATOR,
        "metadata/*": "how it was recorded",
    },
    instruction=("file",),
)
MINARI = Layout(
    "Minari",
    {
        "actions": "action",
        "actions/*": "action.*",
        "observations": "observation.state",
        "observations/*": "observation.*",
        "rewards": "next.reward",
        "terminations": "next.done",
    },
    episodes="episode_*",
    marks=("terminations", "truncations"),
    rows=("actions", "actions/*"),
    left_out={"truncations": ENDS, "infos/*": SIMULATOR},
    instruction=(*SAID, "observations/mission", "folder"),
)
REPLAY_BUFFER = Layout(
    "Diffusion Policy's replay buffer",
    {
        "data/action": "action",
        "data/state": "observation.state",
        "data/img": "observation.images.img",
        "data/*_rgb": "observation.images.*_rgb",
        "data/*": "observation.*",
    },
    marks=("meta/episode_ends",),
    rows=("data/action", "data/*"),
    ends=("meta/episode_ends",),
    left_out={"meta/*": ENDS},
    instruction=(*SAID, "@task", "file"),
)
NAMED_ARRAYS = Layout(
    "arrays by name",
    {
        "action": "action",
        "actions": "action",
        "reward": "next.reward",
        "rewards": "next.reward",
        "images": "observation.images.images",
        "image": "observation.images.image",
        "img": "observation.images.img",
        "*": "observation.*",
    },
    rows=("action", "actions"),
    ends=TOLD_ENDS,
    left_out=dict.fromkeys(PLAIN_ENDS, ENDS),
    instruction=(*TEXTS, "task", "folder"),
)
LAYOUTS = (ROBOMIMIC, MANISKILL, ALOHA_ACT, ROBOTWIN, ROBOMIND, EGODEX, D4RL, MINARI, REPLAY_BUFFER)


def described(given: Any) -> Layout:
    """Return the layout that a user describes, or names.

    Raises:
        LattokError: it has other keys, or values of other types.
    """
    if isinstance(given, str):
        known = {layout.name: layout for layout in (*LAYOUTS, NAMED_ARRAYS)}
        checks.one_of("layout", given, known)
        return known[given]
    expected = 'a name, or an object such as {"columns": {"cmd": "action"}}'
    if not isinstance(given, Mapping):
        checks.fail("layout", expected, f"{given!r:.60}")
    checks.known_keys("layout", given, ("episodes", "columns", "ahead", "rows", "ends", "instruction"))
    columns = _texts(given, "columns")
    ahead = _texts(given, "ahead")
    if not columns and not ahead:
        checks.fail("layout", expected, "no columns")
    plain = [column for column in (*columns.values(), *ahead.values()) if "*" not in column]
    if twice := [column for column in dict.fromkeys(plain) if plain.count(column) > 1]:
        checks.fail("layout.columns", "one array a column", f"several as {twice[0]}", "Join columns with `columns`.")
    episodes = given.get("episodes", "")
    if not isinstance(episodes, str) or any(part.count("*") > 1 for part in episodes.split("/")):
        checks.fail("layout.episodes", "groups such as run_* or data/*/demo_*, or []", f"{episodes!r:.60}")
    actions = tuple(path for path, column in columns.items() if column == "action")
    rows = _list(given, "rows") or actions or tuple(columns)
    instruction = _list(given, "instruction") or ("folder",)
    if any(".." in source for source in instruction):
        checks.fail("layout.instruction", "sources without `..`", checks.listed(instruction))
    return Layout(DESCRIBED, columns, episodes, (), rows, _list(given, "ends"), ahead, EMPTY, instruction)


def _texts(given: Mapping[str, Any], key: str) -> dict[str, str]:
    value = given.get(key, {})
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        checks.fail(
            f"layout.{key}", 'paths with the columns that they are, such as {"cmd": "action"}', f"{value!r:.60}"
        )
    for path, column in value.items():
        if path.count("*") > 1 or column.count("*") > path.count("*"):
            checks.fail(
                f"layout.{key}", "at most one * in a path, and a * in its column only if the path has one", path
            )
        if not is_file_name(column.replace("*", "x")):
            checks.fail(f"layout.{key}", "names of columns that a file can have", f"{column!r:.60}")
    return dict(value)


def _list(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = given.get(key, [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        checks.fail(f"layout.{key}", "texts", f"{value!r:.60}")
    return tuple(value)

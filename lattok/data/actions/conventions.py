"""What the numbers of published datasets and of known programs mean: `convention_of(dataset)`.

A dataset is recognised by evidence alone: the layout of its files or its name in TFDS, columns and their sizes, names
of dimensions, the robot, and what the files say of the controller. Nothing is converted; `inspect` says what is known,
and docs/howto/own_dataset.md shows this table. `source` is where each row was read or measured.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from lattok.data.actions.space import GRIPPERS, PRESETS, ActionSpace, Gripper, Joints, Part, Position, Rotation
from lattok.data.schema import RobotDataset

OCTO = "octo-models/octo 4813bbe, oxe_standardization_transforms.py"
OPENVLA = "openvla/openvla, prismatic/vla/datasets/rlds/oxe/transforms.py"
ACTIONS = ("action", "actions")  # columns of whole actions
CM = 0.01
FIRST_ZERO = "the first action of an episode is all zeros"
AFTER = "a row shows what is there after its action"


class Traits(NamedTuple):
    """By what a dataset is recognised: all of what is given here must be true of it."""

    origin: tuple[str, ...] = ()  # layout of its files, or name in TFDS: one of these patterns
    columns: Mapping[str, int] = {}  # with so many dimensions each
    names: tuple[str, ...] = ()  # of the first dimensions of its actions
    robot: str = ""  # a pattern
    fps: float | None = None

    def fits(self, dataset: RobotDataset) -> bool:
        named = dataset.origin.removesuffix("_converted_externally_to_rlds")
        sizes = {key: feature.shape for key, feature in dataset.features.items()}
        names = next((dataset.features[key].names for key in ACTIONS if key in dataset.features), None)
        return (
            (not self.origin or any(fnmatchcase(named, pattern) for pattern in self.origin))
            and all(sizes.get(key) == (size,) for key, size in self.columns.items())
            and (names or ())[: len(self.names)] == self.names
            and (not self.robot or fnmatchcase(dataset.robot or "", self.robot))
            and self.fps in (None, dataset.fps)
        )

    @property
    def text(self) -> str:
        """All of it, for the documentation."""
        parts = [f"`{'`, `'.join(self.origin)}`"] if self.origin else []
        parts += [f"columns `{'`, `'.join(self.columns)}`"] if self.columns else []
        parts += [f"dimensions `{'`, `'.join(self.names)}`"] if self.names else []
        parts += [f"robot `{self.robot}`"] if self.robot else []
        return "; ".join([*parts, *([f"{self.fps:g} fps"] if self.fps else [])])


class Convention(NamedTuple):
    """What is known of one dataset, or of all that one program writes."""

    name: str
    traits: Traits
    action: ActionSpace | str | Callable[[Any], ActionSpace | str | None]  # of `dataset.control`, where that says it
    source: str
    joined: tuple[str, ...] = ()  # columns that are the action, in order, where no column is all of it
    mind: str = ""
    rate: float | None = None  # frames per second at which it was recorded

    def of(self, dataset: RobotDataset) -> ActionSpace | str | None:
        """Return the meaning of the dataset's actions, None where the evidence does not fit."""
        if not self.traits.fits(dataset) or not {*self.joined} <= dataset.features.keys():
            return None
        action = self.action(dataset.control) if callable(self.action) else self.action
        keys = self.joined or tuple(key for key in ACTIONS if key in dataset.features)[:1]
        size = sum((dataset.features[key].shape or (1,))[0] for key in keys)
        return action if not isinstance(action, ActionSpace) or action.dim == size else None


def convention_of(dataset: RobotDataset) -> tuple[Convention, ActionSpace | str] | None:
    """Return what is known of a dataset, with the meaning of its actions; None of others, and of converted actions."""
    if dataset.actions_as:
        return None
    found = ((each, each.of(dataset)) for each in CONVENTIONS)
    return next(((each, action) for each, action in found if action is not None), None)


def convention_text(dataset: RobotDataset) -> str:
    """Say it in one line, "" where nothing is known."""
    if (known := convention_of(dataset)) is None:
        return ""
    each, action = known
    parts = [f"{each.name}: {words(action)}"]
    parts += [f"in {', '.join(f'`{key}`' for key in each.joined)}"] if each.joined else []
    parts += [each.mind] if each.mind else []
    return "; ".join([*parts, *([f"recorded at {each.rate:g} fps"] if each.rate not in (None, dataset.fps) else [])])


def words(action: ActionSpace | str) -> str:
    """Say what an action is, part by part."""
    return action if isinstance(action, str) else "; ".join(map(_words, action.parts))


def _words(part: Part) -> str:
    arm = f"{part.key[1]} " if part.key[1] else ""
    if isinstance(part, Position):
        unit = "m" if part.scale == 1 else f"1 is {part.scale / CM:g} cm"
        return f"{arm}{' '.join(part.axes)} ({part.mode}, {unit})"
    if isinstance(part, Rotation):
        unit = "" if part.form.startswith(("quaternion", "rot", "matrix")) else ", rad"
        unit = unit if part.scale == 1 else f", 1 is {part.scale:g} rad"
        return f"{arm}{part.form} ({part.mode}{unit})"
    if isinstance(part, Joints):
        unit = "rad" if part.scale == 1 else f"1 is {part.scale:g} rad"
        return f"{arm}{part.n} joints ({part.mode}, {unit})"
    if isinstance(part, Gripper) and part.convention in GRIPPERS:
        closed, opened = GRIPPERS[part.convention]
        return f"{arm}gripper ({opened:g} open, {closed:g} closed)"
    return f"{arm}{part.kind} ({part.size})"


def _osc_pose(control: Any) -> ActionSpace | None:
    """Read robosuite's description of its controller, of 1.4 and before, or by arm since 1.5."""
    kwargs = control.get("env_kwargs") if isinstance(control, Mapping) else None
    config = kwargs.get("controller_configs") if isinstance(kwargs, Mapping) else None
    for name in ("body_parts", "arms", "right"):
        config = config.get(name, config) if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or config.get("type") != "OSC_POSE":
        return None
    limits = config.get("output_max")
    delta = config.get("input_type", "delta" if config.get("control_delta", True) else "absolute") == "delta"
    in_base = config.get("input_ref_frame", "base") == "base"
    usual = limits == [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]
    return PRESETS["robomimic"] if usual and delta and in_base else None


def _maniskill(control: Any) -> ActionSpace | str | None:
    """Read the control mode of the Panda."""
    gripper = Gripper("open_is_plus_1")
    return {
        "pd_joint_pos": ActionSpace((Joints(7), gripper)),
        "pd_joint_delta_pos": ActionSpace((Joints(7, "delta", scale=0.1), gripper)),
        "pd_ee_delta_pos": ActionSpace((Position(scale=0.1), gripper)),
        "pd_ee_delta_pose": "x y z (delta, 1 is 10 cm); angles XYZ, intrinsic (delta, 1 is 0.1 rad); "
        "gripper (1 open, -1 closed)",
    }.get(str(control))


def _isaac_lab(control: Any) -> str | None:
    name = control.get("env_name") if isinstance(control, Mapping) else None
    return "the task's; a gripper's number: positive opens" if str(name).startswith("Isaac-") else None


_EULER = (Position(), Rotation("euler_xyz"))
_RELATIVE = "x y z (delta, m); roll pitch yaw (delta, rad); gripper (1 closes, -1 opens, 0 leaves it)"
_PARTS = ("action.world_vector", "action.rotation_delta", "action.gripper_closedness_action")
_ONE_CLOSED = "x y z (delta); roll pitch yaw (delta); gripper (1 closed)"
_PUSHT = "x y where the tool shall be, 0 to 512 pixels from the upper left corner"
_SO_ARM = ("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos")
_ALOHA = tuple(
    f"{arm}_{joint}"
    for arm in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
)
_G1 = tuple(
    f"k{arm}{joint}"
    for arm in ("Left", "Right")
    for joint in ("ShoulderPitch", "ShoulderRoll", "ShoulderYaw", "Elbow", "WristRoll", "WristPitch", "WristYaw")
)
CONVENTIONS = (
    Convention(
        "LIBERO",
        Traits(("robomimic",), {"observation.ee_states": 6, "observation.gripper_states": 2, "action": 7}),
        PRESETS["libero"],
        "Lifelong-Robot-Learning/LIBERO 1952000, scripts/create_dataset.py; robosuite 1.5.2, run",
        mind=f"pictures are upside down; {AFTER}; ee_ori is an axis with its angle",
        rate=20,
    ),
    Convention(
        "robosuite",
        Traits(("robomimic",), {"action": 7}),
        _osc_pose,
        "robosuite 1.5.2, robomimic 0.3.0, run",
        mind="eef_quat is xyzw; robomimic's pictures are upright, robosuite's own upside down",
        rate=20,
    ),
    Convention(
        "Isaac Lab",
        Traits(("robomimic",)),
        _isaac_lab,
        "isaac-sim/IsaacLab 01cf7df, binary_joint_actions.py",
    ),
    Convention(
        "ManiSkill, Panda",
        Traits(("ManiSkill",), robot="panda*"),
        _maniskill,
        "mani_skill 3.0.1, agents/robots/panda, agents/controllers",
        mind="poses are x y z with a quaternion wxyz",
        rate=20,
    ),
    Convention(
        "ALOHA / ACT",
        Traits(("ALOHA / ACT",), {"action": 14, "observation.state": 14}),
        PRESETS["aloha"],
        "tonyzhaozh/act 1a39fda, constants.py; gym_aloha 0.1.5",
        rate=50,
    ),
    Convention(
        "ALOHA in LeRobot",
        Traits(names=_ALOHA),
        PRESETS["aloha"],
        "gym_aloha 0.1.5, constants.py",
        rate=50,
    ),
    Convention(
        "RoboTwin",
        Traits(("RoboTwin",), {"action": 14}),
        PRESETS["aloha"],
        "RoboTwin-Platform/RoboTwin 01a3912, envs/_base_task.py, envs/robot/robot.py",
        mind="the action is the next row's target; endpose has a quaternion wxyz",
    ),
    Convention(
        "CALVIN",
        Traits(("CALVIN",), {"action": 7, "action.absolute": 7}),
        "x y z (delta along the world's axes, 1 is 2 cm); differences of angles XYZ (1 is 0.05 rad); gripper (1 open, "
        "-1 closed)",
        "mees/calvin 13909cb, dataset/README.md",
        mind="clipped at -1 and 1; angles of the state wrap",
        rate=30,
    ),
    Convention(
        "PushT of Diffusion Policy",
        Traits(
            ("Diffusion Policy's replay buffer",),
            {"action": 2, "observation.state": 5, "observation.n_contacts": 1},
        ),
        _PUSHT,
        "real-stanford/diffusion_policy 0237379, pusht_env.py",
        mind="state: tool x y, block x y, its angle",
        rate=10,
    ),
    Convention(
        "PushT of LeRobot",
        Traits(columns={"action": 2, "observation.state": 2, "next.success": 1}, names=("motor_0", "motor_1")),
        _PUSHT,
        "gym_pusht 0.1.8",
        rate=10,
    ),
    Convention(
        "UMI",
        Traits(
            ("Diffusion Policy's replay buffer",),
            {
                "observation.robot0_eef_pos": 3,
                "observation.robot0_eef_rot_axis_angle": 3,
                "observation.robot0_gripper_width": 1,
            },
        ),
        "none is stored: the poses of the next rows are the actions",
        "real-stanford/universal_manipulation_interface b310553, 07_generate_replay_buffer.py",
        mind="x y z (m), an axis with its angle, width of the gripper (m)",
    ),
    Convention(
        "SO-100 and SO-101 of LeRobot",
        Traits(names=_SO_ARM, robot="so*"),
        "5 joints (absolute; degrees, or -100 to 100 of their range); gripper (0 to 100 of its range)",
        "lerobot 0.4.4, robots/so_follower, motors/motors_bus.py",
    ),
    Convention(
        "Unitree G1",
        Traits(names=_G1),
        "left arm 7 joints, right arm 7 joints (absolute, rad); then what the names say",
        "unitreerobotics/unitree_lerobot 529a070, constants.py; 24 episodes of YifanTian07/G1-policy-train, measured",
    ),
    Convention(
        "LIBERO of openpi",
        Traits(columns={"actions": 7, "state": 8}, robot="panda", fps=10),
        PRESETS["libero"],
        "Physical-Intelligence/openpi f735421, convert_libero_data_to_lerobot.py",
        mind="fps says 10, and no frame was left out",
        rate=20,
    ),
    Convention(
        "LIBERO of OpenVLA",
        Traits(("libero_*_no_noops",), {"action": 7}),
        PRESETS["libero"],
        "openvla/openvla, regenerate_libero_dataset.py",
        mind="pictures were turned by 180 degrees, upright; steps without motion were taken out",
        rate=20,
    ),
    Convention(
        "BridgeData V2",
        Traits(("bridge_dataset", "bridge_orig"), {"action": 7}),
        PRESETS["bridge"],
        f"{OPENVLA}; 25 episodes of octo-models/octo 241fb35, measured",
        mind=f"in bridge_orig {FIRST_ZERO}",
        rate=5,
    ),
    Convention(
        "Bridge of Open X",
        Traits(("bridge",)),
        PRESETS["bridge"],
        OPENVLA,
        ("action.world_vector", "action.rotation_delta", "action.open_gripper"),
        FIRST_ZERO,
        5,
    ),
    Convention(
        "Open X, gripper relative",
        Traits(("fractal20220817_data", "kuka", "nyu_door_opening_surprising_effectiveness", "berkeley_autolab_ur5")),
        _RELATIVE,
        OCTO,
        _PARTS,
        "terminate_episode is no part",
    ),
    Convention(
        "Jaco Play",
        Traits(("jaco_play",)),
        "x y z (delta, m); gripper (1 closes, -1 opens, 0 leaves it)",
        OCTO,
        ("action.world_vector", "action.gripper_closedness_action"),
        "terminate_episode is no part",
        10,
    ),
    Convention(
        "Open X, gripper absolute",
        Traits(("roboturk", "viola")),
        _ONE_CLOSED,
        OCTO,
        _PARTS,
        "terminate_episode is no part",
    ),
    Convention(
        "TOTO",
        Traits(("toto",)),
        ActionSpace((*_EULER, Gripper("open_is_1"))),
        OCTO,
        ("action.world_vector", "action.rotation_delta", "action.open_gripper"),
        "terminate_episode is no part",
        30,
    ),
    Convention(
        "Berkeley Cable Routing",
        Traits(("berkeley_cable_routing",)),
        ActionSpace(_EULER),
        OCTO,
        ("action.world_vector", "action.rotation_delta"),
        "terminate_episode is no part",
        10,
    ),
    Convention(
        "TACO Play",
        Traits(("taco_play",), {"action.rel_actions_world": 7}),
        "x y z (delta); roll pitch yaw (delta); gripper (1 open, Octo clips it to 0 to 1)",
        OCTO,
        ("action.rel_actions_world",),
        rate=15,
    ),
    Convention("Language Table", Traits(("language_table",), {"action": 2}), "x y (delta)", OCTO, rate=10),
    Convention(
        "BC-Z",
        Traits(("bc_z",)),
        "ten steps ahead; the first: xyz_residual 0:3, axis_angle_residual 0:3, target_close 0:1 (1 closed)",
        OCTO,
        ("action.future.xyz_residual", "action.future.axis_angle_residual", "action.future.target_close"),
        rate=10,
    ),
    Convention(
        "FurnitureBench",
        Traits(("furniture_bench_dataset",), {"action": 8}),
        "x y z (delta); quaternion xyzw (delta); gripper (1 closed)",
        OCTO,
        rate=10,
    ),
    Convention(
        "Open X, 1 closed",
        Traits(
            (
                "stanford_hydra_dataset",
                "dlr_edan_shared_control",
                "austin_buds_dataset",
                "austin_sailor_dataset",
                "austin_sirius_dataset",
                "utaustin_mutex",
            ),
            {"action": 7},
        ),
        _ONE_CLOSED,
        OCTO,
    ),
    Convention(
        "DROID",
        Traits(("droid", "droid_100")),
        "what OpenVLA trains: x y z, roll pitch yaw (velocity), gripper (1 closed)",
        "kpertsch/openvla-mini 95b29b4, droid_utils.py",
        ("action_dict.cartesian_velocity", "action_dict.gripper_position"),
        rate=15,
    ),
)

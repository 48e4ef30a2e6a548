"""Cheap images of MuJoCo scenes on a CPU, and the changes of a scene that a policy should not mind.

Without shadows, reflections and multisampling a frame of 128 pixels costs 6 to 8 ms on one core, not 90.
"""

import atexit
import gc
import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line

if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo looks for a window otherwise; it reads this when imported

with suppress(ImportError):
    import_module("triton")  # torch loads it late: after Mesa, which brings an LLVM of its own, Python crashes

NO_IMAGES = "no library, or MUJOCO_GL=disable" * (os.environ.get("MUJOCO_GL") == "disable")  # why there are none
try:
    import mujoco as _mujoco
except ModuleNotFoundError:
    raise
except (ImportError, AttributeError):  # PyOpenGL has found no library, which physics does not need
    NO_IMAGES = f"no library for MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}"
    os.environ["MUJOCO_GL"] = "disable"  # OGBench's dm_control, and processes that we start, look at it too
    import mujoco as _mujoco

mujoco: Any = _mujoco  # a compiled module, of whose names no checker knows

SHAPES = tuple(getattr(mujoco.mjtGeom, f"mjGEOM_{shape}") for shape in ("BOX", "SPHERE", "CYLINDER"))
EFFECTS = [int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)]


class Viewpoint(NamedTuple):  # a camera of a model under the name that datasets have
    camera: str
    turned: bool = False  # mounted upside down
    position: tuple[float, float, float] | None = None  # None: where the model has it


class Stage(NamedTuple):  # parts of a model that variations change
    materials: tuple[str, ...]  # of the background: table, floor, walls
    low: tuple[float, float, float]  # corners of the box in which distractors may stand
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Variation:
    """Changes of the scene, drawn for each episode from its seed. All are off by default."""

    background: bool = False  # colours of table, floor and walls
    light: bool = False  # brightness and place of the lamps
    camera: bool = False  # up to 3 cm and 5 % of the field of view
    distractors: int = 0  # coloured things on the table, which are seen and not touched
    layout: bool = False  # what is to be moved stands up to 5 cm beyond where it otherwise may

    def __post_init__(self) -> None:
        checks.whole(distractors=self.distractors)


OFF = Variation()
OPEN: "weakref.WeakSet[SceneCameras]" = weakref.WeakSet()  # those that have held a renderer


@cache
def _close_at_the_end() -> None:
    """Call it after MuJoCo has registered the end of the display: what is registered last runs first."""
    atexit.register(lambda: [cameras.close() for cameras in list(OPEN)])


class SceneCameras:
    """Renders the cameras of one model; `close` gives back memory that no garbage collector sees."""

    def __init__(
        self, model: Any, data: Any, views: Mapping[str, Viewpoint], size: int, stage: Stage, variation: Variation
    ):
        checks.counts(size=size)
        self.names, self.size = tuple(views), size
        self._model, self._data, self._views, self._stage, self._variation = model, data, dict(views), stage, variation
        self._things: list[tuple[Any, ...]] = []  # kind, size, position and colour of each distractor
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        for view in views.values():
            if view.position is not None:
                model.camera(view.camera).pos[:] = view.position
        self._arrays = {name: getattr(model, name) for name in ("mat_rgba", "light_pos", "light_diffuse")}
        self._arrays |= {"cam_pos": model.cam_pos, "cam_fovy": model.cam_fovy}
        headlight = model.vis.headlight  # most of what is seen in some worlds
        self._arrays |= {"ambient": headlight.ambient, "diffuse": headlight.diffuse}
        self._unchanged = {name: array.copy() for name, array in self._arrays.items()}
        self._renderer: Any = None

    def vary(self, rng: np.random.Generator) -> None:
        """Draw the variation of an episode; nothing of the one before is left."""
        for name, array in self._arrays.items():
            array[:] = self._unchanged[name]
        model, what = self._model, self._variation
        streams = rng.spawn(4)  # one each: switching one on leaves the others as they were
        if what.background:
            for name in self._stage.materials:
                model.material(name).rgba[:3] = streams[0].uniform(0.1, 1.0, 3)  # its texture keeps its grain
        if what.light:
            model.light_diffuse[:] *= streams[1].uniform(0.3, 1.7, (model.nlight, 1))
            model.light_pos[:] += streams[1].uniform(-0.5, 0.5, model.light_pos.shape)
            brightness = streams[1].uniform(0.5, 1.5)
            for name in ("ambient", "diffuse"):
                self._arrays[name][:] *= brightness
        if what.camera:
            model.cam_pos[:] += streams[2].uniform(-0.03, 0.03, model.cam_pos.shape)
            model.cam_fovy[:] *= streams[2].uniform(0.95, 1.05, model.ncam)
        mujoco.mj_camlight(model, self._data)  # where they are now
        self._things = [self._thing(streams[3]) for _ in range(what.distractors)]

    def image(self, name: str) -> np.ndarray:
        """Return the image of one camera, uint8 [size, size, 3]."""
        renderer, view = self._open(), self._views[name]
        renderer.update_scene(self._data, view.camera)
        scene = renderer.scene
        scene.flags[EFFECTS] = 0
        for kind, size, position, colour in self._things:
            if scene.ngeom < scene.maxgeom:
                mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, position, np.eye(3).ravel(), colour)
                scene.ngeom += 1
        turn = -1 if view.turned else 1
        return np.ascontiguousarray(renderer.render()[::turn, ::turn])

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _thing(self, rng: np.random.Generator) -> tuple[Any, ...]:
        size = rng.uniform(0.015, 0.04, 3)
        position = rng.uniform(self._stage.low, self._stage.high)
        position[2] += size[2]
        return SHAPES[rng.integers(len(SHAPES))], size, position, np.append(rng.uniform(0, 1, 3), 1).astype(np.float32)

    def _open(self) -> Any:
        """Return the renderer, made when the first image is asked for: physics alone needs none."""
        if self._renderer is None:
            self._renderer, why = (None, NO_IMAGES) if NO_IMAGES else _renderer(self._model, self.size)
            if why:
                hint = "On Linux without a display: apt-get install libegl1 libgl1-mesa-dri, and MUJOCO_GL=egl."
                raise LattokError(f"images of simulations need OpenGL, which does not start here ({why}). {hint}")
            _close_at_the_end()
            OPEN.add(self)
        return self._renderer


def _renderer(model: Any, size: int) -> tuple[Any, str]:
    """Return MuJoCo's renderer, or why there is none; halves of one complain when they are dropped, which is muted."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: None
    try:
        return mujoco.Renderer(model, size, size), ""
    except Exception as error:  # MuJoCo's, PyOpenGL's and the driver's own
        why = first_line(error).rstrip(".")
        error.__traceback__ = None
    finally:
        gc.collect()
        sys.unraisablehook = hook
    return None, why

"""What inspecting a dataset may find, what to do about it, and what looks for it in columns of numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from lattok.data.schema import ARRAYS, TABLES
from lattok.data.summaries import quantile_ranges
from lattok.utils.checks import LattokError, counted, few_of
from lattok.utils.commands import command
from lattok.utils.findings import Finding, error, note, warning
from lattok.utils.untrusted import EMPTY, FETCH

WILD_Z = 20.0  # robust z-score beyond which a value is called an outlier
SAMPLE_ROWS = 2**18  # that quantiles are taken of
START = {"frame_index": " from 0", "index": " of the dataset"}
NAMED = 8  # dimensions named in a finding
EXPORT = command("export", "{dataset}", "--out", "{out}")
SMALL = ("--preset", "tiny+robust+flow", "--features", "pixels", "--labelled-fraction", "0")  # of a model of video

WRITE_BOTH = (
    "If they are actions or states, write both as one dataset, with lattok.data.LeRobotWriter: "
    "docs/howto/own_dataset.md#from-arrays."
)
STORE = ".zarr"
READ_WITH_FILMS = "Files of arrays are read together with the film of their name (`format`: npz)."

# its structure
DAMAGED = error("Episode {episode}: {reason}", kind="damaged")
LEFT_OUT = note("{names} left out: {reason}.", kind="left-out")
NO_ACTIONS = note(
    "There are no actions in this dataset.",
    "Latent action models of video can be trained on it, without labels, and label it; action tokenizers cannot. Train "
    "a small one (with a GPU, leave out the preset and the features)",
    command("train", "image-lam", "{dataset}", "--out", "{out}", *SMALL),
    kind="no-actions",
)
IN_PARTS = note("There is no {missing}, but columns that may be parts of it.", "{joined}", kind="columns-in-parts")
SEGMENTS = note(
    "{cameras}: read as cameras, but going by the name their colours say what is where.",
    "To leave them out, {way_out}",
    kind="segment-cameras",
)
NO_CAMERAS = note(
    "There are no cameras in this dataset.",
    "Action tokenizers can be trained on it and label it; models of video cannot.",
    kind="no-cameras",
)
UNREADABLE = error("{error}", kind="unreadable")
EMPTY_FILE = error("{error}", kind="empty-file")
LFS_POINTER = error("{error}", kind="git-lfs-pointer")
TEXTS = note(
    "{columns}: text in the rows, which is kept in copies and exports, and else not read.",
    'Instructions are those of `{key}`; to take others, write {{"dataset": PATH, "instruction": "{other}"}} into a '
    ".json file and open that.",
    kind="text-columns",
)
NOT_VECTORS = warning(
    "`{column}` has rows of shape {shape}, not of single numbers: nothing trains on it.",
    "Write each row as one list of numbers.",
    kind="not-vectors",
)
NOT_READ = note("{columns}: more than {most} dimensions, so the values were not read.", kind="wide-columns")
BAD_SPACE = error("{error}", "Correct the declaration.", kind="bad-action-space")
BAD_MODALITY = warning(
    "{error}.", "lattok reads the dataset without it, GR00T does not: correct it.", kind="bad-modality"
)
ODD_MODALITY = warning(
    "meta/modality.json names what the dataset has not: {names}.",
    "GR00T stops there, or cuts it short. Correct `original_key`, `start` and `end`.",
    kind="odd-modality",
)
SEVERAL_ANNOTATIONS = note(
    "Instructions are those of `{chosen}` (meta/modality.json); there are also {others}.",
    'To take others, write {{"dataset": PATH, "instruction": "{other}"}} into a .json file and open that.',
    kind="several-annotations",
)
UNKNOWN_FILE = error(
    "{file} belongs to no episode of meta/episodes.",
    "Remove it, or copy the dataset again: LeRobot reads it, lattok would not label it.",
    kind="unknown-file",
)
UNKNOWN_ROWS = error(
    "{file} holds rows of episode {episode}, which meta/episodes does not place there.",
    "Copy the dataset again.",
    kind="unknown-rows",
)
NO_TIMES = note(
    "The rows have no `timestamp` ({file}): frame t is taken as shown after t / {fps:g} s.",
    "LeRobot needs that column; `lattok export` writes it.",
    kind="no-times",
)
LAST_ACTION_DROPPED = warning(
    "The action of the step with `is_last` fills its row: zeros, or the action before. The last step of every episode "
    "is left out, with its frame and reward.",
    'If they are real actions, put "last_action": "keep" into the description file; "drop" leaves them out unsaid.',
    kind="last-action-dropped",
)
LAST_ACTION_FILLS = warning(
    "The last `{column}` of nearly every episode only fills its row: zeros, or the action before. Others do not.",
    "If it is no real action, write the dataset again without the last rows.",
    kind="last-action-fills",
    cost="Models would learn it.",
)
FIRST_ACTION_ZERO = warning(
    "The first `{column}` of nearly every episode is 0, and others are not, as of recorders that store the action "
    "before each observation.",
    "{way_out}",
    kind="first-action-zero",
    cost="Models would learn that an action moves what moved before it.",
)
LAST_ACTION_EQUAL = warning(
    "The actions of the steps with `is_last` are all the same, and others are not.",
    'If they only fill the rows, put "last_action": "drop" into the description file, otherwise "keep".',
    kind="last-action-equal",
)

FAILED = note(
    "{count} of {all:episode|episodes} did not succeed, going by {sign}: {named}.",
    "Policies that imitate them learn to fail. To train without them, leave them out (`episodes`).",
    kind="failed-episodes",
)
INTERVENTIONS = note(
    "In {share:.0%} of the rows a human took over, going by `{column}` ({count:episode|episodes}).",
    "The other rows are of a policy: who imitates them learns its mistakes, too.",
    kind="interventions",
)
FILMS_BESIDE = note(
    "Beside the files of numbers are films, which are not read: which frame belongs to which row is not said.",
    "To have both, give each film the name of its file and a frame for each row, or write them together with "
    "lattok.data.LeRobotWriter: docs/howto/own_dataset.md",
    kind="films-beside",
)
NUMBERS_BESIDE = note(
    "Beside the {what} are files of numbers ({files}), which are not read.",
    "{way_out}",
    kind="numbers-beside",
)
ACTIONS_BESIDE = note(
    "{count} of {all} films have actions, in npz files of their names.",
    "The others have none there. Other arrays of the files are read with the film of their name (`format`: npz).",
    kind="actions-beside",
)
FILMS_ALONE = note(
    "{count:film has|films have} no file of numbers of the same name, and no episode here.",
    "An inverse dynamics model (`idm`) that learns from these episodes can infer the actions of all films, read "
    "as videos (`format`): docs/howto/few_actions.md",
    kind="films-alone",
)

# copies
COPIES = warning(
    "{copies}.",
    "Equal ones stay on one side of every split. Keep one of each (`episodes`).",
    kind="copies",
    cost="Training sees them more often.",
)

SHARED = note(
    "Episodes have at least {share:.0%} of their actions in common, row by row: {pairs}.",
    "Where one was cut from the other, leave one of them out (`episodes`), since splits may part them.",
    kind="shared-actions",
)

# lengths and tasks
SHORT = note(
    "{count} of {all:episode is|episodes are} shorter than {seconds:g} s (first: {first}).",
    "Choose stride and horizon to fit; frames near an end have no partner.",
    kind="short-episodes",
)
NO_CAPTIONS = note(
    "{count} of {all:episode has|episodes have} no language instruction (first: {first}).",
    "If a model should be told what happens, put captions.csv with the columns file and caption into the folder.",
    kind="no-instruction",
)
NO_INSTRUCTIONS = NO_CAPTIONS._replace(severity="warning", advice="Tasks cannot be told apart.")
LISTED_INSTRUCTIONS = warning(
    "The instruction of {count} of {all:episode|episodes} is a list in one text (first: {text}).",
    "Write one of them as the instruction.",
    kind="listed-instructions",
    cost="Models read brackets and quotes, and all of its texts at once.",
)
PLACEHOLDERS = warning(
    "The instruction of {count} of {all:episode|episodes} says nothing (first: {text}).",
    "Write what is done, or the empty text.",
    kind="placeholder",
)
VARIANTS = note(
    "{count:instruction differs|instructions differ} from others by case, spaces or punctuation alone (first: {one}, "
    "{other}).",
    "They count as several tasks: write one of them.",
    kind="variants",
)
NO_SUCH_TASK = error(
    "`task_index` of {count:episode|episodes} (first: {first}) is the number of none of the {count_of} instructions in "
    "meta/.",
    "Leave them out (`episodes`), or write their numbers again.",
    kind="no-such-task",
)
OTHER_TASK = warning(
    "`task_index` of {count} of {all:episode|episodes} says another instruction than meta/episodes (first: {first}, "
    "{text} for {listed}).",
    "lattok and LeRobot go by `task_index`. Look at the films, and correct the wrong one.",
    kind="other-task",
)
NO_PARTNER = note(
    "With a stride of {stride:frame|frames}, {share:.0%} of the frames have no partner.",
    "They are left out of training and marked invalid when annotating.",
    kind="no-partner",
)
PADDED = note(
    "With a horizon of {horizon}, {share:.0%} of the chunks run over the end of their episode.",
    "They repeat the last action, as in the paper.",
    kind="padded",
)

# values
NOT_FINITE = error(
    "`{column}` ({dimension}) holds {count:value that is|values that are} not finite, first in {place}.",
    "Leave those episodes out (`episodes`), or repair them.",
    kind="not-finite",
)
UNKNOWN_ACTIONS = note(
    "Episodes whose actions are unknown: {count} (first: {first}). All of their `{column}` are missing, NaN or null.",
    "Models of video need none. An inverse dynamics model (`idm`) that learns from the others can fill them in; action "
    "tokenizers have to leave those episodes out (`episodes`).",
    kind="unknown-actions",
)
CONSTANT = note(
    "`{column}`: {count} of {all:dimension never changes|dimensions never change} ({names}).",
    "They carry nothing; a tokenizer need not spend codes on them.",
    kind="constant",
)
CONSTANT_ACTIONS = CONSTANT._replace(severity="warning")
WILD = warning(
    "`{column}` ({dimension}) holds {count:wild value|wild values}, the worst {worst:.4g} in {place} ({away:.0f} "
    "robust standard deviations from the median {median:.4g}).",
    "Look at it; leave the episode out, or normalise with quantiles.",
    kind="outliers",
)
OTHER_RATE = error(
    "Timestamps of {count:episode|episodes} (first: {first}) do not fit fps = {fps:g}; the timestamps say {measured} "
    "fps.",
    "Correct fps in meta/info.json, or resample.",
    kind="other-rate",
)
TIMES_GO_BACK = error(
    "Times of {count:episode|episodes} go back (first: episode {first} at frame {frame}): two recordings in one, or a "
    "clock that was set.",
    "Split the episode there, or leave it out (`episodes`).",
    kind="times-go-back",
)
TIMES_COARSE = error(
    "Times of {count:episode|episodes} are too coarse to tell frames apart (first: episode {first}, {same:.0%} of them "
    "as the one before), as those of a Unix clock in 32 bits.",
    "Write frame / fps, or the times in 64 bits.",
    kind="times-coarse",
)
TIMES_BEGIN = error(
    "Times of {count:episode|episodes} do not begin at 0 (first: episode {first} at {seconds:.10g} s): they are of a "
    "clock, or go on over all episodes.",
    "Frames are looked for at these times. Subtract where each episode begins.",
    kind="times-begin",
)
TIMES_UNIT = error(
    "Times of {count:episode|episodes} (first: {first}) are in {unit}, not in seconds.",
    "Divide `timestamp` by {by:,}.",
    kind="times-unit",
)
TIMES_JUMP = warning(
    "Times jump {count:time|times} by more than a frame (first: by {seconds:.3g} s to episode {first}, frame {frame}): "
    "frames were lost.",
    "Pairs and chunks across a jump span more time than others. Leave those episodes out (`episodes`), or split them.",
    kind="times-jump",
)
OTHER_RATES = warning(
    "{count:episode has|episodes have} another rate than the dataset's {fps:g} fps: {rate:.4g} in episode {first}.",
    "Their frames are taken to be 1 / fps apart. Put recordings of one rate into a folder of their own.",
    kind="other-rates",
)
OTHER_TIMES = warning(
    "`{column}` has {rate:.4g} rows a second, and `fps` is {fps:g}.",
    "Give the right `fps`: lengths of pairs and chunks in seconds depend on it.",
    kind="other-times",
)
PICTURES_LOST = warning(
    "Frames are {seconds:.3g} s apart, at most, where others are much less, in {count:place|places}: messages of the "
    "first camera were lost.",
    "Pairs and chunks across such a place span more time than others. Leave those episodes out (`episodes`).",
    kind="pictures-lost",
)
CLOCK_SET_BACK = error(
    "{file}: the clock was set back by {seconds:.3g} s while it was recorded. Messages are in the order of their "
    "times, not in that in which they were recorded.",
    'Leave such recordings out (`episodes`), or take their other clock: "clock": "header", or "log".',
    kind="clock-set-back",
)
OTHER_TOTALS = warning(
    "{file}: `{key}` is {total}, but {listed} lists {count:,}.",
    "lattok reads all that are listed; others may not.",
    kind="other-totals",
)
OF_TIMES = (
    OTHER_RATE,
    TIMES_GO_BACK,
    TIMES_COARSE,
    TIMES_BEGIN,
    TIMES_UNIT,
    TIMES_JUMP,
)  # for which frames are not found
TIMES_STRAY = note(
    "Times of {count:episode|episodes} stray from {fps:g} fps by up to {stray:.0f} ms, as a clock's do.",
    "lattok takes the frame that is nearest.",
    kind="times-stray",
)
MISSING_PICTURES = warning(
    "The numbers of pictures jump in {count:episode|episodes} (first: before {file}): pictures are missing.",
    "Pairs across a jump span more time than others. Leave those episodes out (`episodes`).",
    kind="missing-pictures",
)
STILL = note(
    "In {share:.0%} of the frames nothing moves for a second or more (most in episode {worst}: {most:.0%}).",
    "Policies learn to wait there. Cut them off where they are no part of the task.",
    kind="still",
)
MUCH_STILL = STILL._replace(severity="warning")
HELD = note(
    "`{column}` changes about {rate:.3g} times a second, each value for {held} rows.",
    "It was commanded at that rate. A `stride` of as many rows leaves the repetitions out.",
    kind="held",
)
# what jumps cost: benchmarks/quality/angles.py
WRAPS = warning(
    "`{column}` ({dimension}) jumps by a whole turn {count:time|times}, first in {place}: an angle that wraps.",
    "Unwrap it, or write its sine and cosine.",
    kind="angle-wraps",
    cost="Tokenizers and policies learn the jumps as motion: FAST errs 2.4 times as much.",
)
FLIPS = warning(
    "`{column}` ({first} to {last}) is a quaternion that changes its sign {count:time|times}, first in {place}.",
    "Both signs are the same rotation. Keep the sign of the row before.",
    kind="quaternion-flips",
    cost="Tokenizers and policies learn the jumps as motion: FAST errs 1.7 times as much.",
)
OTHER_SIGN = warning(
    "`{column}` ({first} to {last}) is a quaternion that begins with the other sign in {count} of "
    "{all:episode|episodes}: {named}.",
    "Both signs are the same rotation. Turn the signs of all four numbers there.",
    kind="other-sign",
    cost="One pose has two numbers.",
)
LATE_ACTIONS = warning(
    "`{response}` moves {late:step|steps} too early for `{column}`: its lag is {told} steps, and no robot moves before "
    "its action.",
    "Shift the actions back, or write the dataset again from its source.",
    kind="late-actions",
    cost="An inverse dynamics model learns the action before, and a policy what is already done.",
)
EARLY_ACTIONS = note(
    "`{response}` answers `{column}` after {told} steps ({ms:.0f} ms).",
    "If the controller is not that slow, the actions stand too early: compare with a recording whose lag you know.",
    kind="early-actions",
)
SHIFTED_EPISODES = warning(
    "`{column}` is {by:step|steps} {word} in {count} of {all:episode|episodes}, against `{response}` and the other "
    "episodes: {named}.",
    "Shift it there, or leave them out (`episodes`).",
    kind="shifted-actions",
    cost="The same motion has two labels.",
)
INVERTED = warning(
    "`{column}` ({dimension}) is inverted in {count} of {all:episode|episodes}: {named}.",
    "Turn its sign there, or leave them out (`episodes`).",
    kind="inverted",
    cost="Policies learn both, and do either.",
)
LEAKED = warning(
    "`{state}` holds `{column}`, row by row.",
    "Do not give it to a policy as state.",
    kind="action-in-state",
    cost="A policy that sees it copies it, and has nothing to copy on the robot.",
)
OTHER_UNIT = warning(
    "`{column}` of {count} of {all:episode|episodes} ({named}) is about {factor} times as large as in the others: in "
    "another unit, such as degrees for radians (57) or millimetres for metres (1,000).",
    "Convert it there, or leave them out (`episodes`).",
    kind="other-unit",
    cost="What is learned from all follows the larger numbers.",
)
OTHER_VALUES = warning(
    "`{column}` ({dimension}) has other numbers in {count} of {all:episode|episodes} than in others, as ±1 for 0 and "
    "1: {named}.",
    "Convert it there, or leave them out (`episodes`).",
    kind="other-values",
    cost="One number means two things.",
)
OTHER_KIND = warning(
    "`{column}` holds {kind} of `{response}` in {count} of {all:episode|episodes}, and {usual} in the others: {named}.",
    "Convert it there, or leave them out (`episodes`).",
    kind="other-kind",
    cost="Policies learn a mixture of both, which fits neither.",
)
OFFSET = warning(
    "`{response}` ({dimension}) has another zero against `{column}` in {count} of {all:episode|episodes}: {named}.",
    "If the robot was calibrated anew, subtract the difference there, or leave them out (`episodes`).",
    kind="offset",
    cost="One pose of the arm has two numbers.",
)
OTHER_ORDER = warning(
    "The numbers of `{response}` are in another order than those of `{column}` in {count} of {all:episode|episodes}: "
    "{named}.",
    "If arms or joints were swapped, swap them there, or leave them out (`episodes`).",
    kind="other-order",
    cost="One number means two joints.",
)
STUCK = warning(
    "`{column}` never changes in {count} of {all:episode|episodes}, though `{other}` does: {named}.",
    "Leave them out (`episodes`).",
    kind="stuck-state",
)
STATE_JUMPS = warning(
    "`{column}` jumps {count:time|times}, first to episode {first}, frame {frame}: rows were lost, or two recordings "
    "joined.",
    "Leave those episodes out (`episodes`), or split them.",
    kind="state-jumps",
    cost="Pairs and chunks across a jump span more than others.",
)
CUT = note(
    "`{column}`: {count} of {all:dimension is|dimensions are} cut off at a limit ({names}; {worst} stays there in "
    "{share:.0%} of the rows).",
    "Limits of the robot do no harm. If it is none, write the dataset again from its source: what was beyond is lost.",
    kind="clipped",
)

DISORDERED = error(
    "{file}: `frame_index` of episode {episode} runs backwards, so the order of its rows is not known.",
    "Write the dataset again from its source, or leave the episode out (`episodes`).",
    kind="disordered",
)
COUNTED_OTHERWISE = error(
    "In {count:episode|episodes} (first: {first}) `{column}` does not go up by one with every frame{start}.",
    "LeRobot and others find frames and labels by it. Write the dataset again from its source.",
    kind="counted-otherwise",
)
UNREADABLE_STATISTICS = warning("{error}", kind="other-statistics")
OTHER_STATISTICS = warning(
    "{file} does not fit the rows (`{column}`, {dimension}: {name} {stored:.4g}, of the rows {measured:.4g}).",
    "LeRobot normalises with it; lattok measures what it trains on, and writes right ones into annotated copies. "
    "Write the dataset again, or export it",
    EXPORT,
    kind="other-statistics",
)
PICTURE_STATISTICS = warning(
    "{file} does not fit the pictures (`{camera}`, {channel}: mean {stored:.4g}, of some pictures {measured:.4g}).",
    "LeRobot may normalise with it. Measure it again.",
    kind="other-statistics",
)
OTHER_QUANTILES = note(
    "{file} has averages of the quantiles of episodes, not quantiles of the rows ({columns}; `{column}`, "
    "{dimension}: {name} {stored:.4g}, of the rows {measured:.4g}).",
    "Policies of LeRobot that normalise by quantiles see other numbers. lattok measures what it trains on, and writes "
    "right ones into annotated copies and exports",
    EXPORT,
    kind="other-quantiles",
)
OVERCOUNTED = warning(
    "{file} counts {count:,} values of {columns} in {frames:,} frames: LeRobot counted pixels.",
    "When LeRobot merges datasets, it weighs means by these counts. To write others",
    EXPORT,
    kind="overcounted",
)

# frames
CAMERA_SIZES = note(
    "The cameras have different sizes.", "Choose one camera (`cameras`), or a model that resizes.", kind="camera-sizes"
)
VIDEO_RATE = error(
    "{file} runs at {rate:g} fps, the dataset at {fps:g}.",
    "Correct fps in meta/info.json, or encode the video again.",
    kind="video-rate",
)
THINNED = note(
    "{file} runs at {rate:g} fps, the dataset at {fps:g}: its rows are some of its frames.",
    "lattok and LeRobot take those of their times.",
    kind="video-rate",
)
NEAR_RATE = warning(
    "{file} runs at {rate:.6g} fps, the dataset at {fps:g}: its last frame is shown {late:.2f} s after its row.",
    "lattok takes frame t for row t, since there are as many; LeRobot looks by time and finds others.",
    kind="near-rate",
)
SPAN = error(
    "Episode {episode} has rows up to {rows:g} s, and the last frame of {camera} is of {video:g} s. Later episodes of "
    "the file may show other moments than their rows say.",
    "Write the dataset again from its source, or leave these episodes out (`episodes`).",
    kind="short-video",
)
NOT_INCREASING = "expected seconds that increase from 0"
UNREADABLE_TIMES = error("{error}", kind="unreadable")
STRAYED = 0.99  # of a frame: less is the jitter of a clock
_ROWS_BEYOND = re.compile(r"Episode \d+ has rows up to ")
SHARED_SPAN = error(
    "Episodes {episode} and {other} claim the same seconds of {camera} in {file}: at least one of them shows other "
    "moments than its rows say.",
    "Write the dataset again from its source, or leave these episodes out (`episodes`).",
    kind="shared-span",
)
SPANS_IN_OTHER_ORDER = warning(
    "In {file}, episode {episode} of {camera} lies before episode {other}. If the two were swapped, the rows of each "
    "stand beside the frames of the other.",
    "Look at both",
    command("view", "{dataset}"),
    kind="spans-in-other-order",
)
BLANK_FRAMES = note(
    "`{camera}` shows nothing: every frame that was looked at ({count}) is of one colour.",
    "Leave this camera out (`cameras`): it only costs time.",
    kind="blank-camera",
)
BLANK_EPISODES = warning(
    "`{camera}` shows nothing, all the time or for a while, in {count} of {all:episode|episodes} looked at: {named}.",
    "Leave them out (`episodes`).",
    kind="blank",
    cost="Labels of video mean nothing there.",
)
FROZEN_EPISODES = warning(
    "`{camera}` shows the same picture while the robot moves in {count} of {all:episode|episodes} looked at: {named}.",
    "Leave them out (`episodes`), or leave the camera out (`cameras`).",
    kind="frozen",
    cost="Labels of video say there that nothing happens.",
)
FROZEN_FILMS = FROZEN_EPISODES._replace(  # where no numbers tell whether the robot moves
    what="`{camera}` shows one picture from beginning to end in {count} of {all:episode|episodes} looked at: {named}."
)
SWAPPED = warning(
    "`{one}` and `{other}` show what the other one shows elsewhere in {count} of {all:episode|episodes} looked at: "
    "{named}.",
    "Look at them. Swap the cameras, or leave the episodes out (`episodes`).",
    kind="swapped-cameras",
    cost="Models take each for the other.",
)
SHOWN_OTHERWISE = warning(
    "`{camera}` shows the scene {how} in {count} of {all:episode|episodes} looked at: {named}.",
    "Turn it back there, or leave them out (`episodes`).",
    kind="shown-otherwise",
    cost="Models see another scene.",
)
STALE_FIRST = warning(
    "The first picture of `{camera}` is the last one of the episode before in {count} of {all:episode|episodes} looked "
    "at: {named}.",
    "Write the dataset again without the first rows: a buffer of the camera was not emptied.",
    kind="stale-first",
    cost="The first pair of each episode shows a jump.",
)
LATE_PICTURES = warning(
    "The pictures of `{camera}` move {steps:step|steps} ({ms:.0f} ms) after `{column}`.",
    "Shift them, or write the dataset again from its source.",
    kind="late-pictures",
    cost="Every action stands beside a picture of before it.",
)
EARLY_PICTURES = LATE_PICTURES._replace(
    what="The pictures of `{camera}` move {steps:step|steps} ({ms:.0f} ms) before `{column}`.",
    kind="early-pictures",
    cost="Every picture shows what its action has yet to do.",
)
REPEATED_PICTURES = warning(
    "`{camera}` has about {rate:.3g} new pictures a second, and shows each for {held} rows.",
    "Choose a `stride` of {stride:frame|frames} or more.",
    kind="repeated-pictures",
    cost="Pairs of equal pictures say that nothing happens.",
)
HDR = note(
    "`{camera}` is HDR ({curve}) in {count:episode|episodes}: its pictures are pale, as no tones are mapped.",
    "Where other pictures are usual ones, convert it first (ffmpeg's filters zscale and tonemap).",
    kind="hdr",
)
OTHER_SIZE = warning(
    "`{camera}` is {declared} as meta/info.json says, and {shown} as it is filmed.",
    "lattok takes what is filmed. LeRobot's policies are built for what is declared: correct `shape`.",
    kind="other-size",
)
FRAME_SIZES = note(
    "`{camera}` has frames of {count} sizes ({sizes}).",
    "Models resize them; other uses need a `transform` that does.",
    kind="frame-sizes",
)
UNCAPTIONED = note(
    "{count:,} of {all:video has|videos have} no caption in {file}.",
    "The name of their folder is used instead, if they are not at the top.",
    kind="uncaptioned",
)
TRACKS = note(
    "{count:,} of the videos hold up to {tracks} films each, of which the first is read.",
    "To read another one: ffmpeg -i FILE -map 0:v:1 -c copy other/FILE",
    kind="tracks",
)
RESAMPLED = note(
    "{count:,} of {all:video does|videos do} not keep to {fps:g} fps (first: episode {first}).",
    "They are resampled in time. Choose another `fps` if most frames repeat.",
    kind="resampled",
)
UPSIDE_DOWN = note(
    "Pictures are stored upside down (macros_image_convention is opengl) and are read as they are stored.",
    "Show a trained model pictures the same way up: OpenVLA and others turn them by 180 degrees.",
    kind="upside-down",
)
ONE_MORE_ROW = note(
    "{columns}: one row more than there are actions, of after the last one. lattok leaves that row out.",
    "Nothing to do.",
    kind="one-more-row",
)
ROWS_AFTER_ENDS = note(
    "{rows:row|rows} after the last end in `{ends}` belong to no episode and are left out.",
    "Nothing to do, unless an end is missing.",
    kind="rows-after-ends",
)
HELD_ENDS = note(
    "`{flags}` stays true for several rows: an episode ends with the last of them.",
    "If it says success, not the end, describe the file without `ends`.",
    kind="held-ends",
)
PADDED_ROWS = note(
    "`{mask}` says which rows only fill arrays up to a common length; these are left out.",
    "Nothing to do.",
    kind="padded-rows",
)
STACKED_CAMERAS = note(
    "{arrays}: each row has several pictures, which are read as cameras.",
    "If they are of earlier steps, take the last one (`cameras`).",
    kind="stacked-cameras",
)
PICTURES_AS_NUMBERS = note(
    "{columns}: rows have the shape of pictures ({shape}) and are read as numbers.",
    "To use them as a camera, write them as uint8 RGB.",
    kind="pictures-as-numbers",
)
DEPTH_AS_NUMBERS = note(
    "{columns}: distances, going by the name ({shape}), are read as columns of numbers.",
    "Models here do not read depth.",
    kind="depth-as-numbers",
)
CHUNKS_NOT_STORED = note(
    "{arrays}: {count:chunk is|chunks are} not stored and read as zeros, as zarr writes what is all zeros.",
    "If files were not copied, copy the store again.",
    kind="chunks-not-stored",
)
FILES_AS_EPISODES = note(
    "The videos are named as cameras are ({names}) and equally long in turn. Each is read as an episode.",
    "If they show the same from several sides, {way_out}",
    kind="files-as-episodes",
)
SMALLER_COPIES = warning(
    "{count:video is|videos are} called as another one in a folder above, as long and smaller ({one} of {other}): "
    "likely the same, once more. Each is read as an episode.",
    "Put those of one size into a folder of their own.",
    kind="smaller-copies",
)
NUMBERED_TWICE = warning(
    "Names of pictures have two numbers that count ({one}, {other}); they are read as frames in this order.",
    "If one number is a camera or an episode, put the pictures of each into a folder of their own.",
    kind="numbered-twice",
)
FOLDERS_AS_CAMERAS = note(
    "The folders or names {folders} of {count:episode|episodes} are read as cameras.",
    "If each is an episode, put them into folders whose names count, such as 1 and 2.",
    kind="folders-as-cameras",
)
OWN_SPLITS = note(
    "The files have splits of their own ({where}: {splits}); all of them are read{judges}.",
    "To take one alone: {way_out}",
    kind="own-splits",
)


class Rows(NamedTuple):  # rows of several episodes, one after the other
    episodes: np.ndarray  # [n] int64, episode of each row
    frames: np.ndarray  # [n] int64, its frame in the episode
    columns: dict[str, np.ndarray]  # by key [n] or [n, ...]

    def place(self, row: int) -> str:
        return f"episode {self.episodes[row]}, frame {self.frames[row]}"

    def spans(self) -> list[slice]:
        """Return the rows of each episode."""
        ends = np.flatnonzero(np.append(self.frames == 0, True)).tolist()
        return [slice(first, last) for first, last in pairwise(ends)]

    def table(self, key: str) -> np.ndarray:
        """Return a column as float64 [n, m]."""
        return self.columns[key].reshape(len(self.frames), -1).astype(np.float64)

    def places(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """Return episode and frame of rows [n]."""
        return list(zip(self.episodes[rows].tolist(), self.frames[rows].tolist(), strict=True))


class Dimension(NamedTuple):  # summary of one dimension of a vector column
    key: str
    name: str
    minimum: float
    mean: float
    std: float
    maximum: float
    quantiles: tuple[tuple[float, ...], ...] = ()  # as `quantile_ranges` has them


def unreadable(error: LattokError, episodes: Iterable[int] = ()) -> Finding:
    """Find that something cannot be read, for the reason that the error says."""
    text = str(error)
    known = {FETCH: LFS_POINTER, EMPTY: EMPTY_FILE, NOT_INCREASING: UNREADABLE_TIMES}
    kind = next((each for sign, each in known.items() if sign in text), UNREADABLE)
    return UNREADABLE.finding(episodes, error=error)._replace(problem=SPAN if _ROWS_BEYOND.match(text) else kind)


def _is_store(folder: PurePath) -> bool:
    return folder.suffix.lower() == STORE


def numbers_beside(
    what: str, files: Iterable[PurePath], episodes: int, films: Iterable[PurePath] = ()
) -> Iterator[Finding]:
    """Say which files beside films or pictures hold numbers, which are not read; one of JSON each may, others say
    something of the whole."""
    files, named = [*files], {film.with_suffix(".npz") for film in films}
    stores = {next(filter(_is_store, path.parents), path) for path in files}  # a store is a folder
    kinds = Counter(path.suffix.lower() for path in stores if path.stem not in ("captions", "metadata"))
    each = (kind for kind in (".json", ".jsonl") if kinds[kind] >= max(episodes, 2))
    if kinds := {kind: count for kind in (*ARRAYS, *TABLES, STORE, *each) if (count := kinds[kind])}:
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        way_out = READ_WITH_FILMS if named.intersection(files) else WRITE_BOTH
        yield NUMBERS_BESIDE.finding(what=what, files=shown, way_out=way_out)


def films_alone(dataset: Any) -> bool:
    """Return whether films lie beside the files of a dataset of which nobody knows the actions."""
    return any(finding.kind == FILMS_ALONE.kind for finding in dataset.findings)


def own_splits(where: str, counts: Mapping[str, int], judge: str, way_out: str) -> Finding:
    """Say which splits the files have, with how many episodes, and which of them `judge`s, if one does."""
    shown = ", ".join(f"{name}: {counted(count, 'episode')}" for name, count in counts.items())
    judges = f", {judge} for evaluation" if judge else ""
    return OWN_SPLITS.finding(where=where, splits=shown, judges=judges, way_out=way_out[0].lower() + way_out[1:])


def short_video(episode: int, camera: str, rows: float, video: float, fps: float) -> Finding | None:
    """Find that rows go on, in seconds, for more than half a frame after the last one that a video shows."""
    told = {"episode": episode, "camera": camera, "rows": rows, "video": max(video - 1 / fps, 0)}
    return SPAN.finding([episode], **told) if rows > video - 0.5 / fps else None


def counted_otherwise(key: str, rows: Rows) -> Finding | None:
    """Find that `frame_index` does not count from 0 in every episode, or `index` not on from frame to frame."""
    values = rows.columns[key]
    starts = values[rows.frames == 0]
    first = starts if key == "index" else np.zeros_like(starts)
    lengths = np.diff(np.flatnonzero(np.append(rows.frames == 0, True)))
    wrong = values != np.repeat(first, lengths) + rows.frames
    if key == "index":  # no frame of one episode has that of another
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        wrong |= count[place] > 1
    episodes = np.unique(rows.episodes[wrong])
    if not len(episodes):
        return None
    return COUNTED_OTHERWISE.finding(episodes, column=key, start=START[key])


def column_figures(key: str, names: Sequence[str], rows: Rows) -> Iterator[Dimension | Finding]:
    """Sum up the dimensions of a column that hold any finite value, and report what is odd in them."""
    values = rows.columns[key].reshape(len(rows.frames), -1)
    measured = rows.episodes[~np.isnan(values).all(axis=1)]
    unknown = ~np.isin(rows.episodes, measured) & ("action" in key)  # [n] rows of episodes whose actions nobody knows
    if unknown.any():
        yield UNKNOWN_ACTIONS.finding(rows.episodes[unknown].tolist(), column=key)
    constant, wild, alike = [], [], dict[bytes, list[str]]()
    for name, column in zip(names, values.T, strict=True):
        if (bad := ~np.isfinite(column) & ~unknown).any():
            alike.setdefault(bad.tobytes(), []).append(name)
    for where, named in alike.items():  # the same rows of several dimensions are said once
        rows_of = np.flatnonzero(np.frombuffer(where, dtype=bool))
        facts = {"column": key, "dimension": few_of(named, NAMED), "count": len(rows_of) * len(named)}
        yield NOT_FINITE.finding(rows.episodes[rows_of].tolist(), **facts, place=rows.place(int(rows_of[0])))
    for name, column in zip(names, values.T, strict=True):
        known = np.flatnonzero(np.isfinite(column))
        if not len(known):
            continue
        numbers = column[known].astype(np.float64)
        low, high = int(numbers.argmin()), int(numbers.argmax())
        figures = numbers[low], numbers.mean(), numbers.std(), numbers[high]
        ranges = quantile_ranges(numbers[:: len(numbers) // SAMPLE_ROWS + 1])
        yield Dimension(key, name, *figures, tuple(map(tuple, ranges.tolist())))
        if numbers[low] == numbers[high]:
            constant.append(name)
        elif found := _wild(numbers, low, high):
            facts = {"column": key, "dimension": name, "place": rows.place(int(known[found.pop("at")]))}
            wild.append(WILD.finding(rows.episodes[known[found.pop("rows")]].tolist(), **facts, **found))
    if constant:
        problem = CONSTANT_ACTIONS if key.startswith("action") else CONSTANT
        shown = ", ".join([*constant[:NAMED], *(["…"] if len(constant) > NAMED else [])])
        yield problem.finding(column=key, count=len(constant), all=len(names), names=shown)
    yield from wild


def _wild(numbers: np.ndarray, low: int, high: int) -> dict[str, Any]:
    """Look for values far outside the bulk, in units of its spread; of their ends `low` and `high` one is the worst."""
    first, middle, last = np.quantile(numbers[:: len(numbers) // SAMPLE_ROWS + 1], [0.01, 0.5, 0.99])
    # the wider of two robust scales: the MAD alone is zero or tiny for grippers and resting joints
    away = np.abs(numbers - middle)
    scale = max(1.4826 * float(np.median(away)), (last - first) / 4.65)
    at = high if numbers[high] - middle > middle - numbers[low] else low
    if scale <= 0 or away[at] <= WILD_Z * scale:
        return {}
    rows = np.flatnonzero(away > WILD_Z * scale)
    figures = {"count": len(rows), "worst": numbers[at], "away": away[at] / scale, "median": middle}
    return {"at": at, "rows": rows, **figures}

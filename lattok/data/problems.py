"""What inspecting a dataset may find, and what to do about it."""

from __future__ import annotations

from lattok.utils.findings import Problem

# its structure
DAMAGED = Problem("error", "Episode {episode}: {reason}")
LEFT_OUT = Problem("note", "{names} left out: {reason}.")
NO_ACTIONS = Problem(
    "note",
    "There are no actions in this dataset.",
    "Latent action models of video can be trained on it, without labels, and label it; action tokenizers cannot. Train "
    "one: lattok train image-lam {dataset} --out my-lam --labelled-fraction 0",
)
NO_STATE = Problem("note", "There is no `observation.state`, but {columns}.", "{joined}")
NO_CAMERAS = Problem(
    "note",
    "There are no cameras in this dataset.",
    "Action tokenizers can be trained on it and label it; models of video cannot.",
)
NOT_READ = Problem("note", "{columns}: more than {most} dimensions, so the values were not read.")
BAD_SPACE = Problem("error", "{error}", "Correct the declaration.")
UNKNOWN_FILE = Problem(
    "error",
    "{file} belongs to no episode of meta/episodes.",
    "Remove it, or copy the dataset again: LeRobot reads it, lattok would not label it.",
)
UNKNOWN_ROWS = Problem(
    "error",
    "{file} holds rows of episode {episode}, which meta/episodes does not place there.",
    "Copy the dataset again.",
)

# lengths and tasks
SHORT = Problem(
    "note",
    "{count} of {all} episodes are shorter than {seconds:g} s (first: {first}).",
    "Choose stride and horizon to fit; frames near an end have no partner.",
)
NO_CAPTIONS = Problem(
    "note",
    "{count} of {all} episodes have no language instruction (first: {first}).",
    "Give captions (JSONL or CSV) if a model should be told what happens.",
)
NO_INSTRUCTIONS = NO_CAPTIONS._replace(severity="warning", advice="Tasks cannot be told apart.")
NO_PARTNER = Problem(
    "note",
    "With a stride of {stride} frames, {share:.0%} of the frames have no partner.",
    "They are left out of training and marked invalid when annotating.",
)
PADDED = Problem(
    "note",
    "With a horizon of {horizon}, {share:.0%} of the chunks run over the end of their episode.",
    "They repeat the last action, as in the paper.",
)

# values
NOT_FINITE = Problem(
    "error",
    "`{column}` ({dimension}) holds {count} values that are not finite, first in {place}.",
    "Leave those episodes out (`episodes`), or repair them.",
)
UNKNOWN_ACTIONS = Problem(
    "note",
    "Episodes whose actions are unknown: {count} (first: {first}). All of their `{column}` are NaN.",
    "Models of video need none. An inverse dynamics model (`idm`) that learns from the others can fill them in; action "
    "tokenizers have to leave those episodes out (`episodes`).",
)
CONSTANT = Problem(
    "note",
    "`{column}`: {count} of {all} dimensions never change ({names}).",
    "They carry nothing; a tokenizer need not spend codes on them.",
)
CONSTANT_ACTIONS = CONSTANT._replace(severity="warning")
WILD = Problem(
    "warning",
    "`{column}` ({dimension}) holds {count} wild values, the worst {worst:.4g} in {place} ({away:.0f} robust standard "
    "deviations from the median {median:.4g}).",
    "Look at it; leave the episode out, or normalise with quantiles.",
)
OTHER_RATE = Problem(
    "error",
    "{count} episodes (first: {first}) have timestamps that do not fit fps = {fps:g}; the timestamps say {measured} "
    "fps.",
    "Correct fps in meta/info.json, or resample.",
)

# frames
CAMERA_SIZES = Problem(
    "note", "The cameras have different sizes.", "Choose one camera (`cameras`), or a model that resizes."
)
VIDEO_RATE = Problem(
    "error",
    "{file} runs at {rate:g} fps, the dataset at {fps:g}.",
    "Correct fps in meta/info.json, or encode the video again.",
)
BLANK_FRAMES = Problem(
    "note",
    "`{camera}` shows nothing: every frame that was looked at ({count}) is of one colour.",
    "Leave this camera out (`cameras`): it only costs time.",
)
FRAME_SIZES = Problem(
    "note",
    "`{camera}` has frames of {count} sizes ({sizes}).",
    "Models resize them; other uses need a `transform` that does.",
)
UNCAPTIONED = Problem(
    "note", "{count:,} of {all:,} videos have no caption in {file}.", "The name of their folder is used instead."
)
RESAMPLED = Problem(
    "note",
    "{count:,} of {all:,} videos do not keep to {fps:g} fps (first: episode {first}).",
    "They are resampled in time. Choose another `fps` if most frames repeat.",
)
UPSIDE_DOWN = Problem(
    "note",
    "Pictures are stored upside down (macros_image_convention is opengl) and are read as they are stored.",
    "Show a trained model pictures the same way up: OpenVLA and others turn them by 180 degrees.",
)

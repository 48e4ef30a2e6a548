"""What to do about a verdict that does not hold, or that was left open, by the verdict's key."""

from __future__ import annotations

from lattok.evaluation.report import NEEDS_TRAINING

FALLS_SHORT = {
    "action_error": "Train longer; look at the losses in its run folder, and whether the training actions are noisy.",
    "held_out_seen": "Evaluate on episodes that were not trained on, or train with episodes=train.",
    "codes_against_controls": "Label a few per cent of the pairs (labelled_fraction=0.05), train longer, or use the "
    "robust preset; without labels the raw frame change is hard to beat.",
    "codes_against_controls_xyz": "The mean over dimensions hides this: the codes say more about the gripper than "
    "about the motion. Label some pairs, shorten the stride to one visible movement, add a camera that sees depth.",
    "codes_against_controls_mlp": "A hidden layer reads as much from a control: the codes hold what is there anyway. "
    "Label some pairs; prefer linear probes only if your policy head is linear.",
    "codes_new_tasks": "What the codes mean depends on the task: train on more tasks, or keep to those trained on.",
    "codes_against_labels_alone": "Reconstruction adds nothing here: with these labels a supervised encoder does as "
    "well. It pays with fewer labels, or with more action-free video than labelled data.",
    "latents_against_controls": "Store the raw frame change (PCA) instead of latents, or label some pairs.",
    "latents_against_controls_xyz": "Label some pairs; for continuous targets the raw frame change is a serious rival.",
    "latents_against_controls_mlp": "A hidden layer reads as much from a control: label some pairs.",
    "latents_new_tasks": "What the latents mean depends on the task: train on more tasks, or keep to those trained on.",
    "latents_against_labels_alone": "Reconstruction adds nothing to the latents here: see the codes, use fewer labels.",
    "codes_in_use": "Train with the robust preset: per-token heads, normalised latents, a continuous warm-up and "
    "residual codes; see joint_bits in the log.",
    "codes_know_direction": "The codes spend their bits on other things: label some pairs, or use fewer codes.",
    "decoder_depends": "The decoder predicts from the current frame alone: predict_change and conditioning=add help, "
    "and a stride long enough for something to happen.",
    "prediction_against_blind": "What the latents carry does not help prediction: train longer, or see whether the "
    "scene moves by itself within the stride.",
    "action_under_distractors": "Other things that move will change these labels: train with distractors in "
    "view and some labels, or with two streams (streams=joint, or stage 1 and 2).",
    "env_takes_distractor": "The environment stream is not where such motion goes: train it as stage 1 on the same "
    "videos with instructions, or with distractors in view.",
    "additive": "Do not add up latents of consecutive gaps; to make them additive train with additivity_weight and "
    "extra_strides.",
    "reversible": "Do not negate latents to undo a motion; relabel the reversed video instead.",
    "transfers": "A latent means different things in different scenes: do not replay latents of one clip in another.",
    "error_against_kmeans": "A decoder that sees one code at a time is bounded by k-means: use decoder=context, or "
    "ResidualVQ where a codec is wanted.",
    "error_against_uniform_bins": "Train longer or on more data: bins need no training and do better.",
    "error_against_fast": "This is expected of a target for supervision; as a codec use FAST or ResidualVQ.",
    "error_against_mean": "The codes say nothing: look at the loss and at the units of the actions.",
    "tokens_in_use": "Start the codebook from data (codebook_start=kmeans) and revive dead codes (revive_below=0.03).",
}
UNDECIDED = {
    "decoder_depends": "Something depends on them, but little: predict_change and conditioning=add help, "
    "and a stride long enough for something to happen.",
}
NOT_RUN = "Run: lattok evaluate MODEL DATASET --controls trained."
UNCLEAR = "Too close to tell: hold out more episodes, or average several seeds."


def advice_on(key: str, holds: bool | None, text: str) -> str:
    """Advise on a verdict in one or two sentences; an empty text for one that holds, or whose key is not known."""
    if holds is None:
        if NEEDS_TRAINING in text:
            return NOT_RUN
        return UNDECIDED.get(key, UNCLEAR if key in FALLS_SHORT and "not run" not in text else "")
    return "" if holds else FALLS_SHORT.get(key, "")

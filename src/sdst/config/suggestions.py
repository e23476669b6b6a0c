"""What an unknown option or choice of a command line was meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

MEANT = {
    ("epochs", "num_epochs", "n_epochs"): ("trainer.max_epochs",),
    ("max_steps", "steps"): ("+trainer.max_steps", "trainer.max_epochs"),
    ("k", "num_levels", "n_levels", "num_layers", "layers"): ("levels=",),
    ("gpus", "gpu", "num_gpus", "ngpus", "n_gpus"): ("trainer.devices",),
    ("cpu", "device", "cuda"): ("trainer.accelerator",),
    ("amp", "fp16", "bf16", "half"): ("trainer.precision",),
    ("learning_rate", "base_lr"): ("optim.lr",),
    ("wd",): ("optim.weight_decay",),
    ("warmup", "warmup_epochs"): ("optim.warmup_steps",),
    ("lr_drop", "lr_step", "step_size", "milestones", "scheduler"): ("optim.decay_epochs",),
    ("bs", "batch", "bsz"): ("data.batch_size",),
    ("workers", "n_workers"): ("data.num_workers",),
    ("dataset", "dset_name", "datamodule"): ("data=",),
    ("hidden_dim", "hidden_size", "d_model", "width"): ("model.dim",),
    ("num_heads", "nheads", "n_heads"): ("model.heads",),
    ("arch", "method", "network", "net"): ("model=",),
    ("modules", "module_order"): ("order=",),
    ("attention_type", "attn", "cross_attention"): ("attention=",),
    ("pool", "pooling_type"): ("pooling=",),
    ("losses", "loss_weights"): ("loss=",),
    ("random_seed", "manual_seed", "seeds"): ("seed",),
    ("clip", "grad_clip", "clip_grad", "max_norm"): ("trainer.gradient_clip_val",),
    ("grad_accum", "accumulate"): ("trainer.accumulate_grad_batches",),
    ("eval_every", "val_every", "eval_epoch"): ("trainer.check_val_every_n_epoch",),
    ("fast_dev_run", "dry_run"): ("debug=fdr",),
    ("overfit", "overfit_batches"): ("trainer.limit_train_batches",),
    ("profile", "profiler"): ("debug=profiler",),
    ("strategy",): ("+trainer.strategy",),
    ("num_nodes", "nodes", "nnodes"): ("+trainer.num_nodes",),
    ("wandb", "wandb_project", "use_wandb"): ("logger=wandb",),
    ("tensorboard", "tb"): ("logger=tensorboard",),
    ("mlflow",): ("logger=mlflow",),
    ("checkpoint", "ckpt", "ckpt_path", "resume_from", "resume_from_checkpoint"): ("resume=RUN",),
    ("out", "output", "output_dir", "out_dir", "save_dir", "log_dir", "results_dir"): ("run_dir",),
    ("exp", "exp_name", "experiment_name", "run_name"): ("run_dir", "group"),
    ("table", "tables"): ("experiment=",),
    ("laptop", "size"): ("scale=",),
    ("schedule", "lr_schedule"): ("recipe=", "optim.decay_epochs"),
}
"""Last parts of keys that people type -> what they may mean; the first that exists is suggested.

``group=`` is a choice of a group, ``group=choice`` a certain one, ``+key`` an option that has no default.
"""


def meant(key: str, known: Collection[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """What an unknown key may have been meant to be, the likeliest first; empty if nothing is like it.

    Args:
        key: The key that was typed, without ``+`` or ``~``.
        known: Keys of all options that take a value.
        groups: Group -> its choices.
    """
    if key in groups:
        return [one_of(key, groups[key])]
    section, _, word = key.rpartition(".")
    word = word.replace("-", "_")
    candidates = next((options for words, options in MEANT.items() if word.lower() in words), ())
    for candidate in candidates:
        if suggestion := _existing(candidate, key, known, groups):
            return [suggestion]
    same = [option for option in known if option.rpartition(".")[2].lower() == word.lower() and option != key]
    inside = [option for option in same if section and option.startswith(f"{section}.")]
    if found := inside or same:
        return sorted(found, key=lambda option: -difflib.SequenceMatcher(None, key, option).ratio())[:3]
    names = [name for name in (*known, *groups) if name != key]
    return [
        one_of(name, groups[name]) if name in groups and name not in known else name
        for name in difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    ]


def nearest(choice: str, choices: Sequence[str]) -> str | None:
    """The choice of a group that is most like an unknown one, such as ``k3`` for ``3``."""
    close = difflib.get_close_matches(choice.lower(), choices, n=1, cutoff=0.6)
    return close[0] if close else None


def one_of(group: str, choices: Sequence[str]) -> str:
    """A group with its choices, as ``group=a|b``."""
    return f"{group}={'|'.join(choices)}"


def _existing(
    candidate: str, key: str, known: Collection[str], groups: Mapping[str, Sequence[str]]
) -> str | None:
    """How to write a candidate of :data:`MEANT`; None if the configuration lacks it."""
    if candidate.startswith("+") or candidate == "resume=RUN":
        return candidate if candidate.lstrip("+") != key else None
    group, is_choice, choice = candidate.partition("=")
    if not is_choice:
        return candidate if candidate in known and candidate != key else None
    if group not in groups or (choice and choice not in groups[group]):
        return None
    return candidate if choice else one_of(group, groups[group])

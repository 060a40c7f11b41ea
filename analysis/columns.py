"""What every file of a results directory holds, and what each of its columns and fields means.

Owns the words; the documentation's page of files is made from them. Contract: every column that a table can have, and every field
at the top of a JSON file, has a sentence here (tests/docs/test_reference.py compares with what is written). Sentences are
Markdown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_EMPTY = "Empty where a choice means nothing, as the gate's do without gates."

RESULTS: Mapping[str, str] = {
    "key": "The fine-tuning's key. Its first 12 digits end the name of the stage's directory.",
    "mask_key": "The key of its mask. Joins `results.csv` to `layers.csv`.",
    "configuration": "Equal in rows that differ in nothing but the seed; `c-` and 12 hexadecimal digits.",
    "baseline": "The `configuration` of the all-ReLU network that the row's training started from.",
    "preset": "The preset that the sweep was given.",
    "dataset": "The data set; an image folder's with the start of its fingerprint.",
    "model": "The network.",
    "width": "Channels of its first stage.",
    "image_size": "Height and width of the images in pixels.",
    "epochs": "Epochs of the stage that the row is about.",
    "seed": "The seed of the whole chain.",
    "selection": "The part that chose the best epoch: `val`, or `test` as the paper does.",
    "precision": "What training steps were computed in: `fp32` or `bf16`.",
    "mask_method": "How the mask was found. `none` is the all-ReLU network.",
    "granularity": "What a mask keeps or drops as one: a `pixel` or a `channel`.",
    "mask_start": "The student's first weights when its mask was learned: `teacher` or `scratch`.",
    "depth_price": f"How readily the ranking emptied inner layers, so that blocks could be gated. {_EMPTY}",
    "layer_price": "How readily the ranking emptied layers, wherever they are. Empty where it had no such price.",
    "sensitivity": "Where the layers' sensitivities came from: the sparse twin's density, or `given` with a digest of your file.",
    "budget": "ReLU units over the whole network: what was allowed. Whole channels fill it only as far as they fit.",
    "weights": "Where the fine-tuning's weights started: `rewind`, with the all-ReLU network's, or `continue`, with the mask's.",
    "d_th": "Threshold of gated branching; empty without it.",
    "gate_blocks": "How many blocks were to be gated, those that would lose least; empty where something else decided, "
    "or none were.",
    "gate_loss": "What the gated blocks were to lose at most, in nats, all added up; empty where something else decided.",
    "max_seconds": "Predicted seconds that the final exit was to take at most: those blocks were gated that lose least for it. "
    "Empty where something else decided. What the models do take is in the predicted columns.",
    "link": "The network between the parties that `max_seconds` is about; empty where both were to be on one machine.",
    "gamma": f"How the gate grew: `linear` or `cosine`. {_EMPTY}",
    "gate_epochs": f"Epochs until the gate was 1. {_EMPTY}",
    "gb_init": f"How shallow branches started: `random` or `least-squares`. {_EMPTY}",
    "kernel_size": f"Kernel of the shallow branches' convolutions. {_EMPTY}",
    "ac_after": "Stages after which the network has auxiliary classifiers, such as `2+3`; empty where it has none.",
    "ac_head": f"What auxiliary classifiers were made of: `pool`, `bottleneck` or `grid`. {_EMPTY}",
    "ac_init": f"How they started: `random` or `fit`. {_EMPTY}",
    "ac_end": f"What they were in the end: as `trained`, or `fit` anew. {_EMPTY}",
    "pram": f"Form of the mismatch loss: `attention` or `eq2`. {_EMPTY}",
    "beta": "Weight of that loss.",
    "exit": "`final`, or `ac3` for the auxiliary classifier after stage 3.",
    "relus": "ReLUs per image of the model as deployed for this exit: gated blocks collapsed, all behind the exit dropped.",
    "macs": "Multiply-accumulates per image of that model: convolutions, 1x1 shortcuts and linear layers.",
    "depth": "Convolutions on the longest way through it, as the paper's tables count; neither the first one nor a head's.",
    "params": "Its trainable parameters.",
    "val_accuracy": "Percent of the validation part that is right.",
    "test_accuracy": "Percent of the test part that is right. Where `selection` is `test`, the same as `val_accuracy`.",
    "worst_class_accuracy": "Of each class's test images some percent is right: the lowest of these. Classes without test "
    "images are left out. Empty for models of before classes were told apart.",
    "class_spread": "Standard deviation of that accuracy over the classes, in points. Empty likewise.",
    "est_delphi_online_lan_s": "**Estimated** seconds of DELPHI's online phase, without a network's delay. Not measured.",
    "est_delphi_online_wan_s": "**Estimated** seconds of DELPHI's online phase at 400 Mbit/s and 40 ms a round trip.",
    "est_delphi_offline_lan_s": "**Estimated** seconds of DELPHI's offline phase, without a network's delay.",
    "est_delphi_offline_wan_s": "**Estimated** seconds of DELPHI's offline phase at 400 Mbit/s.",
    "est_delphi_online_bytes": "**Estimated** bytes of DELPHI's online phase.",
    "est_delphi_offline_bytes": "**Estimated** bytes of DELPHI's offline phase.",
    "time_s": "Seconds of training in this stage alone; 0 where another stage trained the same, and was copied.",
    "pi_time_s": "**Measured** seconds of one warm image under private inference. Only where a model was measured.",
    "pi_bytes": "**Measured** bytes that both parties send for one warm image. Only where a model was measured.",
    "pi_protocol": "What was measured: a real two-party run, or an online phase with a trusted dealer.",
    "pred_time_s": "**Predicted** seconds of one warm image under CHEETAH, both parties on the calibration's machine. Predicted "
    "columns are only there where a model's layers can be told.",
    "pred_bytes": "**Predicted** bytes that both parties send for it.",
    "pred_round_trips": "**Predicted** round trips, at most so many.",
    "pred_lan_s": "**Predicted** seconds over a LAN (3 Gbit/s, 0.3 ms): traffic and round trips on top.",
    "pred_wan_s": "**Predicted** seconds over a WAN (400 Mbit/s, 40 ms).",
    "pred_link_s": "**Predicted** seconds over the link of `--link`, where it is another one.",
    "pred_link": "That link.",
    "pred_from": "The calibration that has most of the model's layers.",
    "pred_fitted": "How many of its layers no calibration has: their costs are fitted to those of others.",
}
"""Columns of results.csv and results.parquet; `analysis.results` writes them."""

LAYERS: Mapping[str, str] = {
    "mask_key": "The mask's key. Joins `layers.csv` to `results.csv`.",
    "layer": "The ReLU layer's name, as masks, sensitivities and `--sensitivity` files know it.",
    "size": "Positions that could hold a ReLU.",
    "kept": "Positions that keep it.",
    "d": "`kept` / `size`: what `--d-th` is compared with in a block's inner layer.",
    "eta_alpha": "The layer's sensitivity, by which the budget was shared out; empty where the method shares it out itself.",
}
"""Columns of layers.csv that results.csv doesn't have, or has about another stage."""

POINTS: Mapping[str, str] = {
    "seeds": "How many seeds the point is the mean of.",
    "val_accuracy_std": "Standard deviation of `val_accuracy` over them (n - 1); empty for one seed.",
    "test_accuracy_std": "Standard deviation of `test_accuracy` over them (n - 1); empty for one seed.",
    "worst_class_accuracy_std": "Standard deviation of `worst_class_accuracy` over them (n - 1); empty for one seed.",
    "class_spread_std": "Standard deviation of `class_spread` over them (n - 1); empty for one seed.",
}
"""Columns of pareto.csv that results.csv doesn't have."""

RECORD: Mapping[str, str] = {
    "format": "Version of the record's form.",
    "stage": "Which kind of stage.",
    "version": "The stage's version, raised when its code starts to give other results for the same configuration.",
    "key": "The stage's identity: sha256 over name, version, configuration and the parents' keys.",
    "config": "The stage's configuration: all that its result depends on, except its parents.",
    "canonical": "A key that stages with different configurations share if they train the same; elsewhere the stage's own.",
    "parents": "The stages whose results it read: kind and key by role.",
    "metrics": "What the stage found out: the chosen epoch, sensitivities, layers, costs per exit; test accuracy per exit and "
    "class (`test_by_class`), and a baseline's names of the classes. In a copy, `same_as` is the key of the stage that trained.",
    "history": "One object per epoch: loss, learning rate, validation accuracy, seconds.",
    "rows": "One object per exit that can be deployed: what becomes a row of `results.csv`.",
    "time_s": "Seconds of training, interruptions left out; 0 where another stage trained the same, and was copied.",
    "started": "When it started (UTC).",
    "finished": "When it was done (UTC).",
    "host": "The machine it ended on: name, CPUs, threads, workers, whether networks were compiled and steps recorded.",
    "versions": "Versions of Python and of the packages that compute.",
    "labels": "What does not count as identity: preset, git commit.",
    "files": "Size and sha256 of each of its files.",
    "sha256": "Digest of the record itself.",
}
"""Fields at the top of a stage's record.json; `raysp.store.records` writes them."""

MEASUREMENT: Mapping[str, str] = {
    "format": "Version of the file's form.",
    "exit": "Which classifier was run.",
    "protocol": "`cheetah` or `semi2k`.",
    "meaning": "What a run under that protocol is worth, in words.",
    "relus": "ReLUs of the collapsed model.",
    "macs": "Multiply-accumulates of the collapsed model.",
    "depth": "Depth of the collapsed model.",
    "params": "Parameters of the collapsed model.",
    "time_s": "Wall seconds of one warm image, the slower party's; the median over the warm runs.",
    "time_s_range": "The fastest and the slowest of them.",
    "bytes": "Bytes that both parties send for one warm image; the mean over the warm runs.",
    "bytes_runs": "The same of each run.",
    "messages": "Messages that both parties send; the mean.",
    "warm_runs": "How many warm runs there were.",
    "others_cores": "Cores that other processes kept busy meanwhile. Seconds are to be trusted when it is near 0.",
    "cold": "Seconds and bytes of the first run, with keys and set-up.",
    "parties": "Wall and CPU seconds, bytes, messages and peak memory of server and client.",
    "operations": "Seconds, bytes and messages per kind of operation.",
    "max_error": "Largest difference from torch's logits.",
    "max_error_relative": "The same as a share of the largest logit.",
    "same_class": "Whether all runs chose the class that torch chooses.",
    "image": "`noise`, or `given` where you gave a picture.",
    "versions": "Versions of engine, torch and Python.",
    "machine": "The machine that measured.",
    "listened_on": "The address that both parties listened on.",
    "measured": "When (UTC).",
    "weights": "Digest of the very weights that were measured. A file about others is left out of reports.",
    "predicted": "What a calibration foretold, if there was one; `fitted` are layers that it doesn't have.",
    "modelled": "Seconds over a LAN and a WAN: modelled from the traffic, not measured.",
}
"""Fields at the top of pi-<exit>-<protocol>.json; `raysp.pi.stored` writes them."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One kind of file that a user finds."""

    name: str
    """As it is called below the results directory."""
    what: str
    """What it holds."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Its columns, or the fields at its top, with their meanings."""


FILES = (
    File(
        name="results.csv",
        what="One row per exit of every finished model, of all sweeps that used this results directory. The final classifier and "
        "each auxiliary classifier are models of their own, and so is the all-ReLU network. `results.parquet` holds the same.",
        columns=RESULTS,
    ),
    File(
        name="layers.csv",
        what="One row per ReLU layer of every mask: what is left of it (the paper's Fig. 2). Its other columns are those of "
        "`results.csv` that say what was trained on what, and with which mask.",
        columns=LAYERS,
    ),
    File(
        name="pareto.csv",
        what="The front: the models that no other model of the same data set and selection dominates. The seeds of one "
        "configuration are one point. It has mean accuracies, and the costs of the best seed's model, which `key` names. Its "
        "other columns are those of `results.csv`.",
        columns=POINTS,
    ),
    File(
        name="pareto.png, pareto.svg",
        what="A panel per cost, each with the front of accuracy against that cost alone; the costs are those of `--costs`.",
    ),
    File(
        name="classes.png, classes.svg",
        what="What each class lost or gained against the all-ReLU network of the same seed, for models of the front; where both "
        "were trained since classes are told apart.",
    ),
    File(
        name="fig1.png, fig2a.png, fig2b.png, growth.png",
        what="The paper's figures from your models, and the front's hypervolume over device-hours; each where there is something "
        "to draw, and as SVG too.",
    ),
    File(
        name="tables.md, tables.tex",
        what="The front, its knee, the paper's Tables 1 and 2 with the paper's figures beside yours, predicted and measured "
        "private inference, estimates by protocol if you asked for them, and what the sweeps were to cost and have cost.",
    ),
    File(name="report.html", what="All of it to look at and to choose from, in one file that needs no network."),
    File(
        name="stages/NAME-KEY/record.json",
        what="A stage's record. That it exists means that the stage is done.",
        columns=RECORD,
    ),
    File(
        name="stages/NAME-KEY/weights.safetensors",
        what="The stage's weights, with a description of the network that they belong to. `raysp.load_model` reads it. A "
        "ranking's holds ranks too, and no description.",
    ),
    File(
        name="stages/NAME-KEY/checkpoint.safetensors",
        what="Where an unfinished stage goes on. It is deleted when the stage is done.",
    ),
    File(
        name="stages/NAME-KEY/rungs.json",
        what="What a stage was worth where early stopping compared it, while it is unfinished.",
    ),
    File(name="stages/NAME-KEY/error.txt", what="The traceback of a stage's last failure, until it succeeds."),
    File(
        name="stages/NAME-KEY/pi-EXIT-PROTOCOL.json",
        what="A measurement under private inference.",
        columns=MEASUREMENT,
    ),
    File(name="plans/ID.json", what="What one sweep was asked to train, and the command that asked."),
    File(name="searches/ID.json", what="What a search has proposed so far."),
    File(
        name="pi-calibration-PROTOCOL.json",
        what="What layers of a network family cost under private inference, if you put `raysp pi calibrate`'s file here.",
    ),
    File(name="*.damaged-N", what="A file that could not be trusted. It was renamed, and is never read again."),
    File(name=".lock", what="Who is writing here."),
)
"""Every file of a results directory."""

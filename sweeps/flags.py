"""The flags of the sweeps.

Owns their names, help, and the checks that need nothing but themselves. Contract: what is imported here costs no time, so that
help and refusals come at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from raysp.command.amounts import read_amount
from raysp.command.terminal import tell_reading
from raysp.data.config import Selection
from raysp.engine.options import Compile, CudaGraph, Gpus, RunOptions, Stopping
from raysp.methods.choices import AcEnd, AcHead, AcStart, GateStart, Granularity, MaskMethod, MaskStart, Pram, Weights
from raysp.stages.presets import Preset, PresetName
from raysp.store.figures import COSTS
from raysp.training.recipes import GammaSchedule, Precision

if TYPE_CHECKING:
    from raysp.data.sources import Source

Which = Literal["front", "all"]
"""Models that are measured when a sweep is done."""
THE_PRESETS = "(default: the preset's)"


class _NotGiven(tuple[()]):
    """What a flag of several values holds when it was not given; with no value behind it, it holds another empty tuple."""


NOT_GIVEN: tuple[Any, ...] = _NotGiven()


def _several_or_none(metavar: str) -> Any:
    return arg(metavar=f"{metavar} ...", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """Flags of every sweep."""

    dataset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`digits`, `cifar10`, `cifar100`, or `imagefolder:PATH` for a tree with train/ and test/ or val/, a folder per class;
    `tiny-imagenet:PATH` for that archive as it unpacks; `huggingface:NAME` or `huggingface:PATH` for Parquet files."""
    image_column: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Of `huggingface:` the column of images; by default the only one."""
    label_column: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Of `huggingface:` the column of classes; by default the only one."""
    data_dir: Path = Path("data")
    """Where CIFAR lies, or is downloaded to."""
    image_size: Annotated[int | None, arg(metavar="PIXELS", help_behavior_hint="")] = None
    """Height and width that images get, a multiple of 8 (wrn22-8: 4, vgg16: 16); by default their own, of image folders 32."""
    selection: Annotated[Selection | None, arg(metavar="val|test", help_behavior_hint=THE_PRESETS)] = None
    """Part that chooses the best epoch: `val` is held out of the training part; `test` is the paper's way, and flatters."""
    width: Annotated[int | None, arg(metavar="CHANNELS", help_behavior_hint=THE_PRESETS)] = None
    """Channels of the network's first stage."""
    epochs_scale: float = 1.0
    """Multiplies every stage's epochs, and learning-rate milestones and the preset's gate epochs with them."""
    precision: Precision = "fp32"
    """What steps are computed in; `bf16` (autocast) trains other models than `fp32`. Accuracies are measured in float32."""
    seeds: Annotated[tuple[int, ...], arg(metavar="SEED ...", help_behavior_hint="(default: 0)")] = NOT_GIVEN
    """Each seed trains the whole chain once more."""
    storage: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="(default: runs/<preset>)")] = None
    """Results directory, or a URL such as s3://bucket/run. With several machines it must be one that all of them see."""
    plan: bool = False
    """Print the plan and how long it will take here, by some steps of each kind of stage; train nothing else."""
    inline: bool = False
    """Run in this process, without Ray, one stage after the other."""
    address: Annotated[str | None, arg(metavar="HOST:PORT|local", help_behavior_hint="")] = None
    """Ray cluster, or `local` to start one here; by default what `ray start` started on this machine, else a local one."""
    max_concurrent: Annotated[int | None, arg(metavar="STAGES", help_behavior_hint="")] = None
    """Stages at once; by default as many as the cluster's CPUs or GPUs allow."""
    workers_per_stage: int = 1
    """Training processes per stage, which share each batch under Ray Train."""
    gpus_per_stage: Annotated[Gpus | None, arg(metavar="GPUS|auto", help_behavior_hint="")] = None
    """GPUs per worker: 0.25 packs four on one, `auto` what pays (no whole sweep tried), 0 takes the CPU. By default 1, if any."""
    threads_per_stage: int = 1
    """CPU threads of each worker of a stage. More finish it sooner, but change results in their last digits (order of sums)."""
    compile: Compile = "off"
    """Compile training steps: faster on GPUs. Needs a C++ compiler and 30 s a stage, changes results' last digits."""
    cuda_graph: CudaGraph = "auto"
    """Record a training step once, and let the GPU repeat it: same results, several times as fast. `auto`: on GPUs."""
    local_batchnorm: bool = False
    """With several workers on GPUs: take batch norm's statistics over each worker's part of a batch, not over the whole batch."""
    stopping: Stopping = "none"
    """`pareto` gives up half of those left at 1/8, 1/4 and 1/2 of their last stage: the ones that add least to the front."""
    costs: Annotated[tuple[str, ...], arg(metavar="COLUMN ...", help_behavior_hint=f"(default: {' '.join(COSTS)})")] = COSTS
    """What is to be small, beside accuracy, for early stopping, searches and the front at the end: of relus, macs, depth,
    pred_time_s, pred_lan_s, pred_wan_s, pred_link_s (needs one --link), pred_bytes and pred_round_trips."""
    calibration: Annotated[tuple[str, ...], _several_or_none("FILE")] = NOT_GIVEN
    """What `raysp pi calibrate` wrote, on one machine, to predict by; by default what comes with the package."""
    retries: int = 1
    """How often a stage is tried again when its worker or machine dies; what its own code raises is not."""
    measure_pi: Annotated[Which | None, arg(metavar="front|all", help_behavior_hint="")] = None
    """When all is trained, run the models on the front (or all) under private inference, here; needs the extra `pi`."""
    track: Annotated[tuple[str, ...], arg(metavar="TRACKER ...", help_behavior_hint="")] = NOT_GIVEN
    """Tell trackers what becomes of stages: `mlflow:URI`, `wandb:PROJECT`, `tensorboard:DIR`. One that is down does no harm."""
    verbose: bool = False
    """Show Ray's own messages, and the traceback of an error."""

    def open(self, preset: Preset) -> "Source":
        """The data set: the flags', or the preset's."""
        from raysp.data.huggingface import Columns
        from raysp.data.sources import open_source  # numpy and Pillow, which help needs not

        columns = Columns(image=self.image_column, label=self.label_column)
        name = preset.dataset if self.dataset is None else self.dataset
        chosen = self.selection or preset.selection
        return open_source(name, self.image_size, self.data_dir, chosen, columns=columns, tell=tell_reading)

    def options(self) -> RunOptions:
        """Where and how to run. Raises ValueError."""
        return RunOptions(
            inline=self.inline,
            address=self.address,
            max_concurrent=self.max_concurrent,
            workers_per_stage=self.workers_per_stage,
            gpus_per_stage=self.gpus_per_stage,
            threads_per_stage=self.threads_per_stage,
            sync_batchnorm=not self.local_batchnorm,
            retries=self.retries,
            stopping=self.stopping,
            compile=self.compile,
            cuda_graph=self.cuda_graph,
            track=self.track,
            verbose=self.verbose,
        )


Nothing = Literal["none"]


def _several(metavar: str, default: str = "") -> Any:
    return arg(metavar=f"{metavar} ...", help_behavior_hint=f"(default: {default})" if default else THE_PRESETS)


@dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """Flags of a sweep over axes. Those that take several values are swept: every combination is a configuration."""

    preset: PresetName = "quick"
    """Data set, network, recipes and axes. `quick` takes minutes on two CPU cores; `paper-*` are the paper's, for a GPU."""
    model: Annotated[str | None, arg(metavar="NAME", help_behavior_hint=THE_PRESETS)] = None
    """`resnet18`, `resnet34`, `wrn22-8` or `vgg16`; a network of your own as package.module:function, which lies here or is
    installed; torchvision:NAME or timm:NAME."""
    relu6: Annotated[Literal["relu"] | None, arg(metavar="relu", help_behavior_hint="")] = None
    """Take plain ReLUs for a network's ReLU6, which is refused otherwise."""
    baseline: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the baseline is trained)")] = None
    """Weights of your own, as safetensors or from torch.save(model.state_dict(), FILE); no code in it is run."""
    budgets: Annotated[tuple[str, ...], _several("RELUS")] = NOT_GIVEN
    """ReLUs to keep: units (24900, or 24.9k), or shares of the network's ReLUs when below 1 (0.1)."""
    mask_method: Annotated[tuple[MaskMethod, ...], _several("METHOD")] = NOT_GIVEN
    """How masks are found: `taylor`, `frozen` and `snl-walk` rank all ReLUs once for all budgets (`frozen` without training);
    `senet` (the paper's), `counterfactual`, `snl`, or `random` as a control, train a mask for each."""
    weights: Annotated[tuple[Weights, ...], _several("rewind|continue")] = NOT_GIVEN
    """Where fine-tuning starts: `rewind` takes the all-ReLU network's weights and leaves only the mask of what went before,
    `continue` goes on with those that the mask was found with. By default `continue`; where ReLUs are ranked `rewind`."""
    granularity: Annotated[tuple[Granularity, ...], _several("pixel|channel", "pixel")] = NOT_GIVEN
    """What a mask keeps or drops: single positions, or whole channels."""
    mask_start: Annotated[tuple[MaskStart, ...], _several("teacher|scratch", "teacher")] = NOT_GIVEN
    """Of methods that train a mask for each budget: the student's weights at first, the all-ReLU network's or new ones."""
    depth_price: Annotated[tuple[float, ...], _several("PRICE", "0")] = NOT_GIVEN
    """Of `taylor` and `frozen`: empty a block's inner ReLU layer if it is worth less than so many times the average of such
    layers, so that the block can be gated; 0 looks at ReLUs alone, more empties more of them."""
    layer_price: Annotated[tuple[float, ...], _several("PRICE", "0")] = NOT_GIVEN
    """Likewise, but of any ReLU layer, by the average of all: a layer without ReLUs takes no round trips in private inference."""
    density: Annotated[tuple[float, ...], _several("SHARE", "0.1")] = NOT_GIVEN
    """Of `senet`, `counterfactual` and `random`: share of the sparse twin's weights that are non-zero; a layer's sensitivity is 1
    minus its own share."""
    sensitivity: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the sensitivity stage is trained)")] = (
        None
    )
    """Sensitivities of your own, as JSON: an object of ReLU layers' names and values, or a list in forward order."""
    d_th: Annotated[tuple[float | Nothing, ...], _several("SHARE|none")] = NOT_GIVEN
    """Gated branching's threshold, the paper's: blocks whose inner ReLU keeps at most this share (0 to 1) become shallow; `none`:
    none."""
    gate_blocks: Annotated[tuple[int, ...], _several_or_none("NUMBER")] = NOT_GIVEN
    """Instead of a threshold: gate so many blocks, those that would lose least by a measurement without training; 0: none."""
    gate_loss: Annotated[tuple[float, ...], _several("NATS")] = NOT_GIVEN
    """Or: by the same measurement gate as many, those that lose least first, as lose at most so much in all: by so many nats (KL
    divergence) may the network's predictions move."""
    max_seconds: Annotated[tuple[str, ...], _several_or_none("SECONDS")] = NOT_GIVEN
    """Or: gate those blocks that lose least, as many as it takes until private inference of one image, at the final
    exit, is predicted to take at most so long. Where no choice does, all that help are gated."""
    link: Annotated[tuple[str, ...], _several_or_none("lan|wan|BANDWIDTH,ROUND_TRIP")] = NOT_GIVEN
    """With --max-seconds, or --costs pred_link_s: the network between the parties, such as 100mbit,20ms (kbit, mbit, gbit; us,
    ms, s); without it both are on the machine that measured the layers."""
    gamma: Annotated[tuple[GammaSchedule, ...], _several("linear|cosine", "linear")] = NOT_GIVEN
    """How the gate grows from 0 to 1 over the epochs."""
    gate_epochs: Annotated[tuple[int, ...], _several("EPOCHS")] = NOT_GIVEN
    """Epochs of the fine-tuning until the gate is 1; not scaled by --epochs-scale. A preset that starts branches by least squares
    has none, but with --gb-init random or --gamma cosine."""
    gb_init: Annotated[tuple[GateStart, ...], _several("random|least-squares")] = NOT_GIVEN
    """How shallow branches start: at random, or as the least-squares fit of the branch that they replace."""
    kernel_size: Annotated[tuple[Literal[3, 5], ...], _several("3|5", "3")] = NOT_GIVEN
    """Of the shallow branches' convolutions."""
    ac_after: Annotated[tuple[str, ...], _several("STAGE|A+B|none")] = NOT_GIVEN
    """Stage with an auxiliary classifier, from 1 or by where `raysp inspect` says it ends, or `none`. `2 3` are two models, `2+3`
    one with both."""
    ac_head: Annotated[tuple[AcHead, ...], _several("pool|bottleneck|grid")] = NOT_GIVEN
    """What auxiliary classifiers are made of; `grid` keeps where features are, and has no ReLU."""
    ac_init: Annotated[tuple[AcStart, ...], _several("random|fit")] = NOT_GIVEN
    """How auxiliary classifiers start: at random, or as the best fit to the student's features before it is fine-tuned."""
    ac_end: Annotated[tuple[AcEnd, ...], _several("trained|fit")] = NOT_GIVEN
    """What they are in the end: as they were trained, or fitted anew to the fine-tuned student's features."""
    pram: Annotated[tuple[Pram, ...], _several("attention|eq2", "attention")] = NOT_GIVEN
    """Form of the post-ReLU mismatch loss: the released code's, or equation 2 to the letter."""
    beta: Annotated[tuple[float, ...], _several("WEIGHT")] = NOT_GIVEN
    """Weight of that loss; by default the preset's, a hundredth of it for `eq2`."""
    search: Annotated[str, arg(metavar="grid|random|SEARCHER")] = "grid"
    """`grid`: all combinations of the flags' values; `random`: some; `optuna` or another Ray Tune searcher: its proposals."""
    trials: Annotated[int | None, arg(metavar="NUMBER", help_behavior_hint="")] = None
    """Configurations of a search other than `grid`, those of earlier runs of it counted."""
    between: Annotated[
        tuple[Literal["budgets", "d-th", "gate-loss", "max-seconds", "beta"], ...],
        arg(metavar="budgets|d-th|gate-loss|max-seconds|beta ...", help_behavior_hint=""),
    ] = NOT_GIVEN
    """In a search: flags of which every value from the lowest given one to the highest may be tried."""
    run: RunFlags


FLAG_OF = {"budget": "budgets"}
"""Flags that are not named as the field of `Choice` that they fill."""


def read_budget(text: str) -> float:
    """A budget: units, with a letter (1.5k, 2M) or without, or a share. Raises ValueError; its range is checked elsewhere."""
    amount = read_amount(text)
    try:
        return float(text) if amount is None else amount  # nan, -5 and others of which the network says what it expects
    except ValueError:
        raise ValueError(f"budget {text!r}; expected ReLU units (24900, or 24.9k), or a share between 0 and 1 (0.1)") from None


def read_seconds(text: str) -> float:
    """A limit of seconds. Raises ValueError."""
    seconds = read_amount(text)
    if not seconds:
        raise ValueError(f"--max-seconds {text!r}; expected seconds above 0, such as 20, 0.5 or 1k")
    return seconds


def check_given(flags: object) -> None:
    """Refuse a flag that was given no value, or an empty one, or a number that is none."""
    for name, value in vars(flags).items():
        if value == "":
            raise ValueError(f"--{name.replace('_', '-')} is empty; expected a value, or leave it out")
        if value == () and value is not NOT_GIVEN:
            raise ValueError(f"--{name.replace('_', '-')} has no value; expected one or more, or leave it out")
    for text in getattr(flags, "budgets", ()):
        read_budget(text)
    for text in getattr(flags, "max_seconds", ()):
        read_seconds(text)

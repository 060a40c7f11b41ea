"""raysp: train networks with few ReLUs and little depth for private inference, and sweep the choices on Ray."""

from typing import TYPE_CHECKING

from raysp.lazy import attach

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "PRESETS",
    "ChainBuilder",
    "Choice",
    "Costs",
    "DataConfig",
    "LayerCosts",
    "Preset",
    "RunOptions",
    "Stage",
    "StageResult",
    "Store",
    "allocate_budget",
    "build_model",
    "collapse",
    "count_costs",
    "fold_batchnorm",
    "load_model",
    "load_splits",
    "open_source",
    "run_sweep",
    "save_model",
]

if TYPE_CHECKING:
    from raysp.data.config import DataConfig
    from raysp.data.sources import load_splits, open_source
    from raysp.engine.options import RunOptions
    from raysp.engine.sweep import run_sweep
    from raysp.methods.budget import allocate_budget
    from raysp.methods.choices import Choice
    from raysp.models import MODELS, build_model
    from raysp.models.collapse import collapse, fold_batchnorm
    from raysp.models.costs import Costs, LayerCosts, count_costs
    from raysp.models.files import load_model, save_model
    from raysp.stages.chain import ChainBuilder
    from raysp.stages.presets import PRESETS, Preset
    from raysp.store.records import Store
    from raysp.store.stage import Stage, StageResult
else:  # torch takes seconds to import, and not all that is below here needs it
    __getattr__, __dir__ = attach(
        __name__,
        {
            "MODELS": "raysp.models",
            "PRESETS": "raysp.stages.presets",
            "ChainBuilder": "raysp.stages.chain",
            "Choice": "raysp.methods.choices",
            "Costs": "raysp.models.costs",
            "DataConfig": "raysp.data.config",
            "LayerCosts": "raysp.models.costs",
            "Preset": "raysp.stages.presets",
            "RunOptions": "raysp.engine.options",
            "Stage": "raysp.store.stage",
            "StageResult": "raysp.store.stage",
            "Store": "raysp.store.records",
            "allocate_budget": "raysp.methods.budget",
            "build_model": "raysp.models",
            "collapse": "raysp.models.collapse",
            "count_costs": "raysp.models.costs",
            "fold_batchnorm": "raysp.models.collapse",
            "load_model": "raysp.models.files",
            "load_splits": "raysp.data.sources",
            "open_source": "raysp.data.sources",
            "run_sweep": "raysp.engine.sweep",
            "save_model": "raysp.models.files",
        },
    )

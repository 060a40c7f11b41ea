"""A program as it runs where some packages aren't installed: `without.py PACKAGE,PACKAGE PROGRAM.py|MODULE ARGUMENTS...`.

Python finds none of those packages then, nor says that they are there. Processes that the program starts find them all the same.
"""

import runpy
import sys

EXTRAS = (
    "aiobotocore",
    "boto3",
    "botocore",
    "gcsfs",
    "huggingface_hub",
    "jax",
    "jaxlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optuna",
    "s3fs",
    "spu",
    "wandb",
)
"""What extras bring and nothing else needs: without these, only the base install is there."""


class Without:
    """Another finder, that knows nothing of some packages."""

    def __init__(self, finder, packages):
        self._finder, self._packages = finder, packages

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self._packages else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


def hide(packages):
    """From here on, in this process."""
    if there := [name for name in packages if name in sys.modules]:
        raise RuntimeError(f"imported already: {', '.join(there)}")
    sys.meta_path[:] = [Without(finder, frozenset(packages)) for finder in sys.meta_path]


if __name__ == "__main__":
    _, packages, program, *arguments = sys.argv
    hide(packages.split(","))
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)

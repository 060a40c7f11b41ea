import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysp.data.config import DataConfig
from raysp.methods.choices import Choice
from raysp.planning.plan import Plan
from raysp.stages.chain import ChainBuilder
from raysp.stages.presets import PRESETS
from raysp.store.keys import Config, added, encode, key_of

PINNED = {
    "quick": ("baseline-6ea72a474980", "72e82834a818"),
    "cifar10": ("baseline-1399b74bbd41", "089e2df8ae8b"),
    "cifar100": ("baseline-135caa529df4", "b22ad34d4434"),
    "paper-resnet18-cifar10": ("baseline-3953060d2b1d", "f8acac5a50e1"),
    "paper-resnet18-cifar100": ("baseline-614aca75d39d", "72caf6d121ca"),
    "paper-wrn22-8-cifar100": ("baseline-4d697d56f261", "2c8f038b750b"),
}
"""By preset its baseline, and a hash of all its stages' labels."""


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner = Inner()
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class OtherInner(Config):
    rate: float = 0.1


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(a, b):
    """Equal in type and value, throughout."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b and str(a) == str(b)  # str tells 0.0 from -0.0


@given(plain, plain)
def test_encodings_are_equal_exactly_when_values_and_types_are(a, b):
    assert (encode(a) == encode(b)) == same(a, b)


@pytest.mark.parametrize(("a", "b"), [(1, 1.0), (1, True), (0, False), ("1", 1), (("a", "b"), ("ab",)), ((), None), ("", b"")])
def test_look_alikes_differ(a, b):
    assert key_of(a) != key_of(b)


def test_dict_order_does_not_matter():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_a_field_that_was_added_counts_only_where_it_is_not_as_before():
    def config(**fields):
        kinds = {"rate": float} | {name: type(value) for name, value in fields.items()}
        values = {"rate": 0.1} | {name: added(value) for name, value in fields.items()}
        made = type("Grown", (Config,), values | {"__annotations__": kinds})
        return dataclass(frozen=True, kw_only=True)(made)

    before, after = config(), config(limit=3, name="")
    assert key_of(after()) == key_of(before())
    keys = [key_of(c) for c in (before(), after(limit=4), after(name="a"), after(limit=4, name="a"), after(rate=0.2))]
    assert len(set(keys)) == len(keys)
    assert after().to_json() == before().to_json() == {"rate": 0.1}
    assert after(limit=4).to_json() == {"rate": 0.1, "limit": 4}


def test_configs_of_equal_fields_and_different_types_differ():
    assert key_of(Inner()) != key_of(OtherInner())


@pytest.mark.parametrize("value", [{1, 2}, [1], object(), print, {1: 2}, sys.path, type("Text", (str,), {})("x")])
def test_what_has_no_stable_encoding_is_refused(value):
    with pytest.raises(TypeError):
        encode(value)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="nan"):
        encode(float("nan"))


def test_numbers_are_fitted_to_their_fields():
    assert key_of(Inner(rate=1)) == key_of(Inner(rate=1.0))
    assert key_of(Inner(rate=-0.0)) == key_of(Inner(rate=0.0))
    assert key_of(Outer(sizes=[1, 2])) == key_of(Outer(sizes=(1, 2)))


@pytest.mark.parametrize(
    "bad",
    [
        {"inner": 3},
        {"kind": "c"},
        {"sizes": (1, 2.5)},
        {"sizes": 3},
        {"limit": "x"},
        {"limit": float("inf")},
        {"limit": True},
        {"limit": 10**400},
    ],
)
def test_misfits_are_refused_with_the_field_named(bad):
    with pytest.raises(ValueError, match=f"Outer.{next(iter(bad))}"):
        Outer(**bad)


def test_a_class_that_is_not_declared_a_dataclass_is_refused():
    class Forgotten(Inner):
        other: int = 1

    with pytest.raises(TypeError, match="lacks @dataclass"):
        Forgotten()


def test_every_field_counts():
    base = Outer()
    for change in ({"inner": Inner(rate=0.2)}, {"kind": "b"}, {"sizes": (1,)}, {"limit": 0.0}):
        assert key_of(dataclasses.replace(base, **change)) != key_of(base)


def test_keys_are_the_same_in_another_process():
    code = "from raysp.store.keys import key_of; print(key_of({'a': (1, 2.5, 'ü', None, True)}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == key_of({"a": (1, 2.5, "ü", None, True)})


def stages_of_presets():
    """For every preset the labels of a sweep over what its stages can be, in order."""
    data = {"digits": DataConfig(name="digits", num_classes=10, image_size=8, channels=1, flip=False)}
    data |= {name: DataConfig(name=name, num_classes=int(name[5:]), image_size=32) for name in ("cifar10", "cifar100")}
    found = {}
    for name, preset in PRESETS.items():
        builder = ChainBuilder(preset, data[preset.dataset])
        choices = [
            Choice(budget=budget, d_th=d, ac_after=after)
            for budget in preset.axes["budget"]
            for d in preset.axes.get("d_th", (0.1,))
            for after in preset.axes["ac_after"]
        ]
        choices += [Choice(budget=0.1, mask_method=method, seed=1) for method in ("snl", "random", "counterfactual")]
        choices += [Choice(budget=0.2, d_th=0.3, gamma="cosine", gb_init="least-squares", kernel_size=5, ac_head="bottleneck",
                           ac_after=(1, 2), pram="eq2", granularity="channel", mask_start="scratch", density=0.2)]  # fmt: skip
        stages = Plan([builder.chain(choice) for choice in choices]).stages.values()
        found[name] = [stage.label for stage in stages]
    return found


def test_the_presets_stages_keep_their_keys():
    """What users have trained is found again. A key changes only with what a stage computes: then its version was raised."""
    found = {name: (labels[0], key_of(tuple(labels))[:12]) for name, labels in stages_of_presets().items()}
    assert found == PINNED

"""The shim, on stand-ins for the releases' modules: it runs without transformers."""

import sys
from types import ModuleType

import pytest

from opensci_lib import shim
from opensci_lib.errors import OpensciError


@pytest.fixture
def release(monkeypatch):
    """Install a `transformers` whose `utils` has the names given, and return that `utils`."""

    def install(*names, rope=("default", "linear")):
        package, utils, rope_utils = (
            ModuleType(name) for name in ("transformers", "transformers.utils", "transformers.modeling_rope_utils")
        )
        package.__version__ = "4.0.0"
        package.utils, package.modeling_rope_utils = utils, rope_utils
        for name in names:
            setattr(utils, name, type(name, (dict,), {}))
        rope_utils.ROPE_INIT_FUNCTIONS = dict.fromkeys(rope)
        for module in (package, utils, rope_utils):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return utils

    return install


@pytest.mark.parametrize(
    ("present", "missing"), [("LossKwargs", "TransformersKwargs"), ("TransformersKwargs", "LossKwargs")]
)
def test_the_missing_name_becomes_an_alias(release, present, missing):
    utils = release(present)
    applied = shim.apply()
    assert applied.added == (missing,)
    assert getattr(utils, missing) is getattr(utils, present)


def test_twice_is_once(release):
    utils = release("LossKwargs")
    shim.apply()
    again = shim.apply()
    assert again.added == ()
    again.undo()
    assert hasattr(utils, "TransformersKwargs")


def test_nothing_missing_is_left_alone(release):
    utils = release("LossKwargs", "TransformersKwargs")
    before = dict(vars(utils))
    assert shim.apply().added == ()
    assert dict(vars(utils)) == before


def test_undo_and_context_manager_remove_what_was_added(release):
    utils = release("TransformersKwargs")
    with shim.apply():
        assert hasattr(utils, "LossKwargs")
    assert not hasattr(utils, "LossKwargs")
    applied = shim.apply()
    applied.undo()
    applied.undo()
    assert not hasattr(utils, "LossKwargs")
    assert hasattr(utils, "TransformersKwargs")


@pytest.mark.parametrize("names", [(), ("TransformersKwargs",)])
def test_releases_that_it_can_not_serve_are_refused(release, names):
    release(*names, rope=("linear",))
    with pytest.raises(OpensciError, match="opensci hotfix"):
        shim.apply()

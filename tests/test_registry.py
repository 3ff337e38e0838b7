"""Names that stand for builders: gathered, found, checked and called."""

import functools
import sys

import pytest

from jaxseg import encoders, registry
from jaxseg.errors import InputError

MODULE = """
CONSTANT = 3
BUILDERS = {"tiny": dict}

def tiny(width=8):
    return ("tiny", width)

def anything(**options):
    return options
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(MODULE)
    (package / "more.py").write_text(MODULE)
    (package / "broken.py").write_text("import a_module_nobody_has")
    (package / "syntax.py").write_text("def f(:")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_package.nets"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_gather_merges_mappings_in_the_order_of_files(module):
    assert registry.gather("own_package", ["nets"], "BUILDERS") == {"tiny": dict}
    resnets = registry.gather("jaxseg.encoders", ["resnet"], "ENCODERS")
    vggs = registry.gather("jaxseg.encoders", ["vgg"], "ENCODERS")
    both = registry.gather("jaxseg.encoders", ["resnet", "vgg"], "ENCODERS")
    assert list(both) == [*resnets, *vggs]


def test_gather_with_one_name_in_two_files_raises(module):
    with pytest.raises(ValueError, match=r"own_package.more: 'tiny' is defined by another file"):
        registry.gather("own_package", ["nets", "more"], "BUILDERS")


def test_create_with_a_path_calls_the_builder_there(module):
    assert encoders.create(f"{module}:tiny", width=4) == ("tiny", 4)
    assert encoders.create(f"{module}:anything", x=1) == {"x": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet43", "did you mean 'resnet34'"),
        ("{}:tinny", "did you mean 'tiny'"),
        ("{}:", "unknown builder in own_package.nets ''"),
        ("{}:CONSTANT", "is a int, not a function or class"),
        ("own_package.nots:tiny", "there is no module 'own_package.nots' on the import path"),
        ("no_package.nets:tiny", "there is no module 'no_package' on the import path"),
        (
            "own_package.broken:tiny",
            "own_package.broken needs a_module_nobody_has, which is not installed",
        ),
        ("own_package.syntax:tiny", "importing 'own_package.syntax' failed"),
        (":tiny", "no module name"),
    ],
)
def test_create_with_a_wrong_name_says_what_is_wrong(module, name, message):
    with pytest.raises(InputError) as error:
        encoders.create(name.format(module))
    assert message in str(error.value)


def test_create_with_a_wrong_option_names_the_closest(module):
    with pytest.raises(
        InputError, match=r"unknown option of encoder .*'widht'; did you mean 'width'"
    ):
        encoders.create(f"{module}:tiny", widht=4)


def test_options_leave_out_what_a_partial_binds():
    def build(depth, *, width=8, rate=0.5):
        return depth, width, rate

    bound = functools.partial(functools.partial(build, 3), width=4)
    assert registry.options(bound) == ["rate"]
    registry.check_options("it", bound, ["rate"])
    with pytest.raises(InputError, match="unknown option of it 'width'"):
        registry.check_options("it", bound, ["width"])


@pytest.mark.parametrize("error", [TypeError, ZeroDivisionError])
def test_build_with_a_useless_value_names_the_builder(error):
    def build(value):
        raise error("no such value")

    with pytest.raises(InputError, match="encoder 'own': no such value"):
        registry.build("encoder 'own'", build, {"value": 0})

import sys

import pytest

from jaxseg import encoders
from jaxseg.errors import InputError

MODULE = """
import flax.linen as nn

CONSTANT = 3

def tiny(width=8):
    return ("tiny", width)

def anything(**options):
    return options
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(MODULE)
    (package / "broken.py").write_text("import a_module_nobody_has")
    (package / "syntax.py").write_text("def f(:")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_package.nets"
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_names_are_those_of_the_builders():
    assert encoders.names() == [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    ]
    for name in encoders.names():
        assert encoders.create(name) == getattr(encoders, name)()


def test_a_builder_of_ones_own(place):
    assert encoders.create(f"{place}:tiny", width=4) == ("tiny", 4)
    assert encoders.create(f"{place}:anything", x=1) == {"x": 1}


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
def test_wrong_names_are_explained(place, name, message):
    with pytest.raises(InputError) as error:
        encoders.create(name.format(place))
    assert message in str(error.value)


def test_wrong_options_of_ones_own_builder_are_listed(place):
    with pytest.raises(
        InputError, match=r"unknown option of encoder .*'widht'; did you mean 'width'"
    ):
        encoders.create(f"{place}:tiny", widht=4)

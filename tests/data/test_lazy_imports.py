import subprocess
import sys

import pytest

import jaxseg.data

HEAVY = ("grain", "tensorflow_datasets", "albumentations", "cv2", "PIL")


def test_importing_data_imports_no_heavy_library():
    code = (
        "import sys, jaxseg.data\n"
        f"assert not [m for m in ('jax', *{HEAVY}) if m in sys.modules], sys.modules.keys()\n"
        "from jaxseg.data.normalization import normalize\n"
        f"assert not [m for m in {HEAVY} if m in sys.modules], sys.modules.keys()\n"
        "from jaxseg.data import CamVid\n"
        f"assert not [m for m in {HEAVY[:3]} if m in sys.modules], sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    assert set(jaxseg.data.__all__) <= set(dir(jaxseg.data))
    for name in jaxseg.data.__all__:
        assert getattr(jaxseg.data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Fodler'"):
        jaxseg.data.Fodler  # noqa: B018

import json
import logging
import pickle

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxseg
from jaxseg import encoders, pretrained
from jaxseg.errors import InputError
from jaxseg.models import Classifier, DenseHead
from jaxseg.pretrained.hub import HUB, IMAGENET_MEAN, IMAGENET_STD

SMALL = encoders.resnet.ResNet((1, 1, 1, 1))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "timm/resnet101.a1_in1k"  # follows main


def random_variables(model, channels=3, seed=0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, channels)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def state_dict():
    weights = pretrained.to_torch(SMALL, random_variables(SMALL), source="timm")
    return weights | {
        "fc.weight": np.zeros((10, 512), np.float32),
        "fc.bias": np.zeros(10, np.float32),
    }


@pytest.fixture
def file(state_dict, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(state_dict, path)
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A function that puts a file into the hub's cache as a download would."""
    root = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))

    def put(repository, commit, name, content):
        folder = root / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        (snapshot / name).write_bytes(content)

    return put


def test_load_local_file_fills_the_encoder(file, state_dict):
    model = jaxseg.create("unet", encoder=SMALL, num_classes=2)
    variables = random_variables(model, seed=1)
    for name in (file, str(file)):
        loaded = pretrained.load(model, variables, name)
        for key, value in pretrained.to_torch(model, loaded, source="timm").items():
            np.testing.assert_array_equal(value, state_dict[key])
        np.testing.assert_array_equal(
            loaded["params"]["head"]["conv"]["bias"], variables["params"]["head"]["conv"]["bias"]
        )
    bare = pretrained.load(SMALL, random_variables(SMALL, seed=1), file)
    np.testing.assert_array_equal(bare["params"]["stem"]["norm"]["scale"], state_dict["bn1.weight"])


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_load_vgg_file_fills_classifier_or_encoder(tmp_path, source):
    encoder = encoders.vgg.VGG((1, 1, 1, 1, 1), False, (2, 3, 4, 5, 6))
    model = Classifier(encoder, DenseHead((8, 7, 4), (7, 7)))
    variables, path = random_variables(model), tmp_path / "vgg.safetensors"
    safetensors.numpy.save_file(pretrained.to_torch(model, variables, source=source), path)
    filled = pretrained.load(model, random_variables(model, seed=1), path)
    jax.tree.map(np.testing.assert_array_equal, filled, variables)
    grey = encoder.clone(in_channels=1)
    filled = pretrained.load(grey, random_variables(grey, 1, seed=1), path)
    kernel = variables["params"]["encoder"]["stage1_conv0"]["conv"]["kernel"]
    np.testing.assert_allclose(
        filled["params"]["stage1_conv0"]["conv"]["kernel"], kernel.sum(2, keepdims=True), rtol=1e-5
    )


def test_load_smp_file_fills_the_whole_model(tmp_path):
    model = jaxseg.create("fpn", encoder=SMALL, num_classes=2)
    variables = random_variables(model)
    path = tmp_path / "fpn.safetensors"
    safetensors.numpy.save_file(pretrained.to_torch(model, variables), path)
    loaded = pretrained.load(model, random_variables(model, seed=1), path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


@pytest.mark.parametrize(
    ("source", "name", "encoder", "options"),
    [
        (
            "torchfcn",
            "fcn_vgg_8s",
            encoders.vgg.VGG((1, 1, 1, 1, 1), False, (2, 3, 4, 5, 6)),
            {"fc_features": 8},
        ),
        ("torchvision", "fcn", encoders.resnet.ResNet((1, 1, 1, 1), output_stride=8), {}),
    ],
)
def test_load_fcn_file_fills_the_whole_model(tmp_path, source, name, encoder, options):
    model, grey = (
        jaxseg.create(name, encoder=e, num_classes=2, **options)
        for e in (encoder, encoder.clone(in_channels=1))
    )
    variables, path = random_variables(model), tmp_path / "fcn.safetensors"
    safetensors.numpy.save_file(pretrained.to_torch(model, variables, source=source), path)
    loaded = pretrained.load(model, random_variables(model, seed=1), path)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    stem = "stage1_conv0" if source == "torchfcn" else "stem"
    loaded, given = (
        tree["params"]["encoder"][stem]["conv"]["kernel"]
        for tree in (pretrained.load(grey, random_variables(grey, 1, seed=1), path), variables)
    )
    np.testing.assert_allclose(loaded, given.sum(2, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 5, 12])
def test_load_other_channels_adapts_the_first_kernel(file, state_dict, channels):
    encoder = encoders.resnet.ResNet((1, 1, 1, 1), in_channels=channels)
    loaded = pretrained.load(encoder, random_variables(encoder, channels), file)
    kernel = np.asarray(loaded["params"]["stem"]["conv"]["kernel"])
    given = state_dict["conv1.weight"].transpose(2, 3, 1, 0)
    if channels == 1:
        expected = given.sum(2, keepdims=True)
    else:
        expected = np.stack([given[:, :, i % 3] * 3 / channels for i in range(channels)], 2)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


@pytest.mark.parametrize("name", [NAME, f"{NAME}@main", f"{NAME}@{COMMIT}"])
def test_load_name_reads_the_hubs_cache(file, state_dict, cache, name, caplog):
    cache(NAME, COMMIT, "model.safetensors", file.read_bytes())
    with caplog.at_level(logging.WARNING):
        loaded = pretrained.load(SMALL, random_variables(SMALL, seed=1), name)
    np.testing.assert_array_equal(
        loaded["params"]["stem"]["norm"]["scale"], state_dict["bn1.weight"]
    )
    assert pretrained.pin(name) == f"{NAME}@{COMMIT}"
    assert (f"{NAME}@{COMMIT}" in caplog.text) == (not name.endswith(COMMIT))


@pytest.mark.slow
def test_load_known_name_reads_its_commit(file, cache):
    for name, commit in ((name, published.revision) for name, published in HUB.items()):
        if commit is None:
            continue
        assert len(commit) == 40
        assert pretrained.pin(name) == f"{name}@{commit}"
        cache(name, commit, "model.safetensors", file.read_bytes())
        cache(name, COMMIT, "model.safetensors", b"a later commit on main")
        pretrained.load(SMALL, random_variables(SMALL), name)
    assert pretrained.pin(file) == str(file)


def test_normalization_comes_from_spec_or_config(cache, file, caplog):
    assert pretrained.normalization(file) == (IMAGENET_MEAN, IMAGENET_STD)
    config = {
        "architecture": "resnet34",
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]},
    }
    cache(NAME, COMMIT, "config.json", json.dumps(config).encode())
    assert pretrained.normalization(NAME) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    cache("smp-hub/other", COMMIT, "config.json", b'{"mean": 3}')
    assert pretrained.normalization("smp-hub/other") == (IMAGENET_MEAN, IMAGENET_STD)
    for name, published in HUB.items():
        assert pretrained.normalization(name) == (published.mean, published.std)
    assert not caplog.text
    assert pretrained.normalization("timm/other") == (IMAGENET_MEAN, IMAGENET_STD)
    assert "there is no config.json" in caplog.text


def test_load_without_network_names_the_way_out(cache):
    with pytest.raises(
        InputError, match=r"is not in the cache, and the hub cannot be reached.*\.safetensors file"
    ):
        pretrained.load(SMALL, random_variables(SMALL), NAME)


def hub_error(name):
    """One of the hub's errors; its constructors differ from version to version."""
    kind = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            hub_error("RepositoryNotFoundError"),
            r"no \(public\) repository 'timm/resnet101.a1_in1k'",
        ),
        (hub_error("RevisionNotFoundError"), "there is no revision 'v9' of timm/resnet101.a1_in1k"),
        (
            hub_error("RemoteEntryNotFoundError"),
            "there is no model.safetensors of timm/resnet101.a1_in1k@v9",
        ),
        (hub_error("LocalEntryNotFoundError"), "the hub cannot be reached"),
        (ConnectionError("refused"), "cannot be downloaded: refused"),
        (OSError("disk full"), "cannot be downloaded: disk full"),
    ],
)
def test_load_hub_error_is_an_input_error(monkeypatch, error, message):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match=message):
        pretrained.load(SMALL, random_variables(SMALL), f"{NAME}@v9")


def test_load_pickle_is_refused_unopened(tmp_path):
    for suffix in (".pth", ".pt", ".bin", ".ckpt", ".pkl"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(pickle.dumps({}))
        with pytest.raises(InputError, match=r"pickled weights can run any code.*convert it once"):
            pretrained.load(SMALL, {}, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "is not a readable .safetensors file"),
        (b"not at all", "is not a readable .safetensors file"),
        (pickle.dumps({"a": 1}), "is not a readable .safetensors file"),
        ("cut", "is not a readable .safetensors file"),
    ],
)
def test_load_damaged_file_is_named(file, tmp_path, content, message):
    path = tmp_path / "damaged.safetensors"
    if content is not None:
        path.write_bytes(file.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(InputError, match=message) as error:
        pretrained.load(SMALL, random_variables(SMALL), path)
    assert "damaged.safetensors" in str(error.value)


def test_load_other_network_names_the_file(file):
    with pytest.raises(
        InputError, match=r"weights\.safetensors: the weights do not match the model"
    ):
        pretrained.load(encoders.resnet18(), random_variables(encoders.resnet18()), file)


@pytest.mark.parametrize("name", ["resnet34.a1_in1k", "timm/resnet34@", "a/b/c", ""])
def test_load_neither_name_nor_file_is_explained(name):
    with pytest.raises(InputError, match=r"is neither a \.safetensors file nor a name on the hub"):
        pretrained.load(SMALL, {}, name)

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from painted_tiles import CATEGORIES
from range_server import serving
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from models import pretrained
from models.anchors import fit_anchors
from models.download import download
from models.errors import WeightsError
from models.maskrcnn import ANCHOR_SIZES, build
from models.pretrained import build_initial, is_within_reach
from models.recipe import Recipe

SMALL = ANCHOR_SIZES["maskrcnn_small"]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The URL of a file of weights with its digest, and a cache of this test's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.manual_seed(3)
    path = tmp_path / "weights.pth"
    torch.save(build("maskrcnn_small", CATEGORIES).state_dict(), path)
    return f"{path.as_uri()}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_weights_come_by_url(tmp_path, published):
    torch.manual_seed(3)
    expected = build("maskrcnn_small", CATEGORIES).state_dict()
    recipe = Recipe(network="maskrcnn_small", initial_weights=published)
    loaded = build_initial(recipe, CATEGORIES).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
    (tmp_path / "weights.pth").unlink()
    assert download(published).is_file()  # the copy is used
    download(published).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"cannot fetch .*weights.pth.*Download it elsewhere"):
        download(published)


def test_only_the_file_that_was_asked_for_is_taken(tmp_path, published):
    url, _, digest = published.partition("#")
    for nameless in (url, url + "#md5=" + "0" * 32, url + "#sha256=" + digest[-10:]):
        with pytest.raises(WeightsError, match=r"no digest of the file.*sha256sum"):
            download(nameless)
    with pytest.raises(WeightsError, match="another file than was asked for"):
        download(url + "#sha256=" + "0" * 64)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def _frozen(model):
    return sum(isinstance(module, FrozenBatchNorm2d) for module in model.modules())


def test_batch_norms_freeze_as_told(tmp_path):
    model = build("maskrcnn_resnet18_fpn", CATEGORIES)
    torch.save(model.backbone.body.state_dict(), tmp_path / "body.pth")
    recipes = {
        frozen: Recipe(
            network="maskrcnn_resnet18_fpn", initial_weights=str(tmp_path / "body.pth"), frozen_norms=frozen
        )
        for frozen in ("auto", "none", "backbone")
    }
    counts = {name: _frozen(build_initial(recipe, CATEGORIES)) for name, recipe in recipes.items()}
    assert counts == {"auto": 20, "none": 0, "backbone": 20}
    assert build_initial(recipes["auto"], CATEGORIES).arguments == {"frozen_norms": "backbone"}
    assert build_initial(recipes["none"], CATEGORIES).arguments == {}


def test_the_light_network_takes_any_resnet50(tmp_path):
    """Its trunk ends a stage early: the rest of the file is left aside."""
    torch.manual_seed(5)
    state = resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    recipe = Recipe(
        network="maskrcnn_resnet50_light",
        initial_weights=str(tmp_path / "resnet50.pth"),
        backbone_stride_in_1x1=True,
        trainable_stages=1,
    )
    body = build_initial(recipe, CATEGORIES).backbone.body
    assert set(body) == {"conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"}
    for name, value in body.state_dict().items():
        assert torch.equal(value, state[name]), name
    learning = {name.split(".")[0] for name, weight in body.named_parameters() if weight.requires_grad}
    assert learning == {"layer3"} and _frozen(body) == 43
    assert body["layer2"][0].conv1.stride == (2, 2) and body["layer2"][0].conv2.stride == (1, 1)


def test_weights_within_reach_are_told_from_those_that_are_not(tmp_path, monkeypatch):
    """Served by somebody, not there any more, and, though nobody answers, fetched before."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "coco.pth").touch()
    key = ("maskrcnn_resnet50_fpn_v2", "coco")
    with serving(tmp_path) as served:
        for name, is_there in (("coco.pth", True), ("none.pth", False)):
            monkeypatch.setitem(pretrained.PUBLISHED, key, SimpleNamespace(url=f"{served.address}/{name}"))
            assert is_within_reach(*key) is is_there
    assert not is_within_reach(*key)
    fetched = tmp_path / "cache" / "hub" / "checkpoints" / "none.pth"
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    assert is_within_reach(*key)


def test_anchors_are_the_middles_of_sizes():
    """Six kinds of buildings, each of its own size, are six anchors."""
    kinds = np.array([12.0, 20, 34, 60, 100, 190])
    sides = np.concatenate([kind * np.exp(np.random.default_rng(0).normal(0, 0.03, 80)) for kind in kinds])
    sizes = fit_anchors(sides, SMALL)
    assert [len(level) for level in sizes] == [2, 2, 2]
    assert np.array(sizes).ravel() == pytest.approx(kinds, rel=0.03)
    assert fit_anchors(sides[::-1], SMALL) == sizes


def test_few_items_fit_no_anchors():
    assert fit_anchors(np.zeros(0), SMALL) == SMALL == fit_anchors(np.full(500, 40.0), SMALL)
    recipe = Recipe(network="maskrcnn_small", anchors="fitted")
    assert build_initial(recipe, CATEGORIES, np.zeros(0)).rpn.anchor_generator.sizes == SMALL

import json
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import torch
from painted_tiles import CATEGORIES
from rasterio.windows import Window
from torchvision.ops import FrozenBatchNorm2d

from models.errors import WeightsError
from models.maskrcnn import build
from models.pretrained import build_initial
from models.recipe import Recipe
from models.weights import (
    FORMAT_VERSION,
    WeightsMetadata,
    build_from_weights,
    read_metadata,
    read_weights,
    weights_digest,
    write_weights,
)

RESNET50 = Path(__file__).parents[2] / "shared" / "data" / "weights" / "resnet50_imagenet.pth"
METADATA = WeightsMetadata(
    network="maskrcnn_small",
    arguments={},
    categories=CATEGORIES,
    recipe=asdict(Recipe(network="maskrcnn_small")),
    data_digest="ab" * 32,
    epoch=7,
    metrics={"score": 0.81},
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("maskrcnn_small", CATEGORIES).eval()


@pytest.fixture
def path(tmp_path, model):
    write_weights(tmp_path / "weights.h5", model, METADATA)
    return tmp_path / "weights.h5"


def test_round_trip(path, model):
    metadata, state = read_weights(path)
    assert metadata == METADATA == read_metadata(path)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    again = build_from_weights(path, CATEGORIES)
    assert not again.training and again.categories == CATEGORIES and again.network == "maskrcnn_small"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_file_is_plain_hdf5(path):
    with h5py.File(path) as src:
        assert src.attrs["format_version"] == FORMAT_VERSION
        assert json.loads(src.attrs["categories"]) == list(CATEGORIES)
        assert set(json.loads(src.attrs["versions"])) == {"torch", "torchvision", "h5py", "numpy"}
        assert all(isinstance(src["state_dict"][name], h5py.Dataset) for name in src["state_dict"])
    assert not list(path.parent.glob(".*"))


def test_frozen_norms_survive(tmp_path):
    model = build("maskrcnn_resnet18_fpn", CATEGORIES, frozen_norms="backbone")
    metadata = WeightsMetadata("maskrcnn_resnet18_fpn", {"frozen_norms": "backbone"}, CATEGORIES)
    write_weights(tmp_path / "weights.h5", model, metadata)
    again = build_from_weights(tmp_path / "weights.h5")
    assert any(isinstance(module, FrozenBatchNorm2d) for module in again.modules())


def test_digest_follows_content(path):
    before = weights_digest(path)
    assert before == weights_digest(path) and len(before) == 64
    with h5py.File(path, "a") as dst:
        dst["state_dict"]["backbone.body.stem.0.weight"][...] = 0
    assert weights_digest(path) != before


def test_an_error_leaves_the_old_file(path, model):
    before = weights_digest(path)
    with pytest.raises(TypeError):
        write_weights(
            path, model, WeightsMetadata("maskrcnn_small", {}, CATEGORIES, metrics={"score": object()})
        )
    assert weights_digest(path) == before and not list(path.parent.glob(".*"))


def test_other_files_are_refused(tmp_path, path):
    with pytest.raises(WeightsError, match="no such weights file"):
        build_from_weights(tmp_path / "none.h5")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.h5")
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:3000])
    for name in ("pickle.h5", "short.h5"):
        with pytest.raises(WeightsError, match="not an HDF5 file"):
            read_weights(tmp_path / name)
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(WeightsError, match="not weights of format version 1"):
        read_metadata(tmp_path / "other.h5")


def _edited(path, edit):
    with h5py.File(path, "a") as dst:
        edit(dst, dst["state_dict"])
    return path


NAME = "roi_heads.box_predictor.cls_score.bias"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda dst, state: dst.attrs.update(format_version=2), r"format version 1 .found .*2"),
        (lambda dst, state: dst.attrs.update(categories='["a", "b"]'), "does not fit maskrcnn_small at"),
        (lambda dst, state: dst.attrs.update(network="maskrcnn_huge"), "unknown network"),
        (lambda dst, state: dst.attrs.update(arguments='{"depth": 9}'), "unknown argument"),
        (lambda dst, state: dst.attrs.update(recipe="{"), "damaged metadata"),
        (lambda dst, state: dst.attrs.__delitem__("epoch"), "damaged metadata"),
        (lambda dst, state: dst.__delitem__("state_dict"), "damaged metadata"),
        (lambda dst, state: state.__delitem__(NAME), "does not fit maskrcnn_small at"),
        (lambda dst, state: state.create_dataset("more", data=[1.0]), "does not fit maskrcnn_small at more"),
        (lambda dst, state: state.create_group("more"), "more is not plain numbers"),
        (lambda dst, state: state.create_dataset("more", data=[b"os.system"]), "more is not plain numbers"),
    ],
)
def test_what_does_not_fit_is_refused(path, edit, message):
    with pytest.raises(WeightsError, match=message):
        build_from_weights(_edited(path, edit))


def test_links_out_of_the_file_are_refused(tmp_path, path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as dst:
        dst["secret"] = np.zeros(4, np.float32)
    (tmp_path / "bytes").write_bytes(b"\0" * 16)
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere.h5"), "secret", (4,))

    def external(state):
        state.create_dataset(NAME, (4,), np.float32, external=[(str(tmp_path / "bytes"), 0, 16)])

    for link in (
        lambda state: state.__setitem__(NAME, h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "secret")),
        lambda state: state.__setitem__(
            NAME, h5py.SoftLink("/state_dict/roi_heads.box_predictor.cls_score.weight")
        ),
        lambda state: state.create_virtual_dataset(NAME, layout),
        external,
    ):
        _edited(path, lambda dst, state, link=link: (state.__delitem__(NAME), link(state)))
        with pytest.raises(WeightsError, match=f"{NAME} is not plain numbers inside the file"):
            read_weights(path)
        with pytest.raises(WeightsError, match=f"{NAME} is not plain numbers inside the file"):
            build_from_weights(path)


def test_other_categories_are_refused(path):
    with pytest.raises(WeightsError, match="other categories than completed, foundation, unfinished"):
        build_from_weights(path, ("completed", "foundation", "unfinished"))


def test_training_may_begin_with_own_weights(path, model):
    recipe = Recipe(network="maskrcnn_small", initial_weights=str(path))
    same = build_initial(recipe, CATEGORIES).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    other = build_initial(recipe, ("building",)).state_dict()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, other[name])}
    assert changed and all(name.startswith(("roi_heads.box_pred", "roi_heads.mask_pred")) for name in changed)
    with pytest.raises(WeightsError, match="does not fit maskrcnn_resnet18_fpn"):
        build_initial(Recipe(network="maskrcnn_resnet18_fpn", initial_weights=str(path)), CATEGORIES)


def test_initial_weights_that_are_none(tmp_path):
    with pytest.raises(WeightsError, match="no such initial weights"):
        build_initial(Recipe(initial_weights=str(tmp_path / "none.pth")), CATEGORIES)
    torch.save({"state": Path("code")}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="not a file of weights alone"):
        build_initial(Recipe(initial_weights=str(tmp_path / "code.pth")), CATEGORIES)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="not a state dict"):
        build_initial(Recipe(initial_weights=str(tmp_path / "list.pth")), CATEGORIES)
    with pytest.raises(WeightsError, match=r"no such weights for maskrcnn_small.*Offered: none"):
        build_initial(Recipe(network="maskrcnn_small", initial_weights="coco"), CATEGORIES)


def test_a_backbone_file_fills_the_backbone(tmp_path):
    torch.manual_seed(5)
    body = build("maskrcnn_resnet18_fpn", CATEGORIES).backbone.body.state_dict()
    file = {name: value.half() if value.ndim == 4 else value for name, value in body.items()}
    torch.save(
        file | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, tmp_path / "body.pth"
    )
    recipe = Recipe(
        network="maskrcnn_resnet18_fpn", initial_weights=str(tmp_path / "body.pth"), trainable_stages=2
    )
    loaded = build_initial(recipe, CATEGORIES).backbone.body
    assert torch.equal(loaded.conv1.weight, body["conv1.weight"].half().float())
    assert torch.equal(loaded.layer4[1].bn2.running_var, body["layer4.1.bn2.running_var"])
    learning = {name.partition(".")[0] for name, value in loaded.named_parameters() if value.requires_grad}
    assert learning == {"layer3", "layer4"}
    torch.save({name: value for name, value in file.items() if "layer4" not in name}, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"does not fit maskrcnn_resnet18_fpn at backbone.body.layer4"):
        build_initial(
            Recipe(network="maskrcnn_resnet18_fpn", initial_weights=str(tmp_path / "short.pth")), CATEGORIES
        )


@pytest.mark.skipif(not RESNET50.exists(), reason="the ImageNet ResNet-50 is not on this machine")
def test_imagenet_resnet50_fits_with_the_strides_it_was_trained_with():
    """Only then do its last batch norms meet about the variance they remember."""
    image = _aerial_image()
    off = {}
    for stride_in_1x1 in (True, False):
        model = build_initial(
            Recipe(initial_weights=str(RESNET50), backbone_stride_in_1x1=stride_in_1x1), CATEGORIES
        )
        expected = {"frozen_norms": "backbone"} | ({"backbone_stride_in_1x1": True} if stride_in_1x1 else {})
        assert model.arguments == expected
        assert not [
            name for name, value in model.backbone.body.layer1.named_parameters() if value.requires_grad
        ]
        last, inputs = model.backbone.body.layer4[2].bn3, []
        last.register_forward_hook(lambda _module, given, _output, inputs=inputs: inputs.append(given[0]))
        with torch.inference_mode():
            model.eval().backbone.body(model.transform([image])[0].tensors)
        off[stride_in_1x1] = (inputs[0].var((0, 2, 3)) / last.running_var).log().mean().abs()
    assert off[True] < 0.75 * off[False]


def _aerial_image():
    path = RESNET50.parents[1] / "zanzibar" / "unguja_block0.tif"
    with rasterio.open(path) as src:
        return torch.from_numpy(src.read([1, 2, 3], window=Window(500, 500, 448, 448)))

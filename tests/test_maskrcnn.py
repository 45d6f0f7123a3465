import pytest
import torch
from painted_tiles import CATEGORIES, item, write_tile
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FrozenBatchNorm2d, nms

from models.dataset import TileDataset
from models.errors import WeightsError
from models.frozen_norms import FrozenNorm
from models.maskrcnn import BUILDERS, build
from models.recipe import NETWORKS, Recipe
from models.regions import TileRPN, sample

LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build("maskrcnn_small", CATEGORIES)


@pytest.fixture(scope="module")
def large():
    torch.manual_seed(0)
    return build("maskrcnn_resnet50_fpn_v2", CATEGORIES)


def _image(height=96, width=96):
    return torch.randint(
        0, 255, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


def _sample(tmp_path, items, **size):
    tile = write_tile(tmp_path, "r0000_c0000", items, **size)
    return TileDataset([tile], CATEGORIES, Recipe())[0]


def test_every_network_has_a_builder():
    assert set(BUILDERS) == set(NETWORKS)
    assert Recipe().network == "maskrcnn_resnet50_fpn_v2"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_and_finds(tmp_path, monkeypatch, small, large, network):
    built = {model.network: model for model in (small, large)}
    model = built.get(network) or build(network, CATEGORIES)
    image, target = _sample(tmp_path, [item(4, 4, 40, 40), item(44, 40, 62, 60, None)], width=64, height=64)
    losses = model.train()([image], [target])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    monkeypatch.setattr(model.roi_heads, "score_thresh", 0.0)
    with torch.inference_mode():
        (found,) = model.eval()([_image(64, 64)])
    assert found["probabilities"].shape == (len(found["boxes"]), 3) and len(found["boxes"])
    assert found["masks"].shape == (len(found["boxes"]), 1, 28, 28)


def test_default_network_is_torchvisions(large):
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4).state_dict()
    ours = large.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: v.shape for name, v in theirs.items()
    }


def test_default_network_computes_what_torchvisions_does():
    """Same weights, same size: the same best box, with the same probability."""
    torch.manual_seed(0)
    mine = build("maskrcnn_resnet50_fpn_v2", CATEGORIES)
    mine.roi_heads.score_thresh, mine.roi_heads.nms_thresh = 0.0, 1.0
    mine.rpn._post_nms_top_n["testing"] = 30
    theirs = maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=96,
        box_score_thresh=0.0, box_nms_thresh=1.0, rpn_post_nms_top_n_test=30,
    )  # fmt: skip
    theirs.load_state_dict(mine.state_dict())
    with torch.inference_mode():
        (mine_found,) = mine.eval()([_image()])
        (found,) = theirs.eval()([_image().float() / 255])
    best = found["scores"].argmax()
    distances = (mine_found["boxes"] - found["boxes"][best]).abs().amax(dim=1)
    same = distances.argmin()
    assert distances[same] < 1e-2
    probability = mine_found["probabilities"][same, found["labels"][best] - 1]
    assert probability == pytest.approx(found["scores"][best].item(), abs=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (100, 75)])
def test_input_keeps_its_size(small, size):
    images, _ = small.transform([_image(*size)])
    assert images.image_sizes == [size]
    padded = images.tensors.shape[-2:]
    assert all(side % 32 == 0 and side - 32 < given <= side for given, side in zip(size, padded, strict=True))
    expected = (_image(*size)[0].float() / 255 - 0.485) / 0.229
    assert torch.allclose(images.tensors[0, 0, : size[0], : size[1]], expected, atol=1e-6)


def test_probabilities_of_all_categories_survive(small):
    heads = small.roi_heads
    torch.manual_seed(1)
    proposals = torch.rand(40, 4) * 40
    proposals[:, 2:] += proposals[:, :2] + 8
    logits, deltas = torch.randn(40, 4) * 2, torch.randn(40, 16) * 0.1
    (boxes,), (probabilities,), (labels,) = heads.postprocess_detections(
        logits, deltas, [proposals], [(96, 96)]
    )
    softmax = logits.softmax(1)
    assert 0 < len(boxes) < 40
    for box, row, label in zip(boxes, probabilities, labels, strict=True):
        (source,) = torch.where((softmax[:, 1:] == row).all(dim=1))[0]
        assert label == row.argmax() + 1
        decoded = heads.box_coder.decode(deltas, [proposals])[source, label].clamp(0, 96)
        assert torch.allclose(box, decoded)
    foreground = probabilities.sum(1)
    assert (foreground.diff() <= 1e-6).all()
    assert len(nms(boxes, foreground, heads.nms_thresh)) == len(boxes)


def test_one_building_of_two_minds_is_one_detection(small):
    proposals = torch.tensor([[10.0, 10, 50, 50], [11, 10, 50, 50]])
    logits = torch.tensor([[0.0, 3, 0, 0], [0, 0, 0, 4]])
    (boxes,), (probabilities,), (labels,) = small.roi_heads.postprocess_detections(
        logits, torch.zeros(2, 16), [proposals], [(96, 96)]
    )
    assert labels.tolist() == [3] and boxes.tolist() == [[11, 10, 50, 50]]
    assert probabilities.shape == (1, 3)


def test_anchors_in_ignore_boxes_are_neither(small):
    anchors = torch.tensor(
        [[10.0, 10, 30, 30], [12, 12, 22, 22], [60, 60, 80, 80], [24, 10, 44, 30], [70, 0, 90, 20]]
    )
    target = {
        "boxes": torch.tensor([[60.0, 60, 80, 80]]),
        "ignore_boxes": torch.tensor([[10.0, 10, 30, 30]]),
        "seed": 0,
    }
    (labels,), _ = small.rpn.assign_targets_to_anchors([anchors], [target])
    assert labels.tolist() == [-1, -1, 1, 0, 0]
    nothing = target | {"boxes": torch.zeros(0, 4)}
    (labels,), _ = small.rpn.assign_targets_to_anchors([anchors], [nothing])
    assert labels.tolist() == [-1, -1, 0, 0, 0]


def test_proposals_in_ignore_boxes_are_neither(small):
    proposals = torch.tensor([[10.0, 10, 30, 30], [60, 60, 80, 80], [76, 0, 96, 20]])
    target = {
        "boxes": torch.tensor([[60.0, 60, 80, 80]]),
        "labels": torch.tensor([2]),
        "ignore_boxes": torch.tensor([[0.0, 0, 85, 85]]),
        "seed": 0,
    }
    boxes, labels, items = small.roi_heads.sample_proposals(proposals, target)
    assert boxes.tolist() == [[60, 60, 80, 80], [76, 0, 96, 20], [60, 60, 80, 80]]
    assert labels.tolist() == [2, 0, 2] and items[labels > 0].tolist() == [0, 0]


@pytest.mark.parametrize("network", ["maskrcnn_small", "maskrcnn_resnet50_fpn_v2"])
@pytest.mark.parametrize(
    "items", [[], [item(0, 0, 64, 64, visible_share=0.1)]], ids=["empty", "ignored from edge to edge"]
)
def test_tiles_without_anything_to_learn(tmp_path, small, large, network, items):
    model = (small if network == "maskrcnn_small" else large).train()
    image, target = _sample(tmp_path, items, width=64, height=64)
    losses = model([image], [target])
    assert all(value.isfinite() for value in losses.values())
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    # Several processes wait for the gradient of every parameter.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_tiles_sample_is_its_own(small):
    """Whatever is in the batch with it, and whatever the global random state is."""
    labels, share = torch.randint(-1, 3, (4000,)), small.rpn.fg_bg_sampler
    chosen = sample(labels, share, 5)
    torch.manual_seed(99)
    assert torch.equal(chosen, sample(labels, share, 5)) and not torch.equal(chosen, sample(labels, share, 6))
    assert (chosen > 0).sum() == (chosen == 0).sum() == share.batch_size_per_image // 2
    assert ((chosen == labels) | (chosen == -1)).all()
    rare = torch.zeros(4000)
    rare[:3] = 1
    chosen = sample(rare, share, 5)
    assert (chosen == 1).sum() == 3 and (chosen == 0).sum() == share.batch_size_per_image - 3


def test_losses_are_torchvisions_where_everything_is_sampled(tmp_path, monkeypatch, small):
    image, target = _sample(tmp_path, [item(4, 4, 40, 40), item(44, 40, 62, 60, "foundation")])
    targets = [target, _sample(tmp_path, [])[1]]
    model = small.train()
    for part in (model.rpn, model.roi_heads):
        monkeypatch.setattr(part, "fg_bg_sampler", BalancedPositiveNegativeSampler(10**6, 0.5))
    with torch.no_grad():
        images, _ = model.transform([image, _image()])
        features = model.backbone(images.tensors)
        proposals, mine = model.rpn(images, features, targets)
        _, more = model.roi_heads(features, proposals, images.image_sizes, targets)
        monkeypatch.setattr(TileRPN, "compute_loss", RegionProposalNetwork.compute_loss)
        _, theirs = model.rpn(images, features, targets)
        _, rest = RoIHeads.forward(model.roi_heads, features, proposals, images.image_sizes, targets)
    torch.testing.assert_close(mine | more, theirs | rest, rtol=1e-4, atol=1e-6)
    assert set(mine | more) == LOSSES


def test_fitted_anchors_are_part_of_the_network():
    sizes = [[10, 14], [20, 28], [40, 56]]
    model = build("maskrcnn_small", CATEGORIES, anchor_sizes=sizes)
    assert model.arguments == {"anchor_sizes": sizes}
    assert model.rpn.anchor_generator.sizes == ((10, 14), (20, 28), (40, 56))
    for wrong in ([[10, 14]], [[10], [20], [40]], [[10, 0], [20, 28], [40, 56]], "sizes", 3):
        with pytest.raises(WeightsError, match="anchor sizes per level"):
            build("maskrcnn_small", CATEGORIES, anchor_sizes=wrong)


def test_batch_norms_freeze():
    backbone = build("maskrcnn_resnet50_fpn_v2", CATEGORIES, frozen_norms="backbone")
    kinds = {type(module) for module in backbone.backbone.body.modules()}
    assert FrozenNorm in kinds and torch.nn.BatchNorm2d not in kinds
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())
    whole = build("maskrcnn_resnet50_fpn_v2", CATEGORIES, frozen_norms="all")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in whole.modules())


def test_frozen_norms_are_torchvisions_and_keep_the_precision_of_maps():
    chance = torch.Generator().manual_seed(0)
    values = {name: torch.rand(8, generator=chance) + 0.5 for name in ("weight", "running_var")}
    values |= {name: torch.randn(8, generator=chance) for name in ("bias", "running_mean")}
    ours, theirs = FrozenNorm(8), FrozenBatchNorm2d(8)
    ours.load_state_dict(values)
    theirs.load_state_dict(values)
    maps = torch.randn(2, 8, 5, 5, generator=chance, requires_grad=True)
    torch.testing.assert_close(ours(maps), theirs(maps))
    slopes = [torch.autograd.grad(norm(maps).square().sum(), maps)[0] for norm in (ours, theirs)]
    torch.testing.assert_close(*slopes)
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(maps.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), theirs(maps), rtol=2e-2, atol=2e-2)


def test_stride_in_1x1():
    model = build("maskrcnn_resnet50_fpn_v2", CATEGORIES, backbone_stride_in_1x1=True)
    for stage in ("layer2", "layer3", "layer4"):
        block = getattr(model.backbone.body, stage)[0]
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_unknown_names_are_refused():
    with pytest.raises(WeightsError, match=r"unknown network .found 'maskrcnn_huge'.*maskrcnn_small"):
        build("maskrcnn_huge", CATEGORIES)
    with pytest.raises(WeightsError, match="unknown argument"):
        build("maskrcnn_small", CATEGORIES, backbone_stride_in_1x1=True)

import copy
import shutil
import sys

import numpy as np
import pytest
import torch
from painted_tiles import CATEGORIES

from models import memory, predict
from models.errors import DeviceError, PredictionError
from models.maskrcnn import build
from models.predict import Predictor
from models.weights import WeightsMetadata, weights_digest, write_weights


class Cramped(torch.nn.Module):
    """A network on a device whose memory holds `room` images."""

    def __init__(self, model, room):
        super().__init__()
        self.model, self.room, self.sizes = model, room, []
        self.network, self.categories, self.roi_heads = model.network, model.categories, model.roi_heads

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.model(images)


class CrampedBackbone(torch.nn.Module):
    """A backbone on a device whose memory holds `room` images."""

    def __init__(self, backbone, room):
        super().__init__()
        self.backbone, self.room, self.sizes = backbone, room, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.backbone(images)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("maskrcnn_small", CATEGORIES)


def _images(count, height=64, width=96):
    return np.random.default_rng(1).integers(0, 255, (count, 3, height, width), dtype=np.uint8)


def test_prediction_arrays(model):
    predictions = Predictor(model, "cpu", score_threshold=0.0, detections_per_tile=7).predict(_images(2))
    assert len(predictions) == 2
    for prediction in predictions:
        found = len(prediction.scores)
        assert 0 < found <= 7
        shapes = {name: getattr(prediction, name).shape for name in prediction._fields}
        assert shapes == {
            "boxes": (found, 4), "scores": (found,), "probabilities": (found, 3), "masks": (found, 28, 28),
        }  # fmt: skip
        assert all(values.dtype == np.float32 for values in prediction)
        assert (prediction.boxes >= 0).all() and (prediction.boxes <= (96, 64, 96, 64)).all()
        assert (prediction.scores == prediction.probabilities.max(axis=1)).all()
        assert (prediction.probabilities.sum(axis=1) <= 1 + 1e-6).all()
        assert (np.diff(prediction.probabilities.sum(axis=1)) <= 1e-6).all()
        assert prediction.masks.min() >= 0 and prediction.masks.max() <= 1


def test_nothing_found_and_nothing_asked(model):
    predictor = Predictor(model, "cpu", score_threshold=0.999)
    (prediction,) = predictor.predict(_images(1))
    assert prediction.boxes.shape == (0, 4) and prediction.probabilities.shape == (0, 3)
    assert prediction.masks.shape == (0, 28, 28)
    assert predictor.predict(_images(0)) == []


def test_batches_are_halved_until_they_fit(model):
    cramped = Cramped(model, room=2)
    predictor = Predictor(cramped, "cpu", score_threshold=0.0)
    alone = [Predictor(model, "cpu", score_threshold=0.0).predict(image[None])[0] for image in _images(7)]
    together = predictor.predict(_images(7))
    assert cramped.sizes == [7, 4, 2, 2, 2, 1] and len(together) == 7
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one.boxes, other.boxes, atol=1e-3)
    cramped.sizes.clear()
    predictor.predict(_images(4))
    assert cramped.sizes == [2, 2]


def test_one_image_too_large_is_said(model):
    with pytest.raises(
        PredictionError, match=r"one image alone exceeds the memory .found .64, 96.*smaller tiles"
    ):
        Predictor(Cramped(model, room=0), "cpu").predict(_images(4))


@pytest.mark.parametrize(
    "images", [_images(1).astype(np.float32), _images(1)[0], _images(1).transpose(0, 2, 3, 1)]
)
def test_other_arrays_are_refused(model, images):
    with pytest.raises(PredictionError, match="uint8"):
        Predictor(model, "cpu").predict(images)


def test_half_precision_keeps_boxes_exact(model):
    """bfloat16 geometry would round coordinates near 500 px to multiples of 2."""
    images = _images(1, 512, 512)
    predictor = Predictor(model, "cpu", "bfloat16", score_threshold=0.0)
    boxes = predictor.predict(images)[0].boxes
    large = boxes[(boxes > 256) & (boxes < 512)]
    assert len(large) > 10 and (large % 1 != 0).mean() > 0.9


def test_predictor_knows_its_weights(tmp_path, model):
    path = tmp_path / "weights.h5"
    write_weights(path, model, WeightsMetadata("maskrcnn_small", {}, CATEGORIES))
    predictor = Predictor(path, "cpu", score_threshold=0.0)
    assert (predictor.name, predictor.categories) == ("maskrcnn_small", CATEGORIES)
    assert predictor.digest == weights_digest(path) and len(predictor.digest) == 64
    expected = Predictor(model, "cpu", score_threshold=0.0).predict(_images(1))[0]
    found = predictor.predict(_images(1))[0]
    assert np.array_equal(expected.boxes, found.boxes) and np.array_equal(expected.masks, found.masks)


def test_unknown_devices_are_refused(model):
    with pytest.raises(DeviceError, match="unknown device"):
        Predictor(model, "abacus")
    with pytest.raises(DeviceError, match="no such GPU"):
        Predictor(model, "cuda:99")
    with pytest.raises(DeviceError, match="unknown precision"):
        Predictor(model, "cpu", "float8")


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(model):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    one = Predictor(model, "cuda", "float32", score_threshold=0.0).predict(_images(1))[0]
    other = Predictor(model, "cpu", score_threshold=0.0).predict(_images(1))[0]
    assert np.allclose(np.sort(one.scores)[-5:], np.sort(other.scores)[-5:], atol=1e-3)


def test_fewer_proposals_are_looked_at_when_asked():
    model = build("maskrcnn_small", CATEGORIES)
    seen = []
    model.roi_heads.box_roi_pool.register_forward_hook(
        lambda _module, inputs, _output: seen.append([len(boxes) for boxes in inputs[1]])
    )
    Predictor(model, "cpu").predict(_images(1, 256, 256))
    Predictor(model, "cpu", proposals_per_tile=40).predict(_images(2, 256, 256))
    assert seen[0][0] > 40 and seen[1] == [40, 40]


def test_where_memory_is_short_fewer_images_are_taken_at_once(model, monkeypatch, caplog):
    need = memory.NEEDS["maskrcnn_small"]
    two = need.batch(2, 64 * 96) / (1 - memory.RESERVE) + 1
    monkeypatch.setattr(predict, "free_mib", lambda device: two)
    cramped = Cramped(model, room=2)
    assert len(Predictor(cramped, "cpu").predict(_images(5))) == 5
    assert cramped.sizes == [2, 2, 1] and "2 images at a time, not 5" in caplog.text
    assert memory.tiles_that_fit("maskrcnn_small", 10**6, 0.0) == 1
    assert memory.tiles_that_fit("unheard of", 10**6, 1e6) is None
    assert memory.free_mib(torch.device("cpu")) > 0


def test_memory_that_pytorch_keeps_for_itself_on_a_gpu_is_free(monkeypatch):
    mib = {"memory_reserved": 900, "memory_allocated": 200}
    for name, value in mib.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value * 2**20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100 * 2**20, 1000 * 2**20))
    assert memory.free_mib(torch.device("cuda")) == 800


def test_kept_memory_is_given_back_only_when_it_did_not_suffice(model, monkeypatch):
    events = []

    def predict_batch(batch):
        events.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [None] * len(batch)

    predictor = Predictor(model, "cpu")
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    monkeypatch.setattr(predictor, "_predict_batch", predict_batch)
    monkeypatch.setattr(predict, "free_mib", lambda device: 1e6)
    # While an error is handled, its traceback still holds the tensors.
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append(sys.exception()))
    for _ in range(2):
        assert len(predictor.predict(_images(4))) == 4
    assert events == [4, None, 2, 2, 2, 2]


def test_a_container_s_limit_counts(tmp_path):
    assert memory._group_mib(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_mib(tmp_path) is None
    (tmp_path / "memory.max").write_text(str(300 * 2**20))
    (tmp_path / "memory.current").write_text(str(100 * 2**20))
    (tmp_path / "memory.stat").write_text("anon 0\nactive_file 0\ninactive_file 0\n")
    assert memory._group_mib(tmp_path) == 200
    mib = 2**20
    (tmp_path / "memory.stat").write_text(f"anon {mib}\nactive_file {30 * mib}\ninactive_file {20 * mib}\n")
    assert memory._group_mib(tmp_path) == 250, "what was read of files gives way"


def _compiled(model, room, monkeypatch):
    """A predictor that compiles nothing, but calls its backbone as if, and that backbone."""
    monkeypatch.setattr(torch, "compile", lambda backbone, **_options: backbone)
    monkeypatch.setattr(shutil, "which", lambda _compiler: "/usr/bin/g++")
    again = copy.deepcopy(model)
    again.backbone = cramped = CrampedBackbone(again.backbone, room)
    return Predictor(again, "cpu", score_threshold=0.0, compile=True), cramped


def test_a_compiled_backbone_sees_batches_of_one_size(model, monkeypatch):
    """Every other size would be compiled anew; where memory is short, the size is what fits."""
    plain = Predictor(model, "cpu", score_threshold=0.0).predict(_images(3))
    for room, sizes in ((5, [4, 4, 5]), (3, [4, 2, 2, 2, 2, 2, 2, 2])):
        predictor, cramped = _compiled(model, room, monkeypatch)
        found = [predictor.predict(_images(count)) for count in (4, 3, 5)]
        assert cramped.sizes == sizes and [len(each) for each in found] == [4, 3, 5]
        for one, other in zip(plain, found[1], strict=True):
            assert np.allclose(one.boxes, other.boxes, atol=1e-3)


def test_a_compiled_backbone_is_filled_up_with_images_of_its_size_alone(model, monkeypatch):
    predictor, cramped = _compiled(model, 4, monkeypatch)
    for images in (_images(4), _images(3, 96, 128), _images(1)):
        predictor.predict(images)
    assert cramped.sizes == [4, 3, 4]


def test_a_compiled_backbone_is_no_longer_filled_up_to_what_exceeds_the_memory(model, monkeypatch):
    predictor, cramped = _compiled(model, 4, monkeypatch)
    predictor.predict(_images(4))
    cramped.room = 2
    assert len(predictor.predict(_images(4))) == 4
    assert cramped.sizes == [4, 4, 2, 2]


def test_a_compiled_backbone_leaves_room_to_the_heads(model, monkeypatch):
    def pool(_module, inputs):
        if len(inputs[1]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    predictor, cramped = _compiled(model, 4, monkeypatch)
    predictor._model.roi_heads.register_forward_pre_hook(pool)
    assert len(predictor.predict(_images(4))) == 4
    assert cramped.sizes == [4, 2, 2]


def test_without_a_compiler_it_is_said_before_anything_is_computed(model, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match=r"no C\+\+ compiler.*found 'no-such-compiler'.*compile = false"):
        Predictor(model, "cpu", compile=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, which torch.compile needs on a CPU")
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-4), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    ("network", "arguments"),
    [("maskrcnn_small", {}), ("maskrcnn_resnet50_light", {"frozen_norms": "backbone"})],
)
def test_a_compiled_backbone_finds_the_same(network, arguments, precision, near):
    images = _images(2, 128, 128)

    def found(**options):
        torch.manual_seed(0)
        model = build(network, CATEGORIES, **arguments)
        return Predictor(model, "cpu", precision, score_threshold=0.0, **options).predict(images)

    for one, other in zip(found(), found(compile=True), strict=True):
        assert one.scores[:5] == pytest.approx(other.scores[:5], abs=near)
        if precision == "float32":  # else those that are nearly as good come in any order
            assert one.boxes[:5] == pytest.approx(other.boxes[:5], abs=0.1)

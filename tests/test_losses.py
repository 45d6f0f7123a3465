import pytest
import torch
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from models.losses import box_loss, classification_loss, known_labels, mask_loss

K = 3
UNKNOWN = K + 1


def _logits(rows, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, K + 1, requires_grad=True)


def test_items_of_known_category_cost_what_they_do_in_torchvision():
    logits, offsets = _logits(40), torch.randn(40, 4 * (K + 1))
    labels, wanted = torch.randint(0, K + 1, (40,)), torch.randn(40, 4)
    naming, boxes = fastrcnn_loss(logits, offsets, [labels], [wanted])
    assert classification_loss(logits, labels).item() == pytest.approx(naming.item(), rel=1e-5)
    rows = torch.where(labels > 0)[0]
    taught = known_labels(labels, logits)[rows]
    assert torch.equal(taught, labels[rows])
    mine = box_loss(offsets.reshape(40, K + 1, 4)[rows, taught], wanted[rows], labels)
    assert mine.item() == pytest.approx(boxes.item(), rel=1e-5)


def test_masks_cost_what_they_do_in_torchvision():
    torch.manual_seed(1)
    masks = [torch.randint(0, 2, (2, 32, 32), dtype=torch.uint8), torch.zeros(0, 32, 32, dtype=torch.uint8)]
    boxes = [torch.tensor([[2.0, 3, 20, 22], [5, 5, 30, 31], [0, 0, 9, 9]]), torch.zeros(0, 4)]
    items = [torch.tensor([0, 1, 1]), torch.zeros(0, dtype=torch.int64)]
    labels, logits = torch.tensor([2, 1, 1]), torch.randn(3, K + 1, 28, 28)
    theirs = maskrcnn_loss(logits, boxes, masks, [torch.tensor([2, 1]), torch.zeros(0).long()], items)
    assert mask_loss(logits, labels, boxes, masks, items).item() == pytest.approx(theirs.item(), rel=1e-5)
    nothing = mask_loss(logits[:0], labels[:0], [b[:0] for b in boxes], masks, [i[:0] for i in items])
    assert nothing.item() == 0


def test_an_item_of_unknown_category_is_asked_to_be_any():
    logits = _logits(6)
    loss = classification_loss(logits, torch.full((6,), UNKNOWN))
    probability = logits.softmax(1)[:, 1:].sum(1)
    assert loss.item() == pytest.approx(-probability.log().mean().item(), rel=1e-5)


def test_an_unknown_category_pulls_from_background_and_takes_no_side():
    """The gradient raises every category by its own share of the pull, so that none is preferred."""
    logits = _logits(6)
    classification_loss(logits, torch.full((6,), UNKNOWN)).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()
    shares = logits.grad[:, 1:] / logits.grad[:, 1:].sum(1, keepdim=True)
    assert torch.allclose(shares, logits.detach()[:, 1:].softmax(1), atol=1e-5)
    assert torch.allclose(logits.grad.sum(1), torch.zeros(6), atol=1e-6)


def test_gradients_hold_numerically():
    logits = torch.randn(5, K + 1, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, UNKNOWN, 3, UNKNOWN])
    assert torch.autograd.gradcheck(lambda x: classification_loss(x, labels), logits)


def test_the_likeliest_category_learns_box_and_mask_of_an_unknown_one():
    logits = torch.tensor([[9.0, 0, 2, 1], [0, 0, 0, 5], [1, 1, 1, 1]])
    labels = torch.tensor([UNKNOWN, UNKNOWN, 3])
    assert known_labels(labels, logits).tolist() == [2, 3, 3]

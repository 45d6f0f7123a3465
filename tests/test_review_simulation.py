"""The loop closed by a scripted reviewer: what choosing by doubt is worth beside choosing by chance."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import bench_review


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiles_chosen_by_doubt_teach_more_than_tiles_by_chance(capsys):
    found = bench_review.simulate()
    with capsys.disabled():
        print("\n" + bench_review.table(found))
    doubt, chance = (found[name][:, -1, 0] for name in ("doubt", "chance"))
    assert np.array_equal(found["doubt"][:, 0], found["chance"][:, 0]), "both begin with the same tiles"
    assert doubt.mean() > chance.mean()

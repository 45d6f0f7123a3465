"""What people drew as buildings, whatever the tool: one valid polygon each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from pipeline.review.records import ReviewedBuilding

LEFTOVER_SHARE = 0.05
"""Share of an outline that crosses itself below which a part of it is the crossing's leftover."""
_POLYGON = int(shapely.GeometryType.POLYGON)


def one_polygon_each(buildings: Sequence[ReviewedBuilding]) -> list[ReviewedBuilding]:
    """The buildings with a valid polygon each, without those of which nothing has an area.

    Several parts are several buildings, as in label files: the largest is the proposal's, the others are new.
    """
    outlines = np.array([building.polygon_px for building in buildings], dtype=object)
    crossed = ~shapely.is_valid(outlines)
    outlines[crossed] = shapely.make_valid(outlines[crossed], method="structure", keep_collapsed=False)
    parts, owners = shapely.get_parts(outlines, return_index=True)
    parts, inner = shapely.get_parts(parts, return_index=True)  # a collection may hold multipolygons
    owners = owners[inner]
    areas = np.where(shapely.get_type_id(parts) == _POLYGON, shapely.area(parts), 0.0)
    whole = np.bincount(owners, areas, minlength=len(outlines))
    kept = areas > np.where(crossed, LEFTOVER_SHARE * whole, 0.0)[owners]
    largest_first = np.lexsort((-areas, owners))
    drawn, seen = [], set[int]()
    for place in largest_first[kept[largest_first]]:
        building = buildings[owners[place]]._replace(polygon_px=parts[place])
        drawn.append(building._replace(proposal=None) if owners[place] in seen else building)
        seen.add(owners[place])
    return drawn

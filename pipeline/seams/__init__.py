"""Seams: what overlapping tiles saw becomes one polygon per building.

The order of the work is the order of the modules::

    records     the knobs, what goes in and what comes out
    agreement   which pairs of detections look like one building where both tiles could see it
    joining     which groups of detections are one building
    fusion      one polygon, one probability vector and one status for each group
    cleanup     what the buildings still cover twice goes to the stronger one
    sweep       all of it, at once (`merge`) or row by row of tiles (`merge_stream`)

Everything is a function of arrays: the same detections give the same bytes in any order, in one
piece or streamed.
"""

from pipeline.seams.records import Buildings, Detections, MergeRules
from pipeline.seams.sweep import merge, merge_stream

__all__ = ["Buildings", "Detections", "MergeRules", "merge", "merge_stream"]

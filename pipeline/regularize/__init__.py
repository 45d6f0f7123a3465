"""Regularised footprints: ragged outlines of masks become the walls of buildings.

The order of the work is the order of the modules::

    rules       the knobs, the statuses, and what the stages hand on
    grouping    rows that belong together
    outlines    outlines as points at equal steps, and the direction most of their walls run in
    division    which points each wall stands for: the fewest walls that say where an outline runs
    walls       the walls of outlines in given directions, and the directions made exact
    acceptance  what a regular shape must keep of the outline as found
    shapes      right angles, diagonals and circles: the shape of each building
    sides       walls of neighbours: shared ones fall on one line, crossing ones step back
    clearing    until no shape overlaps another building
    sweep       all of it, at once (`regularize`) or from top to bottom (`regularize_stream`)

Everything is a function of arrays: the same outlines give the same bytes in any order, in one
piece or streamed.
"""

from pipeline.regularize.rules import RegularizeRules
from pipeline.regularize.sweep import regularize, regularize_stream

__all__ = ["RegularizeRules", "regularize", "regularize_stream"]

"""One self-contained page about an image: what was found, how well, where it went wrong, what to do next.

::

    context     what the page tells; nothing it has to look up
    pyramid     the imagery as small tiles of a bounded size
    vectors     outlines for the map and for the overview, of a bounded size
    gallery     which buildings are worth a look from near
    cards       what is drawn over their pictures, and said below
    wording     verdicts in words
    charts      numbers as lines and bars
    advice      what to do next
    page        all of it as HTML

The page asks nothing of any network and is the same for the same context. Its layout lies in `layout/`,
where everything that comes from outside is escaped; its map is Leaflet, in `leaflet/` with its licence.
A page holds at most `MAX_PAGE_MIB`, however large the image is.
"""

from pipeline.report.context import MAX_PAGE_MIB, ReportContext
from pipeline.report.gallery import Crop, Gallery, Picture, choose_galleries
from pipeline.report.page import render_report
from pipeline.report.pyramid import Pyramid, build_pyramid

__all__ = [
    "MAX_PAGE_MIB",
    "Crop",
    "Gallery",
    "Picture",
    "Pyramid",
    "ReportContext",
    "build_pyramid",
    "choose_galleries",
    "render_report",
]

"""How the sample scene is painted: planned in metres, put onto a canvas with brushes.

`settlement` plans, `scenery` paints the plan onto a `canvas` with `brushes`; `pipeline.sample`
is the door to it.
"""

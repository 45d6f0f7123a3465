"""How the sample scene is painted: planned in metres, put onto a canvas with brushes.

`settlement` plans, `scenery` paints the plan onto a `canvas` with `brushes`: that is a `scene`, and
`digitising` draws its labels. `pipeline.sample` is the door to it.
"""

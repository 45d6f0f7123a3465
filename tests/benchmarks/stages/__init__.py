"""One module per stage of the pipeline; `rows()` of each runs the peers and ours on the same work."""

"""The proof of the seams: what merging rules make of what a network sees tile by tile.

The order of the work is the order of the modules::

    scenes      true footprints: real ones, painted ones, and three kinds of trouble
    network     what a network sees of them in each tile
    peers       what plain rules make of that, and what ours makes of it
    libraries   what other people's libraries make of it
    score       how near that is to the truth
    trial       one run of a rule, its time and memory
    comparison  every rule on the same detections
    growth      time and memory as the number of detections grows
    results     everything that is run
    targets     what is asked of it
    tables      all of it as Markdown

    python -m tests.benchmarks.seams [--quick] [--write]
"""

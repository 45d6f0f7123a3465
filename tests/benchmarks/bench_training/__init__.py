"""What learning is worth: our recipe beside torchvision's, and with each of its pieces taken away.

Every network learns on two thirds of a set's ground and is scored on the third it never saw, by the
challenge's metric and after the real aggregation: tiles, labels, pairs, training, calibration, inference,
merging and evaluation are the steps of the graph. Thirds lie side by side, and each is held out in turn.

- `grounds`: the sets, and which ground a fold learns from and is scored on.
- `contenders`: who takes part, and what each changes.
- `reference`: torchvision's reference training, as its script does it.
- `trial`: one contender on one fold.
- `schedule`: several trials at a time, what was done before left alone.
- `tables`: what comes of it, as Markdown.
"""

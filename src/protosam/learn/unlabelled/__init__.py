"""Learning from images without labels: the strategies, by name.

`methods` lists them. Three teach the adapter: they are terms of the recipe's loss (`terms`). Two
teach a small network of their own beside the frozen model (`mean_teacher`). All see images
alone: `pool` reads no label file, and its values have no place for one.
"""

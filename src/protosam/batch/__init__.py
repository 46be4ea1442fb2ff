"""Many series, one after the other or side by side: a queue that loses none and repeats none."""

"""Calibration: the whole measurement on experiments whose answer is known.

    model -> twins, dead concepts, null arms -> experiments -> [checks] on their results and files

A twin (see `twins`) computes the same as the model in other coordinates, so the right transfer map is known, every vector
through it must be native's and the recovered fraction 1. Where pairs are shuffled, concepts are dead or arms are random, there
is nothing to find, and no verdict may say that there is.
"""

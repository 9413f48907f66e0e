"""The update rule and the schedule of the learning rate.

In: settings (``OptimConfig``), gradients, the epochs done and validation errors. Out: updated
weights. Start with ``schedule`` (which rate at which moment, a pure function), then ``sgd`` (the
paper's update).
"""

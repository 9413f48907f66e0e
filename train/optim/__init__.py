"""The update rule and the schedule of its rate."""

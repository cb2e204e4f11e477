"""Has the traffic moved away from what a model was trained on: inputs, scores, unseen items, calibration."""

"""From a sample of the past to a bundle: labels, windows, fine-tuning, calibration, evaluation."""

"""What changed: policy agreement, distance from the model before, perplexity on what had to stay."""

from realigner.evaluate.statistics import clustered_proportion, mean_interval, paired_change, proportion, ratio_interval

__all__ = ["clustered_proportion", "mean_interval", "paired_change", "proportion", "ratio_interval"]

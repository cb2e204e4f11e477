"""Is a bundle better than what one could have without it: rivals, slices, paired differences, the report."""

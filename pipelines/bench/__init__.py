"""The comparison of systems on one data set, in one harness."""

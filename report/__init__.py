"""Data and run folders -> plots and pages that open anywhere: exploration, run report, comparison."""

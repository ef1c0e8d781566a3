"""Side-by-side comparison of one layer library with another, case by case."""

"""lm-eval's guest."""

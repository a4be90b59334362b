"""What the numbered scripts share, and nothing else."""

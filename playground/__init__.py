"""What the numbered scripts share, and nothing else."""

import os

# PyTorch's threads wait for each other by spinning, which holds the cores that they wait for: where another program is
# busy on one of two cores, sampling took over 12 times as long as with threads that sleep. On idle cores it is the
# same. Read when torch is loaded, and so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

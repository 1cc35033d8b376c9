"""What ``python -m fusednorm`` runs: the demo, and the statistics of files."""

"""How fast and how small equipoise is beside its peers: `python -m benchmarks.run`."""

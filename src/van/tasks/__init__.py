"""One folder per task: its options, data, loss, metrics and results. van.engine.registry lists them."""

"""The functions of van.analysis, one per module. Their signatures are the command line's options, so they load fast."""

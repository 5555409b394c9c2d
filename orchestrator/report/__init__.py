"""Tables, figures and the page of an experiment, from `results.json` and `curves.json` alone.

Equal input gives equal files, byte for byte: nothing here knows the time, the machine or an order
other than the rows' own.
"""

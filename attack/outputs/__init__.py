"""Tables of model outputs: reading, checking, and the one pass that measures them."""

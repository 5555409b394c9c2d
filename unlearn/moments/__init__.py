"""Second moments of layer inputs and the core gradient spaces made from them."""

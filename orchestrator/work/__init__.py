"""How one unit is made from what it needs. The same code runs inline and on Ray."""

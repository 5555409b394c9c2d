"""Units on Ray. Only this package and `engine.attacker` import Ray."""

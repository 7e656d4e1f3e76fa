"""How fast this is, beside a plain loop and the least that is possible."""

"""Networks that turn a description of the surroundings of an atom into a property of it."""

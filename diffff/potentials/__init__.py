"""Terms of the energy and their sum: kJ/mol out, nm in."""

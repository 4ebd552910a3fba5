"""Force fields as users write them: residues, types, parameter rows."""

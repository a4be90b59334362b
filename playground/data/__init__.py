"""Records: where they come from, and how they are kept apart. What cannot be used is a UserError everywhere here."""

"""What people are shown: plots, tables, pages."""

"""Other people's data, read into this project's records."""

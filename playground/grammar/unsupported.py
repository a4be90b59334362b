class UnsupportedSchema(ValueError):
    """The schema asks for something that this engine would have to ignore; names the JSON pointer and what it is."""

    def __init__(self, pointer, what):
        super().__init__(f"#{pointer}: {what} is not supported")

class UnsupportedSchema(ValueError):
    """The schema asks for something that this engine would have to ignore; names the JSON pointer and what it is."""

    def __init__(self, pointer, what, verdict=" is not supported"):
        super().__init__(f"#{pointer}: {what}{verdict}")


def below(pointer, *parts):
    """The JSON pointer of a place below another (RFC 6901)."""
    return pointer + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)

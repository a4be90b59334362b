"""What TensorBoard has kept."""


def scalars(folder):
    """{name: [(step, value), ...]} of TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(row.step, row.value) for row in events.Scalars(name)] for name in events.Tags()["scalars"]}

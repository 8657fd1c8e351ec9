"""The revision of the base model that an SAE was trained on, as the settings say it with which its model was loaded."""

THOUSANDS = range(1000, 143_001, 1000)  # steps of Pythia
PYTHIA = [0, *(2**power for power in range(10)), *THOUSANDS]
STANFORD = [*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20_000, 100), *range(20_000, 400_001, 1000)]


def stated_revision(name: object, settings: dict) -> str | None:
    """Branch, tag or commit on the hub of the model called `name`; None where it is not stated.

    settings: `revision`, or, of the models whose checkpoints TransformerLens knows, the step of one (`checkpoint_value` or
    `checkpoint_label`) or its number in the list of them (`checkpoint_index`, which goes before).
    """
    if settings.get("revision") is not None:
        return str(settings["revision"])
    if "stanford" in str(name):
        form, steps = "checkpoint-{}", STANFORD
    elif "pythia" in str(name):
        form, steps = "step{}", THOUSANDS if "v0" in str(name) else PYTHIA
    else:
        return None
    index, step = settings.get("checkpoint_index"), settings.get("checkpoint_value", settings.get("checkpoint_label"))
    if type(index) is int and -len(steps) <= index < len(steps):
        step = steps[index]
    return None if step is None else form.format(step)

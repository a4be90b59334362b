"""One constrained request, step by step, as a page of its own."""

from playground.report import html
from playground.report.html import table, text
from playground.run.files import write_jsonl


def write(folder, request, steps, call):
    """trace.html and trace.jsonl of one constrained request into `folder`.

    steps: [{"chosen", "allowed", "removed", "wanted": [(text, share)], "jumped"}].
    """
    write_jsonl(folder / "trace.jsonl", [{"request": request, "text": call}, *steps])
    content = f"<h1>One request under a grammar</h1>\n{steps_of(request, call, steps)}"
    html.write(folder / "trace.html", content)


def steps_of(request, call, steps):
    """The call with what was chosen and what was jumped over in two colours, and a row for each step."""
    pieces = [("chosen", step["chosen"]) for step in steps], [("jumped", step["jumped"]) for step in steps]
    pieces = [piece for pair in zip(*pieces, strict=True) for piece in pair if piece[1]]
    spans = "".join(f'<span class="{kind}">{text(piece)}</span>' for kind, piece in pieces)
    asked = sum(bool(step["wanted"]) for step in steps)
    note = html.note(
        f"The model was asked {asked} times. What it chose is underlined; what the grammar left no choice in, and so "
        "was never asked, is grey. Removed: the model's probability of all tokens that would have broken the text."
    )
    rows = []
    for step in steps:
        if step["wanted"]:
            bar = f'<span class="bar"><i style="width:{100 * step["removed"]:.1f}%"></i></span> {step["removed"]:.1%}'
            wanted = " ".join(f"<code>{text(repr(token))}</code> {share:.0%}" for token, share in step["wanted"])
            rows.append([f"<code>{text(repr(step['chosen']))}</code>", f"{step['allowed']:,}", bar, wanted,
                         f"<code>{text(step['jumped'])}</code>" if step["jumped"] else ""])  # fmt: skip
    columns = ["chosen", "allowed tokens", "removed", "the model's favourites", "then jumped over"]
    asked_for = f'<p><b>{text(request)}</b></p><pre class="call">{spans}</pre>'
    return asked_for + note + table(columns, rows, 'class="steps"')

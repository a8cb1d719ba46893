"""Blocks of README.md that tools generate, between <!-- name --> and <!-- /name -->."""


def _cut(text, name):
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"the README needs one line {start} and, after it, one line {end}")
    before, rest = text.split(start)
    inside, after = rest.split(end)
    return before + start, inside, end + after


def block(path, name):
    """What lies between the marks, without empty lines around it. Raises ValueError when there are none."""
    return _cut(path.read_text(), name)[1].strip("\n")


def replace_block(path, name, content):
    """Put `content` between the marks of a Markdown file. Raises ValueError when there are no such marks."""
    before, _, after = _cut(path.read_text(), name)
    path.write_text(f"{before}\n{content}\n{after}")

"""What a mutation is."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """file: from the root. text: stands in it once. tests: arguments of pytest, one of which must fail."""

    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def __str__(self):
        """One line: the file and what changes, in short."""
        old, new = (" ".join(part.split()) for part in (self.text, self.replacement))
        return f"{self.file}: {old}  ->  {new}"


def mutations(file: str, tests, *edits) -> list[Mutation]:
    """Mutations of one file. An edit is (text, replacement), or (text, replacement, tests) with tests of its own."""
    return [Mutation(file, edit[0], edit[1], tuple(edit[2] if len(edit) > 2 else tests)) for edit in edits]

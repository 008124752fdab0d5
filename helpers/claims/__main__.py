"""The command line of the ledger.

python -m helpers.claims             # every claim, measured
python -m helpers.claims 03 int-HP   # those of a chapter, or single ones
python -m helpers.claims --readme    # every claim; the README's table is written anew
"""

import sys
from pathlib import Path

from helpers import ReaderError
from helpers.claims import check
from helpers.files import DATA, write_atomically

BEGIN, END = "<!-- ledger: python -m helpers.claims --readme -->", "<!-- end of the ledger -->"


def table_in(readme: str) -> str:
    """What stands between the two marks.

    Raises:
        ReaderError: the marks are not there.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ReaderError(f"README.md has lost its marks '{BEGIN}' and '{END}': put them back around the table.")
    return readme.split(BEGIN)[1].split(END)[0].strip()


def write_table(file: Path, table: str) -> None:
    """Put ``table`` between the marks of a README."""
    readme = file.read_text("utf8")
    old = table_in(readme)
    write_atomically(file, lambda f: f.write(readme.replace(old, table).encode()))


def main(arguments: list[str]) -> None:
    """The command line. Raises ReaderError for an unknown claim, or a README without its marks."""
    if arguments == ["--readme"]:
        write_table(DATA.parent / "README.md", repr(check().summary))
    elif {"-h", "--help"} & set(arguments):
        print(__doc__)
    else:
        print(check(*arguments))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ReaderError as error:
        sys.exit(str(error))

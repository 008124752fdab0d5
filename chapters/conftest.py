"""How pytest compares the chapters with what they printed before (by nbval, see pyproject.toml).

Compared is what tests/execute.py keeps in a notebook. Left out are HTML and JavaScript, whose ids
differ from run to run, and pictures: the cells assert the numbers behind them. Where some of the
book's text is missing (Python 3.12 and later have no numpy.distutils, one file in a hundred), what
is printed is not compared, and the cells' own asserts are all there is.
"""

from nbval.plugin import IPyNbCell, IPyNbFile

from tests.execute import stays

SECONDS_BETWEEN_OUTPUTS = 60  # nbval's own 5 are too few on a busy machine


def pytest_collectstart(collector):
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("text/html", "application/javascript")


def pytest_collection_modifyitems(items):
    from helpers.corpus import locate, read_manifest  # not before tests/conftest.py has its hook

    complete = all(locate(file.path) for file in read_manifest())
    for cell in items:
        if isinstance(cell, IPyNbCell):
            cell.output_timeout = SECONDS_BETWEEN_OUTPUTS
            cell.options["check"] = complete and cell.options["check"]
            cell.compare_outputs = _without_what_is_not_kept(cell.compare_outputs)


def _without_what_is_not_kept(compare):
    return lambda outputs, saved: compare([output for output in outputs if stays(output)], saved)

"""Markdown as HTML that needs no script: formulas become MathML, which browsers draw by themselves.

JupyterLab's *File → Save and Export Notebook As → HTML* calls ``markdown2html`` by its name in
``data/jupyter/jupyter_config.json``, and the template beside it, which come with the installation of the book. The
server imports this module then, so it needs nothing large.
"""

import base64
import html
import mimetypes
import re
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from helpers import ReaderError

ELEMENTS = set("math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd "
               "mtext mtr munder munderover".split())  # fmt: skip
ALONE = "&#x0002F; &#x0007C; &#x02016;".split()  # / | ‖, around which TeX leaves no space
MEND = [
    (r"<mo>([a-zA-Z]{2,})</mo>", r"<mi>\1</mi>"),
    (r"(<mi>[a-zA-Z]{2,}</mi>)(?=<mi|<mn|<msu)", r'\1<mspace width="0.167em" />'),
    (rf'<mo(?: stretchy="false")?>({"|".join(ALONE)})</mo>', r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>'),
    ('width="negativethinmathspace"', 'width="-0.167em"'),
]  # in the order in which they are done
TOGETHER = re.compile(
    r'[(\[]?<math (?:(?!</math>|display="block").)*</math>(?:[),.;:?!]|’s)+', re.DOTALL
)  # on one line


def mathml(tex: str, display: str = "inline") -> str:
    """A formula as MathML, "inline" or as a "block"; as TeX in code type if it has what we cannot read.

    Raises:
        ReaderError: latex2mathml is not installed.
    """
    try:
        from latex2mathml.converter import convert
    except ImportError as error:
        raise ReaderError("Formulas need latex2mathml: run 'python -m pip install -r requirements.txt'.") from error
    try:
        found = convert(tex.replace("{aligned}", "{split}"), display=display)
        elements = {element.tag.split("}")[1] for element in ElementTree.fromstring(found).iter()}
    except Exception:  # the converter has a class of its own for each mistake, and lets Python's through
        return as_code(tex)
    if not elements <= ELEMENTS or re.search(r"<mi>\\|\shref=", found):
        return as_code(tex)
    for pattern, mended in MEND:
        found = re.sub(pattern, mended, found)
    return found.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)


def as_code(tex: str) -> str:
    return f"<code>{html.escape(tex.strip())}</code>"


class Renderer(IPythonRenderer):
    """nbconvert's renderer of Markdown, but for formulas and for the names of headings, which are those of GitHub."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return f'<span class="formula">{mathml(body, "block")}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        alone = name.startswith("equation")
        return self.block_math(body if alone else rf"\begin{{{name}}}{body}\end{{{name}}}")

    def image(self, text: str, url: str, title: str | None = None) -> str:
        file, kind = Path(self.path, url), mimetypes.guess_type(url)[0] or ""
        if kind.startswith("image/") and "://" not in url and file.is_file():
            url = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        return super().image(text, url, title)

    def heading(self, text: str, level: int, **_) -> str:
        words = re.sub("<[^>]*>", "", re.sub(r'<math alttext="([^"]*)".*?</math>', r"\1", text))
        name = re.sub(r"[^\w -]", "", html.unescape(words).lower()).replace(" ", "-")
        return f'<h{level} id="{name}">{text}</h{level}>\n'


@pass_context
def markdown2html(context: Context, source: str) -> str:
    """A cell or an output in Markdown as HTML: nbconvert's filter of this name, with formulas and pictures in it."""
    attachments = context.get("cell", {}).get("attachments", {})
    path = context.get("resources", {}).get("metadata", {}).get("path", "")
    renderer = Renderer(escape=False, attachments=attachments, path=path)
    return TOGETHER.sub(r'<span class="together">\g<0></span>', MarkdownWithMath(renderer=renderer).render(source))

"""Checks in a real browser: JupyterLab in a headless Chromium, driven by Playwright.

    python -m pytest tests/browser                        # the checks; not part of the plain suite
    python -m tests.browser.look chapters/03_*.ipynb OUT  # run a chapter in Lab and take pictures of every part

Both need ``pip install playwright`` and a Chromium (``/usr/bin/chromium``, or ``CHROMIUM=/path/to/it``).
"""

"""Human evaluation: a blind A/B sheet to hand out, and what the ratings that come back say.

`export_sheet` writes sheet.csv and sheet.html, which do not tell the versions apart, and key.json, which does and stays
with whoever asks. `import_ratings` reads the key and the filled files: preference with its interval, and agreement.
"""

from .result import import_ratings
from .sheet import Sheet, export_sheet

__all__ = ["Sheet", "export_sheet", "import_ratings"]

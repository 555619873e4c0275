"""How an answer is judged."""

from cleareyed.scoring.extract import Extraction, extract_choice

__all__ = ["Extraction", "extract_choice"]

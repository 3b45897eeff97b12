"""A model with exact marginals, and the formulas its accuracy must agree with: a test of the whole way from logits to
scores (docs/oracle.md)."""

from dlm.exact_model.model import OracleBackbone, OracleTokenizer, oracle_model
from dlm.exact_model.question import SolvedQuestion, latin_question, list_question, sudoku_question
from dlm.exact_model.ties import PositionTies, TokenTies

# fmt: off
__all__ = [
    "OracleBackbone", "OracleTokenizer", "PositionTies", "SolvedQuestion", "TokenTies", "latin_question",
    "list_question", "oracle_model", "sudoku_question",
]

"""The decode loop and what it touches; it imports models and errors, and nothing above."""

"""Taking committed tokens back."""

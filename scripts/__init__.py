"""Command-line tools of the repository; not part of the wheel."""

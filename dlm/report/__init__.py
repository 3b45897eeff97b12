"""From folders of results to figures, tables, pictures and a page: what ``dlm report`` does."""

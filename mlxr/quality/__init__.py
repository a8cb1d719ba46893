"""What a page format costs in quality, measured on the user's own model against the unquantized cache."""
